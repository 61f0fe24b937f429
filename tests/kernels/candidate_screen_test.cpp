// The screen of chosen candidates: against double, against the search that screens all, and within its own margin.
#include <cmath>
#include <cstdint>
#include <doctest/doctest.h>
#include <random>
#include <vector>

#include "kernels/candidate_margin.h"
#include "tests/kernels/candidate_problem.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels {

using namespace tests;

namespace {

QINCO_COVERS(candidate_screen_size);
QINCO_COVERS(candidate_screen_pack);
QINCO_COVERS(candidate_screen);

struct Screened {
  std::vector<float> distances, margins;
  bool operator==(const Screened& other) const {
    const size_t bytes = distances.size() * sizeof(float);
    return distances.size() == other.distances.size() &&
           std::memcmp(distances.data(), other.distances.data(), bytes) == 0 &&
           std::memcmp(margins.data(), other.margins.data(), bytes) == 0;
  }
};

// `candidates` of each vector of p: any, some more than once.
std::vector<int32_t> any_ids(const Problem<float>& p, int64_t candidates) {
  std::mt19937 random(5);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < p.n * candidates; ++i)
    ids.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(p.sizes.K)));
  return ids;
}

// Screens for the vectors [begin, end) with all that is written between guards.
Screened screen(const Version& version, const Problem<float>& p, const std::vector<int32_t>& ids, int64_t begin,
                int64_t end, int threads = 1, Precision precision = Precision::exact) {
  const Context context = with_threads(threads);
  const Table<float>& kernels = *version.table;
  const auto [K, d, h, L] = p.sizes;
  const int64_t n = end - begin, candidates = static_cast<int64_t>(ids.size()) / p.n;
  std::vector<const float*> pointers;
  const Guarded packed(kernels.candidate_screen_size(K, d, h, L));
  CandidateStep<float> step = p.step(pointers);
  step.precision = precision;
  poison_scratch(context);
  kernels.candidate_screen_pack(context, step, packed.get());
  CHECK(packed.intact());
  const Guarded distances(n * candidates), margins(n * candidates);
  poison_scratch(context);
  kernels.candidate_screen(
      context, K, d, h, L, packed.get(),
      {n, candidates, ids.data() + begin * candidates, p.z_table.data(), p.a_table.data(), p.target.data() + begin * d,
       p.row.data() + begin * d, p.up_row.data() + begin * h, distances.get(), margins.get()});
  CHECK(packed.intact());
  CHECK(distances.intact());
  CHECK(margins.intact());
  return {{distances.get(), distances.get() + n * candidates}, {margins.get(), margins.get() + n * candidates}};
}

Screened screen(const Version& version, const Problem<float>& p, const std::vector<int32_t>& ids) {
  return screen(version, p, ids, 0, p.n);
}

// The versions that have this screen for steps of these sizes.
std::vector<Version> versions_for(const Sizes& s) {
  std::vector<Version> all;
  for (const Version& version : screened_versions())
    if (const auto size = version.table->candidate_screen_size; size && size(s.K, s.d, s.h, s.L) > 0)
      all.push_back(version);
  return all;
}

// Around the widths of registers, tiles and panels.
const std::vector<Sizes> kSizes = {{256, 128, 256, 2}, {64, 16, 32, 1},   {5, 17, 33, 3},  {100, 31, 47, 2},
                                   {70, 39, 45, 3},    {33, 64, 100, 16}, {16, 96, 64, 4}, {1, 16, 40, 2},
                                   {300, 33, 130, 1},  {40, 264, 48, 2}};

}  // namespace

TEST_CASE("a screen of chosen candidates is off by no more than its margin, and not for nothing") {
  for (const Sizes& s : kSizes) {
    const Problem<float> p = random_problem(s, 9, static_cast<unsigned>(s.K + s.d));
    const Problem<double> exact = p.as<double>();
    const std::vector<int32_t> ids = any_ids(p, 7);
    for (const Version& version : versions_for(s)) {
      CAPTURE(version.name);
      CAPTURE(s);
      const Screened found = screen(version, p, ids);
      for (size_t pair = 0; pair < ids.size(); ++pair) {
        const int64_t i = static_cast<int64_t>(pair) / 7;
        const double root = std::sqrt(found.distances[pair]);
        const double expected = std::sqrt(exact_search(exact, ids[pair], 1, i, i + 1).distances[0]);
        CHECK(std::abs(root - expected) <= found.margins[pair] + margin::kSumError * root);
        CHECK(found.margins[pair] < 0.2 * expected);
        if (version.name == "reference") CHECK(found.margins[pair] < 1e-4 * expected);
      }
    }
  }
}

