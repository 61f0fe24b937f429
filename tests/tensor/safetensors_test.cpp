// safetensors: round trips, the bytes of the format, hostile files.
#include "tensor/safetensors.h"

#include <algorithm>
#include <ctime>
#include <doctest/doctest.h>
#include <fstream>
#include <sstream>

#include "tensor/create.h"
#include "tensor/file.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string length_bytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((length >> (8 * i)) & 0xff);
  return bytes;
}

std::string file_of(const std::string& header, size_t data) {
  return length_bytes(header.size()) + header + std::string(data, '\1');
}

std::string object(const std::string& body) {
  return fmt::format("{{{}}}", body);
}

// One entry of a header.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

}  // namespace

TEST_CASE("safetensors: every dtype and shape comes back, with metadata") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.safetensors");
  SafetensorsFile file;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::u8, DType::i32, DType::i64})
    for (const Shape& shape : {Shape{}, {0}, {3}, {2, 0, 2}, {3, 5}})
      file.tensors[fmt::format("{}{}", name(dtype), shape.str())] = arange(shape.numel(), 0, 1, dtype).reshape(shape);
  file.tensors["a view"] = arange(12).reshape({3, 4}).transpose(0, 1);
  file.metadata = {{"format", "test"}, {"quote\"\n", "\xc3\xa9\t"}};
  write_safetensors(path, file);
  const SafetensorsFile back = read_safetensors(path);
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.tensors.size() == file.tensors.size());
  for (const auto& item : file.tensors) {
    CAPTURE(item.first);
    const Tensor& found = back.tensors.at(item.first);
    CHECK(same_bits(found, item.second));
    CHECK(reinterpret_cast<uintptr_t>(found.bytes()) % size_of(found.dtype()) == 0);
  }
  write_safetensors(path, {});
  CHECK(read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: the bytes are the format's") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.safetensors");
  write_safetensors(path, {{{"w", from_vector<float>({1, 2})}, {"b", from_vector<uint8_t>({7})}}, {{"k", "v"}}});
  const std::string header = R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})";
  const size_t padded = (8 + header.size() + 63) / 64 * 64 - 8;
  const std::string data("\0\0\x80\x3f\0\0\0\x40\x07", 9);
  CHECK(bytes_of(path) == length_bytes(padded) + header + std::string(padded - header.size(), ' ') + data);
}

