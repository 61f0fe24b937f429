// The candidate search on CUDA's tensor cores: its layout, its chunks, every width it is compiled for, and its margin.
#include <doctest/doctest.h>

#include "kernels/cuda/candidate_pieces.h"
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

void check_both_precisions(const Sizes& s) {
  CAPTURE(s);
  const Problem<float> p = random_problem(s, 19, 3);
  const Result<float> in_float = search(Isa::reference, p);
  check_near(p, search(on_cuda(), p), in_float);
  const Result<float> fast = search(on_cuda(), p, 0, p.n, 1, Precision::fast);
  for (size_t i = 0; i < fast.codes.size(); ++i)
    CHECK(std::abs(fast.distances[i] - in_float.distances[i]) <= 0.02 * in_float.distances[i]);
}

// Steps that deceive the probes are searched exactly all the same.
void check_deceived(const std::vector<Sizes>& steps) {
  int64_t differing = 0, screened_wrong = 0, total = 0;
  for (const Sizes& s : steps) {
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

}  // namespace

TEST_CASE(
    "cuda candidate: the parts of a packed step follow each other without a gap, where 16 bytes are loaded at once") {
  using namespace cuda;
  for (const CandidateLayout& p :
       {CandidateLayout{1, 1, 1, 1}, CandidateLayout{256, 128, 256, 2}, CandidateLayout{100, 100, 250, 3},
        CandidateLayout{17, 256, 1000, 16}, CandidateLayout{17, 257, 30, 3}, CandidateLayout{256, 1024, 256, 2}}) {
    const int64_t matrices = 2 * p.L - 1;
    CHECK(p.D() >= p.d);
    CHECK(p.D() % (p.wide() ? 8 : 32) == 0);
    CHECK(p.z_table() == p.norms() + p.Kp());
    CHECK(p.a_table() == p.z_table() + p.Kp() * p.D());
    CHECK(p.slabs() == p.a_table() + p.Kp() * p.H());
    CHECK(p.floats() == p.slabs() + matrices * p.H() * p.D() / 2);
    CHECK(p.size() == p.floats() + matrices * p.H128() * p.D());
    for (const int64_t at : {p.norms(), p.z_table(), p.a_table(), p.slabs(), p.floats()}) CHECK(at % 4 == 0);
  }
  const auto fused = [](int64_t d, int64_t h) { return CandidateLayout{1, d, h, 1}.fused(); };
  CHECK((fused(1, 1) && fused(256, 1 << 20) && fused(1024, 2048) && !fused(1024, 4096)));
}

TEST_CASE("cuda candidate: Hopper's pieces are each packed in a place of its own, and fill the slabs' room") {
  using namespace cuda;
  for (const int chunks : {1, 2, 3, 4, 16}) {
    std::vector<int> places;
    for (const bool up : {true, false})
      for (int c = 0; c < chunks; ++c) {
        CHECK(piece_place(true, false, c, chunks) == c);
        places.push_back(piece_place(false, up, c, chunks));
      }
    for (int c = 0; c + 1 < chunks; ++c)
      CHECK(piece_place(false, true, c + 1, chunks) < piece_place(false, false, c, chunks));
    std::sort(places.begin(), places.end());
    for (int i = 0; i < 2 * chunks; ++i) CHECK(places[i] == i);
  }
  const CandidateLayout p{17, 100, 192, 3};
  CHECK(fits_pieces(p));
  CHECK(int64_t{piece_count(192, 3)} * kPieceBytes / 4 == p.floats() - p.slabs());
  CHECK(!fits_pieces({17, 100, 200, 3}));
  CHECK(!fits_pieces({17, 96, 192, 3}));
}

TEST_CASE("cuda candidate: chunks bound the scratch memory, and hold a vector at least") {
  using namespace cuda;
  CHECK(chunk_vectors({256, 128, 256, 2}) == 8192);
  CHECK(chunk_vectors({16, 128, 256, 2}) == 32768);
  CHECK(chunk_vectors({int64_t{1} << 24, 128, 256, 2}) == 1);
}

TEST_CASE("cuda candidate: every width that it is compiled for, exact and fast") {
  if (no_cuda()) return;
  for (const int64_t d : {30, 64, 90, 128, 160, 250}) check_both_precisions({37, d, 70, d == 64 ? 3 : 2});
}

TEST_CASE("cuda candidate: wide steps, exact and fast") {
  if (no_cuda()) return;
  for (const int64_t d : {261, 300}) check_both_precisions({37, d, 70, d == 300 ? 3 : 2});
}

TEST_CASE("cuda candidate: any number of hidden units, of which 128 are compared together") {
  if (no_cuda()) return;
  for (const int64_t d : {30, 272})
    for (const int64_t h : {1, 128, 129, 300}) {
      const Problem<float> p = random_problem({20, d, h, 2}, 5, 5);
      CAPTURE(d);
      CAPTURE(h);
      check_near(p, search(on_cuda(), p), search(Isa::reference, p));
    }
}

TEST_CASE("cuda candidate: the same answers whether pairs are compared 16 or 32 together") {
  if (no_cuda()) return;
  const Restore restore(cuda::pairs_of_small_tiles);
  for (const int64_t d : {30, 70, 128}) {
    const Problem<float> p = random_problem({20, d, 20, 2}, 15, 7);
    cuda::pairs_of_small_tiles = 0;
    const Result<float> large = search(on_cuda(), p);
    cuda::pairs_of_small_tiles = 100000;
    CHECK(search(on_cuda(), p) == large);
  }
}

// Few and many pieces: up to 13 stay in shared memory, others pass through it; and one tile or several for a block.
TEST_CASE("cuda candidate: Hopper's screen gives the same bits as the other") {
  if (no_cuda()) return;
  const Device device{DeviceType::cuda, 0};
  if (!cuda::takes_pieces(device, {1, 128, 64, 1})) {
    MESSAGE("skipped: " << device_description(device) << " has no warpgroup products");
    return;
  }
  struct Case {
    Sizes sizes;
    int64_t n;
    Precision precision;
  };
  const Precision exact = Precision::exact, fast = Precision::fast;
  for (const Case& c :
       {Case{{20, 128, 64, 1}, 9, exact}, Case{{5, 128, 128, 2}, 17, fast}, Case{{16, 100, 192, 1}, 40, fast},
        Case{{33, 128, 256, 1}, 8, fast}, Case{{1, 128, 256, 2}, 5, fast}, Case{{20, 97, 64, 3}, 19, fast},
        Case{{18, 128, 192, 3}, 19, fast}, Case{{37, 128, 64, 4}, 9, fast}, Case{{18, 120, 256, 4}, 9, fast}}) {
    const Sizes& s = c.sizes;
    const int64_t n = c.n;
    CAPTURE(s);
    const Problem<float> p = random_problem(s, n, 11);
    REQUIRE(cuda::takes_pieces(device, {s.K, s.d, s.h, s.L}));
    const Result<float> found = search(on_cuda(), p, 0, n, 1, c.precision);
    const Restore restore(cuda::use_wgmma);
    cuda::use_wgmma = false;
    CHECK(search(on_cuda(), p, 0, n, 1, c.precision) == found);
  }
}

TEST_CASE("cuda candidate: the same answers in chunks of any size") {
  if (no_cuda()) return;
  const Problem<float> p = random_problem({20, 12, 14, 2}, 40, 9);
  const Result<float> whole = search(on_cuda(), p);
  const Restore restore(cuda::most_distances);
  for (const int64_t vectors : {1, 3, 16, 39}) {
    cuda::most_distances = vectors * 20;
    CHECK(search(on_cuda(), p) == whole);
  }
}

TEST_CASE("cuda candidate: a wide step's screen takes groups of any size, and single blocks") {
  if (no_cuda()) return;
  for (const int64_t L : {1, 2}) {
    const Problem<float> p = random_problem({20, 264, 24, L}, 13, 9);
    const Result<float> whole = search(on_cuda(), p), screened = search(on_cuda(), p, 0, p.n, 1, Precision::fast);
    const Restore restore(cuda::wide_screen_bytes);
    for (const int64_t vectors : {0, 1, 3, 11}) {
      cuda::wide_screen_bytes = vectors * 20 * (6 * 264 + 2 * 32);
      CHECK(search(on_cuda(), p) == whole);
      const Result<float> found = search(on_cuda(), p, 0, p.n, 1, Precision::fast);
      for (size_t i = 0; i < found.codes.size(); ++i)  // cuBLASLt chooses by the number of rows
        CHECK(std::abs(found.distances[i] - screened.distances[i]) <= 0.02 * screened.distances[i]);
    }
  }
}

TEST_CASE("cuda candidate: a step that deceives the probes is searched exactly all the same") {
  if (no_cuda()) return;
  check_deceived({{64, 32, 32, 1}, {64, 32, 32, 2}});
}

TEST_CASE("cuda candidate: a wide step that deceives the probes is searched exactly all the same") {
  if (no_cuda()) return;
  check_deceived({{64, 264, 32, 2}});
}

}  // namespace qinco::kernels::tests
