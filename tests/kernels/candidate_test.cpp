// The fused candidate search on every ISA: against exact integer arithmetic, and against the double reference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/sanitizer.h"
#include "tests/kernels/candidate_problem.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels {

using namespace tests;

namespace {

QINCO_COVERS(candidate_packed_size);
QINCO_COVERS(candidate_pack);
QINCO_COVERS(candidate_search);

// Sizes around the widths of panels, registers and tiles, each with each other at some point.
std::vector<Sizes> tail_sizes(int count) {
  constexpr int64_t kValues[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 48, 63, 64};
  std::mt19937 random(11);
  const auto any = [&] { return kValues[random() % std::size(kValues)]; };
  std::vector<Sizes> all;
  for (int64_t value : kValues) all.insert(all.end(), {{value, 5, 7, 2}, {9, value, 8, 2}, {9, 6, value, 2}});
  for (int i = 0; i < count; ++i) all.push_back({any(), any(), any(), 1 + static_cast<int64_t>(random() % 5)});
  return all;
}

// Sizes that take the other roads: inner dimensions cut in pieces, tiles in groups, weights in blocks.
const std::vector<Sizes> kLarge = {{65, 17, 33, 3},   {67, 30, 47, 2},   {97, 41, 99, 1},     {33, 784, 40, 2},
                                   {40, 70, 1100, 1}, {20, 300, 600, 2}, {280, 100, 110, 16}, {2500, 96, 64, 1},
                                   {9, 515, 513, 3},  {40, 32, 2100, 1}, {33, 16, 4100, 2}};

}  // namespace

TEST_CASE("candidate search is exact on whole numbers, the lowest index first among equals") {
  int number = 0;
  std::vector<Sizes> sizes = tail_sizes(60);
  sizes.insert(sizes.end(), {{256, 16, 32, 1}, {200, 18, 40, 2}, {128, 32, 48, 1}});  // screened: equals look different
  for (const Sizes& s : sizes) {
    const bool with_cuda = number++ % 4 == 0;  // the emulator takes its time
    const int64_t n = s.K > 64 ? 200 : 5, distinct = (s.K + 1) / 2;
    Problem<float> p = integer_problem(s, n, distinct, static_cast<unsigned>(s.K * 7 + s.d * 5 + s.h * 3 + s.L));
    std::vector<int64_t> nearest(n, std::numeric_limits<int64_t>::max());
    std::vector<int32_t> codes(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < s.K; ++k) {
        const int64_t distance = integer_distance(p, p.z_table.data() + k * s.d, i);
        REQUIRE(distance < (1 << 24));
        if (distance < nearest[i]) nearest[i] = distance, codes[i] = static_cast<int32_t>(k);
      }
    }
    for (const Version& version : screened_versions()) {
      if (version.cuda && !with_cuda) continue;
      CAPTURE(version.name);
      CAPTURE(s);
      const Result<float> found = search(version, p);
      CHECK(found.codes == codes);
      for (int64_t i = 0; i < n; ++i) CHECK(found.distances[i] == static_cast<float>(nearest[i]));
    }
  }
}

TEST_CASE("candidate search reaches the double reference's distances") {
  // Rounding: sums of up to 1100 terms in float, over at most 31 products; relative to distances of the data's size.
  constexpr double kTolerance = 2e-5;
  // On the matrix unit, z itself is off by what splitting its operands leaves out, 2^-17 of each at random signs, in
  // each of L blocks.
  constexpr double kSplitError = 2e-6;
  std::vector<Sizes> all = tail_sizes(120);
  all.insert(all.end(), kLarge.begin(), kLarge.end());
  int64_t mismatches = 0, total = 0;
  int number = 0;
  for (const Sizes& s : all) {
    CAPTURE(s);
    const bool with_cuda = number++ % 4 == 0 && s.L < 16;
    const bool large = s.K * s.d * s.h > 1000000;
    const Problem<float> p = random_problem(s, large ? 2 : 11, static_cast<unsigned>(s.K + s.d + s.h + s.L));
    const Problem<double> exact = p.as<double>();
    const Result<double> best = exact_search(exact, 0, s.K, 0, p.n);
    for (const Version& version : screened_versions()) {
      if ((large && version.name == "reference") || (version.cuda && !with_cuda)) continue;
      CAPTURE(version.name);
      const double error = version.matrix_unit ? kSplitError * s.L * std::sqrt(s.d + s.h) : 0;
      const Result<float> found = search(version, p);
      for (int64_t i = 0; i < p.n; ++i) {
        REQUIRE(found.codes[i] >= 0);
        REQUIRE(found.codes[i] < s.K);
        const double reached = exact_search(exact, found.codes[i], 1, i, i + 1).distances[0];
        const double slack = reached * kTolerance + 2 * std::sqrt(reached) * error + error * error;
        CHECK(reached <= best.distances[i] + slack);
        CHECK(std::abs(found.distances[i] - reached) <= slack);
        mismatches += found.codes[i] != best.codes[i];
        ++total;
      }
    }
  }
  CHECK(mismatches * 1000 <= total);
}

