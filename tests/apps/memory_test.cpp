// What must do with little memory: info and convert on models far larger, whose tensors are mapped once and gone
// through in pieces; k-means, which never holds the distances of all vectors to all centroids; training on a sample of
// a large file.
#include <filesystem>
#include <fstream>

#include "tensor/create.h"
#include "tensor/npy.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

constexpr int64_t kProgram = int64_t{512} << 20;  // address space of the program itself and its threads
constexpr int64_t kLittle = int64_t{64} << 20;

/// Address space for the program and `files` bytes of mapped files, not for a copy of them.
Limits room_for(int64_t files) {
  Limits limits;
  limits.memory = kProgram + files;
  return limits;
}

void expect_little_memory(const Arguments& arguments, int64_t files) {
  CAPTURE(arguments.front());
  const Outcome outcome = run(arguments, room_for(files));
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(outcome.peak_bytes < kLittle);
}

TEST_CASE("memory: info on a model of 5 GB") {
  const Workspace space;
  if (std::filesystem::space(space.path()).available < uintmax_t{12} << 30) {  // a tmpfs keeps the holes in memory
    MESSAGE("skipped: less than 12 GB free in " << space.path().string());
    return;
  }
  const std::string path = space.file("large.safetensors");
  const int64_t bytes = write_hollow_model(path, 20480);
  REQUIRE(bytes > int64_t{5} << 30);
  expect_little_memory({"info", path}, bytes);
}

TEST_CASE("memory: convert and info on models larger than what they use, in every format and layout") {
  const Workspace space;
  const std::string path = space.file("large.safetensors"), torch = space.file("large.pt");
  const int64_t bytes = write_hollow_model(path, 4096);
  REQUIRE(bytes > int64_t{1} << 30);
  expect_little_memory({"convert", path, torch}, bytes);
  expect_little_memory({"info", torch}, bytes);
  expect_little_memory({"convert", torch, space.file("back.safetensors")}, bytes);
  CHECK(results_of({"info", space.file("back.safetensors")}).at("d") == 4096);
}

TEST_CASE("memory: k-means with thousands of centroids") {
  const Workspace space;
  const int64_t n = 20000, k = 10000, d = 4;
  const Tensor x = Tensor::empty({n, d});
  Random(1).normal(x);
  write_vectors(space.file("many.fvecs"), x);
  static_assert(n * k * int64_t{sizeof(float)} > 10 * kLittle);
  expect_little_memory({"kmeans", "--training_data", space.file("many.fvecs"), "--k", std::to_string(k), "--iterations",
                        "1", "--o", space.file("centroids.fvecs")},
                       0);
}

TEST_CASE("memory: k-means and baseline on a sample of a file that is larger than memory") {
  const Workspace space;
  constexpr uint32_t n = 8 << 20, d = 128;
  const uint32_t header[] = {n, d};
  const std::string path = space.file("large.u8bin");
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(header), sizeof(header));
  constexpr int64_t bytes = sizeof(header) + int64_t{n} * d;  // a hole: rows of 0
  static_assert(bytes > 10 * kLittle);
  std::filesystem::resize_file(path, bytes);
  expect_little_memory({"kmeans", "--training_data", path, "--k", "10", "--o", space.file("centroids.fvecs")}, bytes);
  write_vectors(space.file("base.fvecs"), zeros({20, d}));
  write_vectors(space.file("queries.fvecs"), zeros({2, d}));
  write_npy(space.file("truth.npy"), zeros({2, 1}, DType::i32));
  for (const char* method : {"pq", "rq"})
    expect_little_memory(
        {"baseline", "--method", method, "--training_data", path, "--base", space.file("base.fvecs"), "--queries",
         space.file("queries.fvecs"), "--groundtruth", space.file("truth.npy"), "--M", "4", "--K", "16"},
        bytes);
}

}  // namespace
}  // namespace qinco::tests
