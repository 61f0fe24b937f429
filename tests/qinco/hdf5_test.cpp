// HDF5 files: tests/golden/make_hdf5.py made the one that is read.
#include <doctest/doctest.h>
#include <fstream>

#include "qinco/io/vectors.h"
#include "tests/support.h"

using namespace qinco;
using tests::contains;
using tests::error_of;

namespace {

const std::string kFile = std::string(QINCO_SOURCE_DIR) + "/tests/golden/ann.hdf5";

}  // namespace

#ifdef QINCO_HDF5

TEST_CASE("hdf5: the datasets of ann-benchmarks are read as vectors and ids") {
  const Tensor train = read_all(kFile + ":train"), test = read_all(kFile + ":test");
  REQUIRE(train.shape() == Shape{20, 4});
  for (int64_t i = 0; i < train.numel(); ++i) CHECK(train.data<float>()[i] == static_cast<float>(i) / 8);
  CHECK(test.shape() == Shape{3, 4});
  CHECK(test.data<float>()[11] == 2.75F);
  const Tensor ids = read_ids(kFile + ":neighbors", 20);
  REQUIRE(ids.shape() == Shape{3, 5});
  for (int32_t i = 0; i < 15; ++i) CHECK(ids.data<int32_t>()[i] == i);
  CHECK(read_rows(kFile + ":bytes", 1, 2).data<float>()[3] == 7);
}

TEST_CASE("hdf5: datasets that are missing or of other kinds, and other files, are refused by name") {
  const auto error = [](const std::string& dataset) { return error_of([&] { read_all(kFile + dataset); }); };
  CHECK(
      contains(error(""), "ann.hdf5:DATASET with one of: big_endian, bytes, distances, flat, neighbors, packed, test"));
  CHECK(contains(error(":none"), "no dataset \"none\""));
  CHECK(contains(error(":packed"), "h5repack"));
  CHECK(contains(error(":flat"), "expected a matrix"));
  CHECK(contains(error(":big_endian"), "another type"));
  CHECK(contains(error(":neighbors"), "values of type i32"));
  const tests::TemporaryDirectory directory;
  const std::string path = directory.file("bad.hdf5");
  CHECK(contains(error_of([&] { read_all(path + ":train"); }), "bad.hdf5: cannot open"));
  std::ofstream(path) << "no HDF5";
  CHECK(contains(error_of([&] { read_all(path + ":train"); }), "bad.hdf5: not an HDF5 file"));
  std::ifstream file(kFile, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  for (const size_t kept : {size_t{100}, good.size() / 2, good.size() - 1}) {
    std::ofstream(path, std::ios::binary) << good.substr(0, kept);
    CHECK(contains(error_of([&] { read_all(path + ":train"); }), "bad.hdf5"));
  }
}

TEST_CASE("hdf5: datasets that lie in other files are refused, even where those exist") {
  const std::string file = std::string(QINCO_SOURCE_DIR) + "/tests/golden/elsewhere.hdf5";
  const auto error = [&](const char* dataset) { return error_of([&] { read_all(file + dataset); }); };
  for (const char* dataset : {":linked", ":folder/train", ":soft"})
    CHECK(contains(error(dataset), std::string("elsewhere.hdf5") + dataset + ": a link to another file"));
  for (const char* dataset : {":stored", ":virtual"})
    CHECK(contains(error(dataset), std::string("elsewhere.hdf5") + dataset + ": its values lie in other files"));
  for (const char* dataset : {":own", ":alias"}) CHECK(read_all(file + dataset).data<float>()[3] == 3);
}

TEST_CASE("hdf5: files that libhdf5 itself crashes on are errors") {
  std::ifstream file(std::string(QINCO_SOURCE_DIR) + "/tests/golden/elsewhere.hdf5", std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  const tests::TemporaryDirectory directory;
  const std::string path = directory.file("bad.hdf5");
  for (const auto& [at, byte] : {std::pair(1296, 110), std::pair(1293, 41)}) {  // libhdf5 1.10.8 does
    std::string bytes = good;
    bytes[static_cast<size_t>(at)] = static_cast<char>(byte);
    std::ofstream(path, std::ios::binary) << bytes;
    const std::string message = error_of([&] { read_all(path + ":train"); });
    CHECK(message.rfind(path + ": ", 0) == 0);
  }
}

#else

TEST_CASE("hdf5: a build without HDF5 says so") {
  MESSAGE("skipped: this build has no HDF5");
  CHECK(contains(error_of([] { read_all(kFile + ":train"); }), "no HDF5"));
}

#endif