// The search in float, in slices: a step of so few candidates is not screened.
Result<float> search_in_float(const Version& version, const Problem<float>& p) {
  constexpr int64_t kSlice = 32;
  const auto [K, d, h, L] = p.sizes;
  Result<float> best{std::vector<int32_t>(p.n), std::vector<float>(p.n, std::numeric_limits<float>::infinity())};
  for (int64_t first = 0; first < K; first += kSlice) {
    Problem<float> slice = p;
    slice.sizes.K = std::min(kSlice, K - first);
    slice.z_table.assign(p.z_table.begin() + first * d, p.z_table.begin() + (first + slice.sizes.K) * d);
    slice.a_table.assign(p.a_table.begin() + first * h, p.a_table.begin() + (first + slice.sizes.K) * h);
    const Result<float> found = search(version, slice);
    for (int64_t i = 0; i < p.n; ++i) {
      if (!(found.distances[i] < best.distances[i])) continue;
      best.distances[i] = found.distances[i];
      best.codes[i] = static_cast<int32_t>(first + found.codes[i]);
    }
  }
  return best;
}

// Searches p with a screen and without. Without a matrix unit both give the same bits; on it, which decides by split
// products, they may round a near tie either way, and nothing else.
struct Comparison {
  const Version& version;
  int64_t total = 0, differing = 0, screened_wrong = 0;

  void add(const Problem<float>& p) {
    const Result<float> in_float = search_in_float(version.matrix_unit ? Isa::avx512 : version, p);
    const Result<float> exact = search(version, p);
    const Result<float> fast = search(version, p, 0, p.n, 1, Precision::fast);
    for (int64_t i = 0; i < p.n; ++i) {
      ++total;
      screened_wrong += fast.codes[i] != in_float.codes[i];
      if (!version.matrix_unit) CHECK(exact.distances[i] == in_float.distances[i]);
      if (exact.codes[i] == in_float.codes[i]) continue;
      ++differing;
      // As far as the search in float, within what splitting may do to outputs of this length.
      const double length = std::sqrt(std::inner_product(
          p.row.begin() + i * p.sizes.d, p.row.begin() + (i + 1) * p.sizes.d, p.row.begin() + i * p.sizes.d, 0.0));
      CHECK(std::sqrt(exact.distances[i]) - std::sqrt(in_float.distances[i]) <= 1e-4 * length);
    }
  }
};

constexpr int64_t kFewer = kAddressSanitizer ? 5 : 1;

// Compares what `add` adds on every version that screens.
template <class Add>
void check_screens(const Add& add) {
  for (const Version& version : screened_versions()) {
    if (version.cuda || !version.screens) continue;
    CAPTURE(version.name);
    Comparison c{version};
    add(c);
    MESSAGE(version.name << ": " << c.differing << " of " << c.total
                         << " codes differ from the float search's; of the screen's, " << c.screened_wrong);
    CHECK(c.differing * 1000 <= c.total);
    if (!version.matrix_unit) CHECK(c.differing == 0);
    CHECK(c.screened_wrong > 10 * c.differing);  // else this test would not see a margin that is too small
  }
}

TEST_CASE("a coarse screen leaves the exact codes, and is needed to be put right") {
  check_screens([](Comparison& random) {
    for (const int64_t L : {1, 2, 4, 16})
      for (const Sizes& s : {Sizes{256, 32, 48, L}, Sizes{64, 128, 64, L}, Sizes{1024, 16, 32, L}})
        random.add(random_problem(s, (L < 16 ? 200 : 50) / kFewer, static_cast<unsigned>(s.K + L)));
  });
}

TEST_CASE("a screen leaves the exact codes on steps that deceive its probes, too") {
  check_screens([](Comparison& hiding) {
    for (const Sizes& s : {Sizes{256, 32, 64, 1}, Sizes{256, 128, 256, 1}, Sizes{256, 128, 256, 2}})
      for (unsigned seed : {1, 2, 3}) hiding.add(hiding_problem(s, 100 / kFewer, seed));
  });
}