TEST_CASE("safetensors: malformed and hostile files are one-line errors naming the file") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("bad.safetensors");
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    const std::string message = error_of([&] { read_safetensors(path); });
    CHECK(message.starts_with(path + ": "));
    CHECK(message.size() < path.size() + 300);
    return message.substr(path.size() + 2);
  };
  CHECK(contains(error(""), "not a safetensors file: 0 bytes"));
  CHECK(contains(error("1234567"), "not a safetensors file"));
  CHECK(contains(error(length_bytes(UINT64_MAX) + "{}"), "header of 18446744073709551615 bytes in a file of 10"));
  CHECK(contains(error(length_bytes(3) + "{}"), "header of 3 bytes in a file of 10"));
  CHECK(contains(error(file_of("[]", 0)), "no JSON header"));
  CHECK(contains(error(file_of("", 9)), "no JSON header"));
  CHECK(contains(error(file_of("{\"a\":", 0)), "not JSON at byte"));
  CHECK(contains(error(file_of("{} x", 0)), "not JSON at byte"));
  CHECK(contains(error(file_of(std::string(100'000, '{'), 0)), "malformed header"));
  CHECK(contains(error(file_of("{\"a\":" + std::string(100'000, '['), 0)), "unexpected an array in \"a\""));
  CHECK(contains(error(file_of("{\"a\":{\"shape\":" + std::string(100'000, '['), 0)), "unexpected an array"));
  CHECK(contains(error(file_of("{\"a\":{\"b\":{}}}", 0)), "unknown field \"b\""));
  CHECK(
      contains(error(file_of(R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4)), "unexpected an object"));
  CHECK(contains(error(file_of("{\"a\":null}", 0)), "unexpected null"));
  CHECK(contains(error(file_of("{\"a\\n\\u001b\":{}}", 0)), "tensor \"a\\x0a\\x1b\": expected dtype, shape and"));
  CHECK(contains(error(file_of("{\"__metadata__\":{\"k\":1}}", 0)), "unexpected a number in \"__metadata__\""));
  CHECK(contains(error(file_of("{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", 0)), "duplicate field \"k\""));
  CHECK(contains(error(file_of("{\"__metadata__\":{},\"__metadata__\":{}}", 0)), "duplicate name"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[0,4]")), 3)), "leave the file's 3 bytes"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[0,4]")), 5)), "expected 4 bytes of data, found 5"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[4,0]")), 4)), "data_offsets 4..0"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[0,18446744073709551615]")), 4)), "leave the file"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[-4,0]")), 4)), "unexpected a negative number"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1.5]", "[0,4]")), 4)), "unexpected a fraction"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1]", "[0,4,8]")), 4)), "expected 2 data_offsets, found 3"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[2]", "[0,4]")), 4)),
                 "tensor \"a\": expected 8 bytes for F32 [2], found 4"));
  CHECK(contains(error(file_of(object(entry("a", "F9", "[1]", "[0,4]")), 4)), "found \"F9\""));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[4294967296,4294967296]", "[0,0]")), 0)), "overflows"));
  CHECK(contains(error(file_of(object(entry("a", "F64", "[2305843009213693952]", "[0,0]")), 0)), "overflows"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[18446744073709551615]", "[0,4]")), 4)), "overflows"));
  CHECK(contains(error(file_of(object(entry("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]")), 4)), "more than 8"));
  const std::string a = entry("a", "F32", "[1]", "[0,4]");
  CHECK(contains(error(file_of(object(a + "," + a), 4)), "duplicate name \"a\""));
  CHECK(contains(error(file_of(object(a + "," + entry("b", "F32", "[1]", "[0,4]")), 4)), "overlaps"));
  CHECK(contains(error(file_of(object(a + "," + entry("b", "U8", "[3]", "[2,5]")), 5)), "overlaps"));
  CHECK(contains(error(file_of(object(a + "," + entry("b", "U8", "[1]", "[5,6]")), 6)), "hole of 1 bytes"));
  CHECK(contains(error(file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0)),
                 "expected dtype, shape and data_offsets"));
}

TEST_CASE("safetensors: more tensors or metadata than a model has are refused while they are read") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("many.safetensors");
  const auto error = [&](const std::string& body) {
    write_file(path, file_of(object(body), 0));
    return error_of([&] { read_safetensors(path); });
  };
  std::string tensors, keys;
  for (int i = 0; i < 65'537; ++i) {
    if (i > 0) tensors += ",";
    tensors += entry(std::to_string(i), "U8", "[0]", "[0,0]");
  }
  CHECK(error(tensors) == path + ": expected at most 65536 tensors, found more");
  for (int i = 0; i < 130'000; ++i) keys += fmt::format("{}\"{}\":\"\"", i > 0 ? "," : "", i);
  CHECK(contains(error("\"__metadata__\":" + object(keys)), "expected at most 16777216"));
  const std::string text(17 << 20, 'x');
  CHECK(contains(error(fmt::format(R"("__metadata__":{{"k":"{}"}})", text)), "bytes, expected at most 8388608"));
  CHECK(contains(error(fmt::format(R"("{}":{{}})", text)), ": header of 17825799 bytes, expected at most 8388608"));
}

TEST_CASE("safetensors: what would be refused is not written") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("many.safetensors");
  SafetensorsFile file;
  for (int i = 0; i < 125'000; ++i) file.metadata[std::to_string(i)] = "";
  write_safetensors(path, file);
  CHECK(read_safetensors(path).metadata.size() == 125'000);
  for (int i = 125'000; i < 127'000; ++i) file.metadata[std::to_string(i)] = "";
  CHECK(error_of([&] { write_safetensors(path, file); }) ==
        path + ": metadata of 16906890 bytes, expected at most 16777216");
}

TEST_CASE("safetensors: the time of writing grows as the number of tensors") {
  const TemporaryDirectory directory;
  const Tensor one = zeros({1});
  const auto time = [&](int count) {
    SafetensorsFile file;
    for (int i = 0; i < count; ++i) file.tensors[fmt::format("layers.{:05}.weight", i)] = one;
    const std::clock_t start = std::clock();  // of this process: others do not count
    write_safetensors(directory.file("many"), file);
    return static_cast<double>(std::clock() - start);
  };
  time(1000);
  CHECK(time(32'000) <= 64 * std::max(time(2000), 1e-4 * CLOCKS_PER_SEC));  // 16 times as many; the square is 256
}

TEST_CASE("safetensors: data that is not aligned to its elements is moved") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("odd.safetensors");
  write_file(path, file_of(object(entry("u", "U8", "[1]", "[0,1]") + "," + entry("f", "I32", "[2]", "[1,9]")), 9));
  CHECK(same_bits(read_safetensors(path).tensors.at("f"), from_vector<int32_t>({0x01010101, 0x01010101})));
}

TEST_CASE("safetensors: every truncation of a good file is an error, never a crash") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("cut.safetensors");
  write_safetensors(path, {{{"w", ones({3})}, {"ids", zeros({5}, DType::i64)}}, {{"k", "v"}}});
  const std::string whole = bytes_of(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    write_file(path, whole.substr(0, length));
    CHECK_THROWS_AS(read_safetensors(path), Error);
  }
}

TEST_CASE("safetensors: a failed write leaves the old file") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.safetensors");
  write_safetensors(path, {{{"w", ones({3})}}, {}});
  CHECK(contains(error_of([&] { write_safetensors(path, {{{"w", Tensor()}}, {}}); }), "tensor \"w\" is undefined"));
  CHECK(contains(error_of([&] { write_safetensors(path, {{{"__metadata__", ones({1})}}, {}}); }), "cannot be named"));
  CHECK(contains(error_of([&] { write_safetensors(path, {{{"\xff", ones({1})}}, {}}); }), "not UTF-8"));
  CHECK(same_bits(read_safetensors(path).tensors.at("w"), ones({3})));
  CHECK(contains(error_of([] { write_safetensors("/dev/full", {{{"w", ones({3})}}, {}}); }), "No space left"));
}
