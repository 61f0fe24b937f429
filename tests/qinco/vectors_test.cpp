// Vector files: every format read back, and what is refused, by name and row.
#include "qinco/io/vectors.h"

#include <cmath>
#include <fstream>
#include <vector>

#include "tensor/create.h"
#include "tensor/npy.h"
#include "tests/support.h"

namespace qinco {
namespace {

using tests::contains;
using tests::error_of;
using tests::same_bits;
using tests::TemporaryDirectory;

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// The bytes of a .?vecs file with rows of the given values, each under its own dimension.
template <class T>
std::string vecs(const std::vector<std::vector<T>>& rows) {
  std::string bytes;
  for (const std::vector<T>& row : rows) {
    append(bytes, static_cast<int32_t>(row.size()));
    for (const T value : row) append(bytes, value);
  }
  return bytes;
}

struct Files {
  TemporaryDirectory directory;
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(directory.file(name), std::ios::binary) << bytes;
    return directory.file(name);
  }
  std::string error(const std::string& name, const std::string& bytes) const {
    const std::string path = write(name, bytes);
    const std::string message = error_of([&] { read_all(path); });
    CHECK(contains(message, path));
    return message;
  }
};

TEST_CASE("vectors: .fvecs, .bvecs and .ivecs are read as floats") {
  const Files files;
  const Tensor expected = from_vector<float>({1, 2, 3, 4, 250, 6}, {2, 3});
  CHECK(same_bits(read_all(files.write("a.fvecs", vecs<float>({{1, 2, 3}, {4, 250, 6}}))), expected));
  CHECK(same_bits(read_all(files.write("a.bvecs", vecs<uint8_t>({{1, 2, 3}, {4, 250, 6}}))), expected));
  CHECK(same_bits(read_all(files.write("a.ivecs", vecs<int32_t>({{1, 2, 3}, {4, 250, 6}}))), expected));
  const VectorFile file = VectorFile::open(files.directory.file("a.bvecs"));
  CHECK(file.size() == 2);
  CHECK(file.dim() == 3);
  CHECK(file.dtype() == DType::u8);
  CHECK(same_bits(read_rows(file.path(), 1, 2), expected.slice(0, 1, 2)));
}

TEST_CASE("vectors: .npy of f32, f16 and u8 are read as floats, other types refused") {
  const Files files;
  const std::string path = files.directory.file("a.npy");
  const Tensor expected = from_vector<float>({0, 1, 2, 3, 100, 255}, {3, 2});
  for (const DType dtype : {DType::f32, DType::f16, DType::u8}) {
    write_npy(path, expected.to(dtype));
    CHECK(same_bits(read_all(path), expected));
  }
  write_npy(path, expected.to(DType::i64));
  CHECK(contains(error_of([&] { read_all(path); }), "values of type i64, expected f32, f64, f16 or u8"));
  write_npy(path, expected.reshape({6}));
  CHECK(contains(error_of([&] { read_all(path); }), "shape [6], expected [n,d]"));
}

TEST_CASE("vectors: writers read back bit for bit, block by block") {
  const Files files;
  const Tensor x = Tensor::empty({50, 7});
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = std::sin(static_cast<float>(i));
  for (const char* name : {"a.fvecs", "a.npy"}) {
    VectorWriter writer(files.directory.file(name), 50, 7);
    writer.write(20, x.data<float>());
    writer.write(30, x.data<float>() + 20 * 7);
    CHECK_FALSE(std::filesystem::exists(files.directory.file(name)));
    writer.commit();
    CHECK(same_bits(read_all(files.directory.file(name)), x));
  }
  CHECK(contains(error_of([&] { VectorWriter(files.directory.file("a.bvecs"), 1, 1); }), "cannot hold f32, only u8"));
}

TEST_CASE("vectors: a writer that got too few rows leaves nothing behind") {
  const Files files;
  {
    VectorWriter writer(files.directory.file("a.fvecs"), 2, 1);
    const float x = 1;
    writer.write(1, &x);
    CHECK(contains(error_of([&] { writer.commit(); }), "1 rows written, 2 announced"));
  }
  CHECK(std::filesystem::is_empty(files.directory.path()));
}

TEST_CASE("vectors: malformed .?vecs files are refused by name and row") {
  const Files files;
  const std::string good = vecs<float>({{1, 2}, {3, 4}, {5, 6}});
  CHECK(contains(files.error("a.fvecs", ""), "empty file"));
  CHECK(contains(files.error("a.fvecs", "abc"), "too short"));
  CHECK(contains(files.error("a.fvecs", good.substr(0, good.size() - 1)), "row 2 is cut short"));
  CHECK(contains(files.error("a.fvecs", good + "x"), "row 3 is cut short"));
  CHECK(contains(files.error("a.fvecs", vecs<float>({{1, 2}, {3, 4, 5}})), "row 1 has dimension 3, expected 2"));
  // Two wrong rows that together keep the size right: seen when the rows are read.
  const std::string compensated = vecs<float>({{1, 2}, {3}, {4, 5, 6}});
  CHECK(contains(files.error("a.fvecs", compensated), "row 1 has dimension 1, expected 2"));
  for (const int32_t d : {0, -1, 1 << 21, INT32_MAX}) {
    std::string bytes;
    append(bytes, d);
    CHECK(contains(files.error("a.fvecs", bytes + "12345678"), fmt::format("row 0 has dimension {}", d)));
  }
  CHECK(contains(files.error("a.txt", good), "expected one of .fvecs .bvecs .ivecs .fbin .u8bin .npy .hdf5:DATASET"));
}

TEST_CASE("vectors: NaN and infinity are refused by row, in f32 and f16") {
  const Files files;
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    const std::string message = files.error("a.fvecs", vecs<float>({{1, 2}, {3, 4}, {5, bad}}));
    CHECK(contains(message, "row 2 holds a NaN or an infinity"));
    const std::string path = files.directory.file("a.npy");
    write_npy(path, from_vector<float>({1, bad, 2, 3}, {2, 2}).to(DType::f16));
    CHECK(contains(error_of([&] { read_all(path); }), "row 0 holds a NaN or an infinity"));
  }
}