// The mean of how far the distance that a fast search reports is off what its candidate comes to.
double mean_error(const Problem<float>& p, const Problem<double>& exact, Isa isa) {
  const Result<float> found = search(isa, p, 0, p.n, 1, Precision::fast);
  double total = 0;
  for (int64_t i = 0; i < p.n; ++i)
    total += std::abs(found.distances[i] - exact_search(exact, found.codes[i], 1, i, i + 1).distances[0]);
  return total / static_cast<double>(p.n);
}

TEST_CASE("with VNNI the byte screen has a bit more, and half the error") {
  int tried = 0;
  for (const auto& [isa, feature] : {std::pair{Isa::avx2, Feature::avx_vnni}, {Isa::avx512, Feature::avx512_vnni}}) {
    if (!cpu_has(feature)) continue;
    ++tried;
    for (const Sizes& s : {Sizes{256, 32, 48, 2}, Sizes{70, 39, 45, 3}, Sizes{64, 128, 256, 1}}) {
      CAPTURE(s);
      const Problem<float> p = random_problem(s, 100, 21);
      const Problem<double> exact = p.as<double>();
      const double with = mean_error(p, exact, isa);
      const ScopedWithout without(feature);
      const double seven = mean_error(p, exact, isa);
      CHECK(with <= 0.7 * seven);
      CHECK(with >= 0.3 * seven);
    }
  }
  if (tried == 0) MESSAGE("skipped: this machine has no VNNI");
}

TEST_CASE("a row of weights too small to scale leaves fast codes as good as without it") {
  for (const bool down : {false, true}) {
    Problem<float> p = random_problem({90, 40, 44, 2}, 50, 9);
    auto& weights = down ? p.down[1] : p.up[1];
    const size_t cols = static_cast<size_t>(down ? p.sizes.h : p.sizes.d);
    for (size_t j = 0; j < cols; ++j) weights[5 * cols + j] *= 1e-33f;
    const Problem<double> exact = p.as<double>();
    const Result<double> best = exact_search(exact, 0, p.sizes.K, 0, p.n);
    for (const Version& version : screened_versions()) {
      CAPTURE(version.name);
      const Result<float> found = search(version, p, 0, p.n, 1, Precision::fast);
      for (int64_t i = 0; i < p.n; ++i)
        CHECK(std::abs(found.distances[i] - best.distances[i]) <= 0.03 * best.distances[i]);
    }
  }
}

TEST_CASE("fast candidate search comes as near as its operands allow") {
  // Each of the 2L - 1 products rounds its operands, in bfloat16 by up to 2^-9 of their size, in 7 or 8 bits by up to
  // 2^-7 of the largest, at random signs.
  for (const Sizes& s : {Sizes{33, 20, 40, 1}, Sizes{100, 64, 48, 2}, Sizes{64, 128, 100, 4}, Sizes{40, 32, 2100, 1},
                         Sizes{90, 40, 44, 2}}) {
    CAPTURE(s);
    const Problem<float> p = random_problem(s, 20, 8);
    const Problem<double> exact = p.as<double>();
    const Result<double> best = exact_search(exact, 0, s.K, 0, p.n);
    for (const Version& version : screened_versions()) {
      CAPTURE(version.name);
      const Result<float> found = search(version, p, 0, p.n, 1, Precision::fast);
      if (!version.screens) CHECK(found == search(version, p));
      for (int64_t i = 0; i < p.n; ++i) {
        const double reached = exact_search(exact, found.codes[i], 1, i, i + 1).distances[0];
        CHECK(reached <= best.distances[i] * (1 + 0.02));
        CHECK(std::abs(found.distances[i] - reached) <= 0.02 * reached);
      }
    }
  }
}

// A fast search by a step packed for exact search, and the other way round.
TEST_CASE("a step packed for one precision is searched with the other") {
  for (const Sizes& s : {Sizes{75, 37, 42, 2}, Sizes{9, 20, 12, 1}}) {
    const Problem<float> p = random_problem(s, 20, 12);
    for (const Version& version : screened_versions())
      for (const Precision precision : {Precision::fast, Precision::exact}) {
        CAPTURE(version.name);
        const Table<float>& kernels = *version.table;
        std::vector<const float*> pointers;
        const Guarded packed(kernels.candidate_packed_size(s.K, s.d, s.h, s.L));
        CandidateStep<float> step = p.step(pointers);
        step.precision = precision == Precision::fast ? Precision::exact : Precision::fast;
        kernels.candidate_pack(Context::cpu(), step, packed.get());
        Result<float> found{std::vector<int32_t>(20), std::vector<float>(20)};
        kernels.candidate_search(Context::cpu(), s.K, s.d, s.h, s.L, packed.get(),
                                 {p.n, p.target.data(), p.row.data(), p.up_row.data(), found.codes.data(),
                                  found.distances.data(), precision});
        CHECK(search(version, p, 0, p.n, 1, precision) == found);
      }
  }
}

