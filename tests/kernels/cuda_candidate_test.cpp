// The candidate search on CUDA's tensor cores: its layout, its chunks, every width it is compiled for, and its margin.
#include <doctest/doctest.h>

#include "kernels/cuda/candidate_layout.h"
#include "tests/kernels/candidate_problem.h"

namespace qinco::kernels::tests {

namespace {

bool no_cuda() {
  if (device_count(DeviceType::cuda) > 0) return false;
  MESSAGE("skipped: no CUDA device");
  return true;
}

Version on_cuda() {
  return Version(Device{DeviceType::cuda, 0});
}

// Codes differ from the float search's only between near ties, and the distances are float's.
void check_near(const Problem<float>& p, const Result<float>& found, const Result<float>& in_float) {
  for (size_t i = 0; i < found.codes.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(found.distances[i] - in_float.distances[i]) <= 2e-5f * in_float.distances[i]);
  }
  int64_t differing = 0;
  for (size_t i = 0; i < found.codes.size(); ++i) differing += found.codes[i] != in_float.codes[i];
  CHECK(differing * 100 <= p.n);
}

}  // namespace

TEST_CASE(
    "cuda candidate: the parts of a packed step follow each other without a gap, where 16 bytes are loaded at once") {
  using namespace cuda;
  for (const CandidateLayout& p : {CandidateLayout{1, 1, 1, 1}, CandidateLayout{256, 128, 256, 2},
                                   CandidateLayout{100, 100, 250, 3}, CandidateLayout{17, 256, 1000, 16}}) {
    const int64_t matrices = 2 * p.L - 1;
    CHECK(p.D() >= p.d);
    CHECK(p.D() % 32 == 0);
    CHECK(p.z_table() == p.norms() + p.Kp());
    CHECK(p.a_table() == p.z_table() + p.Kp() * p.D());
    CHECK(p.slabs() == p.a_table() + p.Kp() * p.H());
    CHECK(p.floats() == p.slabs() + matrices * p.H() * p.D() / 2);
    CHECK(p.size() == p.floats() + matrices * p.H128() * p.D());
    for (const int64_t at : {p.norms(), p.z_table(), p.a_table(), p.slabs(), p.floats()}) CHECK(at % 4 == 0);
  }
  CHECK((fused_width(1) && fused_width(256) && !fused_width(257)));
}

TEST_CASE("cuda candidate: chunks bound the scratch memory, and hold a vector at least") {
  using namespace cuda;
  CHECK(chunk_vectors({256, 128, 256, 2}) == 8192);
  CHECK(chunk_vectors({16, 128, 256, 2}) == 32768);
  CHECK(chunk_vectors({int64_t{1} << 24, 128, 256, 2}) == 1);
}

TEST_CASE("cuda candidate: every width that it is compiled for, exact and fast") {
  if (no_cuda()) return;
  for (const int64_t d : {30, 64, 90, 128, 160, 250}) {
    const Sizes s{37, d, 70, d == 64 ? 3 : 2};
    CAPTURE(s);
    const Problem<float> p = random_problem(s, 19, 3);
    const Result<float> in_float = search(Isa::reference, p);
    check_near(p, search(on_cuda(), p), in_float);
    const Result<float> fast = search(on_cuda(), p, 0, p.n, 1, Precision::fast);
    for (size_t i = 0; i < fast.codes.size(); ++i)
      CHECK(std::abs(fast.distances[i] - in_float.distances[i]) <= 0.02 * in_float.distances[i]);
  }
}

TEST_CASE("cuda candidate: any number of hidden units, of which 128 are compared together") {
  if (no_cuda()) return;
  for (const int64_t h : {1, 128, 129, 300}) {
    const Problem<float> p = random_problem({20, 30, h, 2}, 5, 5);
    CAPTURE(h);
    check_near(p, search(on_cuda(), p), search(Isa::reference, p));
  }
}

TEST_CASE("cuda candidate: the same answers whether pairs are compared 16 or 32 together") {
  if (no_cuda()) return;
  const int64_t before = cuda::pairs_of_small_tiles;
  for (const int64_t d : {30, 70, 128}) {
    const Problem<float> p = random_problem({20, d, 20, 2}, 15, 7);
    cuda::pairs_of_small_tiles = 0;
    const Result<float> large = search(on_cuda(), p);
    cuda::pairs_of_small_tiles = 100000;
    CHECK(search(on_cuda(), p) == large);
  }
  cuda::pairs_of_small_tiles = before;
}

TEST_CASE("cuda candidate: the same answers in chunks of any size") {
  if (no_cuda()) return;
  const Problem<float> p = random_problem({20, 12, 14, 2}, 40, 9);
  const Result<float> whole = search(on_cuda(), p);
  const int64_t before = cuda::most_distances;
  for (const int64_t vectors : {1, 3, 16, 39}) {
    cuda::most_distances = vectors * 20;
    CHECK(search(on_cuda(), p) == whole);
  }
  cuda::most_distances = before;
}

TEST_CASE("cuda candidate: a step that deceives the probes is searched exactly all the same") {
  if (no_cuda()) return;
  int64_t differing = 0, screened_wrong = 0, total = 0;
  for (const Sizes& s : {Sizes{64, 32, 32, 1}, Sizes{64, 32, 32, 2}}) {
    const Problem<float> p = hiding_problem(s, 100, 1);
    const Result<float> in_float = search(Isa::reference, p), exact = search(on_cuda(), p);
    const Result<float> fast = search(on_cuda(), p, 0, p.n, 1, Precision::fast);
    for (int64_t i = 0; i < p.n; ++i) {
      ++total;
      differing += exact.codes[i] != in_float.codes[i];
      screened_wrong += fast.codes[i] != in_float.codes[i];
    }
  }
  MESSAGE(differing << " of " << total << " codes differ from the float search's; of the screen's, " << screened_wrong);
  CHECK(differing * 100 <= total);
  CHECK(screened_wrong > 10 * differing);
  CHECK(screened_wrong >= 5);  // else this test would not see a margin that is too small
}

}  // namespace qinco::kernels::tests
