// Codes: bit packing against a plain bit-by-bit reference, files in both formats, and what is refused.
#include "qinco/io/codes.h"

#include <fstream>
#include <vector>

#include "tensor/npy.h"
#include "tensor/random.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

namespace qinco {
namespace {

using tests::contains;
using tests::error_of;
using tests::TemporaryDirectory;

std::vector<int32_t> random_codes(int64_t count, int64_t K, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> codes(static_cast<size_t>(count));
  for (int32_t& code : codes) code = static_cast<int32_t>(random.below(static_cast<uint64_t>(K)));
  return codes;
}

/// The definition: bit b of code m is bit m*bits+b of the vector's bytes, counted from the lowest.
std::vector<uint8_t> pack_bit_by_bit(int64_t n, int64_t M, int bits, const std::vector<int32_t>& codes) {
  const int64_t bytes = (M * bits + 7) / 8;
  std::vector<uint8_t> packed(static_cast<size_t>(n * bytes), 0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t m = 0; m < M; ++m)
      for (int b = 0; b < bits; ++b) {
        const int64_t at = m * bits + b;
        packed[i * bytes + at / 8] |= static_cast<uint8_t>((codes[i * M + m] >> b & 1) << at % 8);
      }
  return packed;
}

std::vector<char> file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST_CASE("codes: bits and bytes of K") {
  CHECK(bits_per_code(2) == 1);
  CHECK(bits_per_code(3) == 2);
  CHECK(bits_per_code(4) == 2);
  CHECK(bits_per_code(256) == 8);
  CHECK(bits_per_code(257) == 9);
  CHECK(bits_per_code(65536) == 16);
  CHECK(packed_code_bytes(8, 256) == 8);
  CHECK(packed_code_bytes(3, 8) == 2);
  CHECK(packed_code_bytes(1, 2) == 1);
  CHECK(packed_code_bytes(5, 65536) == 10);
}

TEST_CASE("codes: packing is the bit-by-bit definition, and unpacking its inverse, for 1 to 16 bits") {
  const int64_t n = 37;
  for (int bits = 1; bits <= 16; ++bits) {
    for (const int64_t M : {1, 2, 3, 7, 8, 9, 16}) {
      CAPTURE(bits);
      CAPTURE(M);
      const std::vector<int32_t> codes = random_codes(n * M, int64_t{1} << bits, static_cast<uint64_t>(bits * 100 + M));
      const std::vector<uint8_t> expected = pack_bit_by_bit(n, M, bits, codes);
      std::vector<uint8_t> packed(expected.size() + 1, 0xa5);
      pack_codes(n, M, bits, bits, codes.data(), packed.data());
      CHECK(packed.back() == 0xa5);
      packed.pop_back();
      CHECK(packed == expected);
      std::vector<int32_t> unpacked(codes.size() + 1, -7);
      unpack_codes(n, M, bits, bits, packed.data(), unpacked.data());
      CHECK(unpacked.back() == -7);
      unpacked.pop_back();
      CHECK(unpacked == codes);
    }
  }
}

TEST_CASE("codes: packed as Faiss packs them, bit for bit, for 1 to 16 bits") {
  const auto golden = read_safetensors(std::string(QINCO_SOURCE_DIR) + "/tests/golden/faiss_codes.safetensors");
  for (int bits = 1; bits <= 16; ++bits) {
    CAPTURE(bits);
    const Tensor& codes = golden.tensors.at(fmt::format("codes_{}", bits));
    const Tensor& packed = golden.tensors.at(fmt::format("packed_{}", bits));
    const int64_t n = codes.size(0), M = codes.size(1);
    REQUIRE(packed.size(1) == (M * bits + 7) / 8);
    const Tensor ours = Tensor::empty(packed.shape(), DType::u8), back = Tensor::empty(codes.shape(), DType::i32);
    pack_codes(n, M, bits, bits, codes.data<int32_t>(), ours.data<uint8_t>());
    CHECK(tests::same_bits(ours, packed));
    unpack_codes(n, M, bits, bits, packed.data<uint8_t>(), back.data<int32_t>());
    CHECK(tests::same_bits(back, codes));
  }
}

TEST_CASE("codes: the largest code of every width survives") {
  for (int bits = 1; bits <= 16; ++bits) {
    const std::vector<int32_t> codes(5, (1 << bits) - 1);
    std::vector<uint8_t> packed(10);
    std::vector<int32_t> unpacked(5);
    pack_codes(1, 5, bits, bits, codes.data(), packed.data());
    unpack_codes(1, 5, bits, bits, packed.data(), unpacked.data());
    CHECK(unpacked == codes);
  }
}

TEST_CASE("codes: a first index of another width is packed before the others") {
  CHECK(packed_code_bytes(9, 256, 1024) == 10);
  CHECK(packed_code_bytes(9, 256, int64_t{1} << 20) == 11);
  CHECK(packed_code_bytes(1, 256, 1 << 16) == 2);
  for (const int first_bits : {1, 3, 10, 16, 20, 31}) {
    const std::vector<int32_t> codes = {static_cast<int32_t>((int64_t{1} << first_bits) - 1), 5, 2, 0, 7, 1};
    std::vector<uint8_t> expected(static_cast<size_t>(2 * ((first_bits + 6 + 7) / 8)));
    for (size_t row = 0; row < 2; ++row) {
      size_t bit = row * expected.size() * 4;
      for (size_t m = 0; m < 3; ++m)
        for (int b = 0; b < (m == 0 ? first_bits : 3); ++b, ++bit)
          expected[bit / 8] |= static_cast<uint8_t>((codes[row * 3 + m] >> b & 1) << bit % 8);
    }
    std::vector<uint8_t> packed(expected.size());
    pack_codes(2, 3, first_bits, 3, codes.data(), packed.data());
    CHECK(packed == expected);
    std::vector<int32_t> unpacked(6);
    unpack_codes(2, 3, first_bits, 3, packed.data(), unpacked.data());
    CHECK(unpacked == codes);
  }
  const TemporaryDirectory directory;
  const std::string path = directory.file("codes.bin");
  const std::vector<int32_t> codes = {70000, 15, 3, 99999, 0, 8};
  CodeWriter writer(path, CodeFormat::raw, 2, 3, 16, 100000);
  writer.write(2, codes.data());
  writer.commit();
  const CodeFile file = CodeFile::open(path, CodeFormat::raw, 3, 16, 100000);
  REQUIRE(file.size() == 2);
  std::vector<int32_t> read(6);
  file.read(0, 2, read.data());
  CHECK(read == codes);
  const CodeFile narrow = CodeFile::open(path, CodeFormat::raw, 3, 16, 1 << 16 | 1);  // as many bits
  CHECK(contains(error_of([&] { narrow.read(0, 2, read.data()); }), "row 0 holds a code outside 0 to 65536"));
}

TEST_CASE("codes: files in both formats read back what blocks wrote") {
  const TemporaryDirectory directory;
  for (const CodeFormat format : {CodeFormat::npy, CodeFormat::raw}) {
    for (const int64_t K : {2, 16, 256, 1024, 65536}) {
      CAPTURE(K);
      const int64_t n = 101, M = 5;
      const std::vector<int32_t> codes = random_codes(n * M, K, 3);
      const std::string path = directory.file("codes");
      CodeWriter writer(path, format, n, M, K);
      writer.write(60, codes.data());
      writer.write(41, codes.data() + 60 * M);
      writer.commit();
      const CodeFile file = CodeFile::open(path, format, M, K);
      REQUIRE(file.size() == n);
      std::vector<int32_t> read(codes.size());
      file.read(0, 7, read.data());
      file.read(7, n, read.data() + 7 * M);
      CHECK(read == codes);
    }
  }
}

TEST_CASE("codes: raw 8x8 codes are 8 bytes a vector and nothing else, .npy is what read_npy reads") {
  const TemporaryDirectory directory;
  const std::vector<int32_t> codes = random_codes(10000 * 8, 256, 4);
  CodeWriter raw(directory.file("c.bin"), CodeFormat::raw, 10000, 8, 256);
  raw.write(10000, codes.data());
  raw.commit();
  const std::vector<char> bytes = file_bytes(directory.file("c.bin"));
  REQUIRE(bytes.size() == 80000);
  for (size_t i = 0; i < bytes.size(); ++i) REQUIRE(static_cast<uint8_t>(bytes[i]) == codes[i]);

  CodeWriter npy(directory.file("c.npy"), CodeFormat::npy, 10000, 8, 256);
  npy.write(10000, codes.data());
  npy.commit();
  const Tensor read = read_npy(directory.file("c.npy"));
  CHECK(read.dtype() == DType::i32);
  CHECK(read.shape() == Shape{10000, 8});
  CHECK(std::equal(codes.begin(), codes.end(), read.data<int32_t>()));
}

TEST_CASE("codes: nothing appears under the name before commit, and a short count is refused") {
  const TemporaryDirectory directory;
  const std::vector<int32_t> codes(8, 0);
  {
    CodeWriter writer(directory.file("c.npy"), CodeFormat::npy, 2, 4, 16);
    writer.write(1, codes.data());
    CHECK(contains(error_of([&] { writer.commit(); }), "1 rows of codes written, 2 announced"));
  }
  CHECK(std::filesystem::is_empty(directory.path()));
}

TEST_CASE("codes: i64 .npy is accepted, codes outside 0..K-1 are named by row") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("c.npy");
  const Tensor codes = Tensor::empty({3, 2}, DType::i64);
  int64_t* values = codes.data<int64_t>();
  for (int64_t i = 0; i < 6; ++i) values[i] = i;
  write_npy(path, codes);
  int32_t read[6];
  CodeFile::open(path, CodeFormat::npy, 2, 8).read(0, 3, read);
  for (int32_t i = 0; i < 6; ++i) CHECK(read[i] == i);