TEST_CASE("a vector's candidate search depends neither on its batch nor on the number of threads") {
  for (const Sizes& s : {Sizes{16, 24, 40, 2}, Sizes{100, 33, 17, 3}, Sizes{256, 16, 32, 1}, Sizes{70, 39, 45, 2},
                         Sizes{17, 300, 600, 2}}) {
    const Problem<float> p = random_problem(s, s.d > 100 ? 7 : 150, 3);
    for (const Version& version : screened_versions()) {
      if (version.name == "reference" && s.d > 100) continue;
      CAPTURE(version.name);
      CAPTURE(s);
      const Result<float> all = search(version, p);
      for (int threads : {2, 3, 5})
        if (!version.cuda) CHECK(search(version, p, threads) == all);
      for (int64_t begin = 0; begin < p.n; begin += version.cuda ? 75 : 13) {
        for (int64_t size : {1, 2, 6}) {
          const int64_t end = std::min(begin + size, p.n);
          const Result<float> part{{all.codes.begin() + begin, all.codes.begin() + end},
                                   {all.distances.begin() + begin, all.distances.begin() + end}};
          CHECK(search(version, p, begin, end) == part);
        }
      }
    }
  }
}

// A step that is searched in float at once, one that is screened, and one whose screen CUDA passes through memory.
const std::vector<Sizes> kEveryWay = {{40, 19, 21, 2}, {75, 37, 42, 2}, {36, 264, 21, 2}};

TEST_CASE("NaN in a vector's inputs gives candidate 0 and leaves its neighbours alone") {
  for (const Sizes& s : kEveryWay) {
    const Problem<float> clean = random_problem(s, 9, 4);
    for (const Version& version : screened_versions()) {
      CAPTURE(version.name);
      const Result<float> expected = search(version, clean);
      for (int64_t i = 0; i < clean.n; i += version.cuda ? 4 : 1) {  // the emulator takes its time
        for (int input = 0; input < 3; ++input) {
          Problem<float> p = clean;
          if (input == 0) p.target[i * s.d + 3] = kNan;
          if (input == 1) p.row[i * s.d + 18] = kNan;
          if (input == 2) p.up_row[i * s.h + 20] = kNan;
          Result<float> found = search(version, p);
          CHECK(found.codes[i] == 0);
          CHECK(found.distances[i] == std::numeric_limits<float>::infinity());
          found.codes[i] = expected.codes[i];
          found.distances[i] = expected.distances[i];
          CHECK(found == expected);
        }
      }
    }
  }
}

TEST_CASE("a candidate that is NaN or infinite is never chosen over a finite one") {
  for (const Sizes& s : kEveryWay) {
    const Problem<float> clean = random_problem(s, 6, 5);
    for (const Version& version : screened_versions()) {
      CAPTURE(version.name);
      for (const float bad : {kNan, std::numeric_limits<float>::infinity(), 3e38f}) {
        for (int64_t only : {0, 7, 8, 15, 16, 31, 34}) {
          if (version.cuda && only % 17 != 0) continue;  // the emulator takes its time
          Problem<float> p = clean;
          for (int64_t k = 0; k < s.K; ++k)
            if (k != only) p.z_table[k * s.d + k % s.d] = bad;
          CHECK(search(version, p).codes == std::vector<int32_t>(p.n, static_cast<int32_t>(only)));
        }
      }
    }
  }
}

TEST_CASE("candidate search takes no vectors, and distances may be null") {
  const Sizes s{20, 12, 14, 2};
  const Problem<float> p = random_problem(s, 10, 6);
  for (const Version& version : screened_versions()) {
    CAPTURE(version.name);
    const Table<float>& kernels = *version.table;
    std::vector<const float*> pointers;
    const Guarded packed(kernels.candidate_packed_size(s.K, s.d, s.h, s.L));
    kernels.candidate_pack(Context::cpu(), p.step(pointers), packed.get());
    std::vector<int32_t> codes(p.n, -1);
    CandidateSearch<float> query{0, p.target.data(), p.row.data(), p.up_row.data(), codes.data(), nullptr};
    kernels.candidate_search(Context::cpu(), s.K, s.d, s.h, s.L, packed.get(), query);
    CHECK(codes == std::vector<int32_t>(p.n, -1));
    query.n = p.n;
    kernels.candidate_search(Context::cpu(), s.K, s.d, s.h, s.L, packed.get(), query);
    CHECK(codes == search(version, p).codes);
  }
}

}  // namespace qinco::kernels