TEST_CASE("vectors: values whose squares would not fit float are refused by row") {
  const Files files;
  constexpr float kLargest = 1e15f;
  CHECK(read_all(files.write("b.fvecs", vecs<float>({{kLargest, -kLargest}}))).data<float>()[1] == -kLargest);
  const float beyond = std::nextafter(kLargest, INFINITY);
  for (const float bad : {beyond, -beyond, std::numeric_limits<float>::max()})
    CHECK(contains(files.error("a.fvecs", vecs<float>({{1, 2}, {bad, 4}})), "row 1 holds a value of size"));
}

TEST_CASE("vectors: float64 is rounded to float32") {
  const Files files;
  const std::string path = files.directory.file("a.npy");
  write_npy(path, from_vector<double>({1.0 / 3, -2.5, 1e-60, 4}, {2, 2}));
  const Tensor x = read_all(path);
  CHECK(std::vector<float>(x.data<float>(), x.data<float>() + 4) == std::vector<float>{1.0f / 3, -2.5f, 0, 4});
  write_npy(path, from_vector<double>({1, 2, 3, 1e60}, {2, 2}));
  CHECK(contains(error_of([&] { read_all(path); }), "row 1 holds a value of size"));
  write_npy(path, from_vector<double>({1, NAN, 3, 4}, {2, 2}));
  CHECK(contains(error_of([&] { read_all(path); }), "row 0 holds a NaN or an infinity"));
}

TEST_CASE("vectors: rows outside the file are refused") {
  const Files files;
  const std::string path = files.write("a.bvecs", vecs<uint8_t>({{1}, {2}}));
  CHECK(contains(error_of([&] { read_rows(path, 0, 3); }), "rows 0 to 3 asked for, the file has 2"));
  CHECK(contains(error_of([&] { read_rows(path, -1, 1); }), "the file has 2"));
  CHECK(read_rows(path, 1, 1).size(0) == 0);
}

