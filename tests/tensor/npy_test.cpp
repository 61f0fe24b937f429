// .npy files: round trips, NumPy's own bytes, hostile headers.
#include "tensor/npy.h"

#include <doctest/doctest.h>

#include "tensor/create.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

// A file with this header text (padded as NumPy does unless told) and data.
std::string npy(const std::string& text, const std::string& data, int version = 1, int64_t announced = -1) {
  std::string header = text;
  const int64_t length = announced >= 0 ? announced : static_cast<int64_t>(header.size());
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) file += static_cast<char>((length >> (8 * i)) & 0xff);
  return file + header + data;
}

}  // namespace

TEST_CASE("npy: every dtype and shape comes back") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.npy");
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::u8, DType::i32, DType::i64})
    for (const Shape& shape : {Shape{}, {0}, {1}, {7}, {3, 5}, {2, 3, 4}, {4, 0, 2}, {1, 2, 1, 2, 1, 2, 1, 2}}) {
      CAPTURE(name(dtype));
      CAPTURE(shape.str());
      const Tensor x = arange(shape.numel(), 0, 1, dtype).reshape(shape);
      write_npy(path, x);
      CHECK(same_bits(read_npy(path), x));
    }
  const Tensor view = arange(12).reshape({3, 4}).transpose(0, 1);
  write_npy(path, view);
  CHECK(same_bits(read_npy(path), view.contiguous()));
  CHECK(contains(error_of([&] { write_npy(path, ones({2}, DType::bf16)); }), "bf16 has no .npy form"));
  CHECK(error_of([&] { write_npy(path, Tensor()); }) == path + ": the tensor to write is undefined");
}

TEST_CASE("npy: the header is NumPy's, byte for byte") {
  const std::string header = npy_header(DType::f32, {3, 4});
  CHECK(header.size() == 128);
  CHECK(header.substr(8) == std::string("\x76\0", 2) + "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }" +
                                std::string(58, ' ') + "\n");
  CHECK(contains(npy_header(DType::u8, {5}), "'descr': '|u1', 'fortran_order': False, 'shape': (5,), }"));
  CHECK(contains(npy_header(DType::i64, {}), "'shape': (), }"));
}

TEST_CASE("npy: versions 2 and 3, and spacing that NumPy would not write, are read") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.npy");
  const std::string header = "{ 'shape':(2,),'fortran_order' : False, 'descr':'|u1'}";
  for (const int version : {1, 2, 3}) {
    write_file(path, npy(header, "\x05\x06", version));
    CHECK(same_bits(read_npy(path), from_vector<uint8_t>({5, 6})));
  }
  // Data that is not aligned to its elements is moved.
  write_file(path, npy("{'descr': '<i4', 'fortran_order': False, 'shape': (1,)}", std::string("\x07\0\0\0", 4)));
  CHECK(same_bits(read_npy(path), from_vector<int32_t>({7})));
}

TEST_CASE("npy: malformed and hostile files are one-line errors naming the file") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("bad.npy");
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    const std::string message = error_of([&] { read_npy(path); });
    CHECK(message.starts_with(path + ": "));
    return message.substr(path.size() + 2);
  };
  const auto header = [](const std::string& descr, const std::string& order, const std::string& shape) {
    return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }";
  };
  CHECK(error("") == "not a .npy file");
  CHECK(error("hello, this is text") == "not a .npy file");
  CHECK(contains(error(npy("{}", "", 9)), "expected .npy version 1 to 3, found 9"));
  CHECK(contains(error(npy("{}", "", 2, 0xffffffff)), "truncated .npy header: 4294967295 bytes announced"));
  CHECK(error(npy("", "")) == "malformed .npy header");
  CHECK(error(npy("{}", "")) == "malformed .npy header");
  CHECK(error(npy(std::string(50'000, '('), "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(1,") + "}", "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(1,), 'shape': (1,)"), "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(1,), 'extra': 1"), "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(-1,)"), "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(99999999999999999999,)"), "")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "False", "(1,)") + "junk", "1234")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "Maybe", "(1,)"), "1234")) == "malformed .npy header");
  CHECK(error(npy(header("'<f4'", "True", "(2, 2)"), std::string(16, 'x'))) == "expected C order, found Fortran order");
  CHECK(contains(error(npy(header("'>f4'", "False", "(1,)"), "1234")), "found >f4"));
  CHECK(contains(error(npy(header("'\n\x1b[2J'", "False", "(1,)"), "1234")), "found something else"));
  CHECK(contains(error(npy(header("[('a', '<f4')]", "False", "(1,)"), "1234")), "found a structured one"));
  CHECK(contains(error(npy(header("'<f4'", "False", "(1,1,1,1,1,1,1,1,1)"), "1234")), "at most 8 dimensions"));
  CHECK(contains(error(npy(header("'<f4'", "False", "(4294967296, 4294967296)"), "")), "overflows"));
  CHECK(contains(error(npy(header("'<f8'", "False", "(2305843009213693952,)"), "")), "overflows"));
  CHECK(error(npy(header("'<f4'", "False", "(2,)"), "1234")) == "expected 8 bytes of data for f32 [2], found 4");
  CHECK(error(npy(header("'<f4'", "False", "(2,)"), "123456789")) == "expected 8 bytes of data for f32 [2], found 9");
}

TEST_CASE("npy: every truncation of a good file is an error, never a crash") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("cut.npy");
  const Tensor x = arange(6).reshape({2, 3});
  const std::string whole = npy_header(x.dtype(), x.shape()) + std::string(reinterpret_cast<char*>(x.bytes()), 24);
  for (size_t length = 0; length < whole.size(); ++length) {
    write_file(path, whole.substr(0, length));
    CHECK_THROWS_AS(read_npy(path), Error);
  }
  write_file(path, whole);
  CHECK(same_bits(read_npy(path), x));
}