TEST_CASE("chosen candidates are screened as in the search that screens all") {
  for (const Sizes& s : kSizes) {
    const Problem<float> p = random_problem(s, 6, 3);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < p.n; ++i)
      for (int64_t k = 0; k < s.K; ++k) ids.push_back(static_cast<int32_t>((i + k) % s.K));
    for (const Version& version : versions_for(s)) {
      if (s.K < 64 || version.name == "reference") continue;  // which search without a screen
      CAPTURE(version.name);
      CAPTURE(s);
      const Screened found = screen(version, p, ids);
      const Result<float> searched = search(version, p, 0, p.n, 1, Precision::fast);
      for (int64_t i = 0; i < p.n; ++i) {
        const float* const mine = found.distances.data() + i * s.K;
        const float* const least = std::min_element(mine, mine + s.K);
        CHECK(*least == searched.distances[i]);
        CHECK(ids[i * s.K + (least - mine)] == searched.codes[i]);
      }
    }
  }
}

TEST_CASE("a chosen candidate's screen depends neither on its batch nor on the number of threads") {
  for (const Sizes& s : {Sizes{70, 39, 45, 2}, Sizes{64, 16, 32, 1}, Sizes{256, 128, 64, 2}}) {
    const Problem<float> p = random_problem(s, 150, 3);
    const std::vector<int32_t> ids = any_ids(p, 5);
    for (const Version& version : versions_for(s)) {
      CAPTURE(version.name);
      const Screened all = screen(version, p, ids);
      for (const int threads : {2, 3}) CHECK(screen(version, p, ids, 0, p.n, threads) == all);
      for (const int64_t begin : {0, 1, 77, 140})
        for (const int64_t size : {1, 3, 10}) {
          const auto part = [&](const std::vector<float>& x) {
            return std::vector<float>(x.begin() + begin * 5, x.begin() + (begin + size) * 5);
          };
          CHECK(screen(version, p, ids, begin, begin + size) == Screened{part(all.distances), part(all.margins)});
        }
    }
  }
}

TEST_CASE("a step packed for fast is screened alike, and rules nothing out") {
  const Sizes s{70, 39, 45, 2};
  const Problem<float> p = random_problem(s, 9, 3);
  const std::vector<int32_t> ids = any_ids(p, 5);
  for (const Version& version : versions_for(s)) {
    if (version.name == "reference") continue;  // one for all
    CAPTURE(version.name);
    const Screened fast = screen(version, p, ids, 0, p.n, 1, Precision::fast);
    CHECK(fast.distances == screen(version, p, ids).distances);
    for (const float margin : fast.margins) CHECK(margin == kInf);
  }
}

TEST_CASE("what is not finite makes its own screened distances NaN") {
  const Sizes s{75, 37, 42, 2};
  const Problem<float> clean = random_problem(s, 9, 4);
  const std::vector<int32_t> ids = any_ids(clean, 5);
  for (const Version& version : versions_for(s)) {
    CAPTURE(version.name);
    const Screened expected = screen(version, clean, ids);
    for (int input = 0; input < 4; ++input) {
      Problem<float> p = clean;
      const int64_t i = 2 * input, k = ids[static_cast<size_t>(7 * input)];
      if (input == 0) p.target[i * s.d + 3] = kNan;
      if (input == 1) p.row[i * s.d + 18] = kNan;
      if (input == 2) p.up_row[i * s.h + 20] = kNan;
      if (input == 3) p.a_table[k * s.h + 7] = kNan;
      const Screened found = screen(version, p, ids);
      for (size_t pair = 0; pair < ids.size(); ++pair) {
        const bool hit = input == 3 ? ids[pair] == k : static_cast<int64_t>(pair) / 5 == i;
        if (hit)
          CHECK(std::isnan(found.distances[pair]));
        else
          CHECK(found.distances[pair] == expected.distances[pair]);
      }
    }
  }
}

}  // namespace qinco::kernels