TEST_CASE("vectors: a sample is spread evenly, and nothing else is read") {
  const Files files;
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 11; ++i) rows.push_back({static_cast<float>(i), i % 2 == 1 ? NAN : 1.0f});
  const VectorFile file = VectorFile::open(files.write("a.fvecs", vecs<float>(rows)));
  CHECK(same_bits(file.sample(10, 5), from_vector<float>({0, 1, 2, 1, 4, 1, 6, 1, 8, 1}, {5, 2})));
  CHECK(same_bits(file.sample(1, 5), from_vector<float>({0, 1}, {1, 2})));
  CHECK(contains(error_of([&] { file.sample(11, 4); }), "row 5 holds a NaN"));
  CHECK(contains(error_of([&] { file.sample(11, 11); }), "row 1 holds a NaN"));
  const VectorFile whole = VectorFile::open(files.write("b.bvecs", vecs<uint8_t>({{1, 2}, {3, 4}, {5, 6}})));
  CHECK(same_bits(whole.sample(3, 3), read_all(whole.path())));
  const int64_t large = int64_t{1} << 40;
  CHECK(spread_row(large - 1, large, large) == large - 1);
  CHECK(spread_row(6, 7, large) == large * 6 / 7);
}

TEST_CASE("vectors: missing files and directories are refused") {
  const Files files;
  CHECK(contains(error_of([&] { read_all(files.directory.file("no.fvecs")); }), "no.fvecs: cannot open"));
  std::filesystem::create_directory(files.directory.file("d.fvecs"));
  CHECK(contains(error_of([&] { read_all(files.directory.file("d.fvecs")); }), "directory"));
}

TEST_CASE("vectors: ids of .ivecs and .npy keep their value and must be below the limit") {
  const Files files;
  const int32_t big = (1 << 24) + 1;  // not a float
  const std::string path = files.write("a.ivecs", vecs<int32_t>({{0, 5}, {big, 1}}));
  const Tensor ids = read_ids(path, big + 1);
  CHECK(same_bits(ids, from_vector<int32_t>({0, 5, big, 1}, {2, 2})));
  CHECK(contains(error_of([&] { read_ids(path, big); }), fmt::format("row 1 holds id {}", big)));
  const std::string npy = files.directory.file("a.npy");
  write_npy(npy, from_vector<int64_t>({3, 2, 1, 0}, {2, 2}));
  CHECK(same_bits(read_ids(npy, 4), from_vector<int32_t>({3, 2, 1, 0}, {2, 2})));
  constexpr int64_t kLarge = (int64_t{1} << 32) - 1;  // 32 bits, as those of an index
  write_npy(npy, from_vector<int64_t>({kLarge - 1, kLarge >> 1, (kLarge >> 1) + 1}, {1, 3}));
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  CHECK(same_bits(read_ids(npy, kLarge), from_vector<int32_t>({-2, kMost, -kMost - 1}, {1, 3})));
  CHECK(contains(error_of([&] { read_ids(npy, kLarge - 1); }), "row 0 holds id 4294967294"));
  CHECK(contains(error_of([&] { read_ids(npy, kLarge + 1); }), "expected less than 2^32"));
  write_npy(npy, from_vector<int64_t>({3, -1}, {1, 2}));
  CHECK(contains(error_of([&] { read_ids(npy, 4); }), "row 0 holds id -1, expected 0 to 3"));
  CHECK(contains(error_of([&] { read_ids(files.write("a.fvecs", vecs<float>({{1}})), 4); }), "ids of type f32"));
}

TEST_CASE("vectors: the shipped data is what its provenance says") {
  const std::string folder = QINCO_SOURCE_DIR "/data/sift-sample/";
  const VectorFile learn = VectorFile::open(folder + "learn.bvecs");
  CHECK(learn.size() == 50000);
  CHECK(learn.dim() == 128);
  CHECK(VectorFile::open(folder + "base.bvecs").size() == 20000);
  CHECK(VectorFile::open(folder + "query.bvecs").size() == 1000);
  CHECK(read_ids(folder + "groundtruth.ivecs", 20000).shape() == Shape{1000, 100});
}

}  // namespace
}  // namespace qinco