  for (const int64_t bad : {int64_t{8}, int64_t{-1}, int64_t{1} << 32}) {
    values[5] = bad;
    write_npy(path, codes);
    const CodeFile file = CodeFile::open(path, CodeFormat::npy, 2, 8);
    file.read(0, 2, read);
    CHECK(contains(error_of([&] { file.read(0, 3, read); }), "row 2 holds a code outside 0 to 7"));
  }
  values[4] = 99, values[5] = 7;  // a list of IVF-QINCo, and a code
  write_npy(path, codes);
  CodeFile::open(path, CodeFormat::npy, 2, 8, 100).read(0, 3, read);
  CHECK(read[4] == 99);
  CHECK(contains(error_of([&] { CodeFile::open(path, CodeFormat::npy, 2, 8, 99).read(0, 3, read); }), "0 to 98"));
  values[5] = 8;
  write_npy(path, codes);
  CHECK(contains(error_of([&] { CodeFile::open(path, CodeFormat::npy, 2, 8, 100).read(0, 3, read); }), "0 to 7"));
}

TEST_CASE("codes: malformed files are refused by name") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("c");
  const auto message = [&](CodeFormat format) { return error_of([&] { CodeFile::open(path, format, 3, 256); }); };
  CHECK(contains(message(CodeFormat::raw), path));
  write_bytes(path, "");
  CHECK(contains(message(CodeFormat::raw), "empty file"));
  CHECK(contains(message(CodeFormat::npy), "empty file"));
  write_bytes(path, "12345");
  CHECK(contains(message(CodeFormat::raw), "5 bytes are not a whole number of 3-byte codes"));
  CHECK(contains(message(CodeFormat::npy), path));
  write_npy(path, Tensor::empty({4, 2}, DType::i32));
  CHECK(contains(message(CodeFormat::npy), "shape [4,2], expected [n,3]"));
  write_npy(path, Tensor::empty({4, 3}, DType::f32));
  CHECK(contains(message(CodeFormat::npy), "codes of type f32, expected i32 or i64"));
}

}  // namespace
}  // namespace qinco
