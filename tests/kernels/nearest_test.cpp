// Nearest codeword on every ISA against its definition: tails, blocks, ties, NaN, threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace {

using namespace qinco;
using namespace qinco::kernels;
using tests::kInf;
using tests::kNan;
using tests::Version;
using tests::versions;

QINCO_COVERS(nearest);

constexpr int32_t kGuard = -77;

struct Answer {
  std::vector<int32_t> ids;
  std::vector<float> distances;
};

/// Runs the kernel on poisoned outputs, one element off alignment, and checks the guards around them.
Answer run(const Version& version, int64_t n, int64_t d, int64_t K, const std::vector<float>& x,
           const std::vector<float>& c, int threads = 1, bool with_distances = true) {
  Context context = Context::cpu();
  context.threads = threads;
  std::vector<int32_t> ids(static_cast<size_t>(n) + 2, kGuard);
  std::vector<float> distances(static_cast<size_t>(n) + 2, kNan);
  version.table->nearest(context, n, d, K, x.data() + 1, c.data() + 1, ids.data() + 1,
                         with_distances ? distances.data() + 1 : nullptr);
  CHECK(ids.front() == kGuard);
  CHECK(ids.back() == kGuard);
  CHECK(std::isnan(distances.front()));
  CHECK(std::isnan(distances.back()));
  return {{ids.begin() + 1, ids.end() - 1}, {distances.begin() + 1, distances.end() - 1}};
}

/// size values between two NaN: a read outside them would be seen.
template <class Value>
std::vector<float> filled(int64_t size, Value&& value) {
  std::vector<float> x(static_cast<size_t>(size) + 2, kNan);
  for (int64_t i = 1; i <= size; ++i) x[static_cast<size_t>(i)] = value();
  return x;
}

TEST_CASE("nearest: exact on integers at every tail") {
  std::mt19937 random(3);
  const auto value = [&] { return static_cast<float>(std::uniform_int_distribution<int>(-3, 3)(random)); };
  const int64_t sizes[] = {1, 2, 3, 6, 7, 8, 9, 13, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129};
  const auto check = [&](int64_t n, int64_t d, int64_t K) {
    const std::vector<float> x = filled(n * d, value), c = filled(K * d, value);
    const Answer expected = run(Isa::reference, n, d, K, x, c);
    for (const Version& version : versions()) {
      CAPTURE(fmt::format("{} n={} d={} K={}", version.name, n, d, K));
      const Answer found = run(version, n, d, K, x, c);
      CHECK(found.ids == expected.ids);  // many ties: the range is small
      CHECK(found.distances == expected.distances);
      CHECK(run(version, n, d, K, x, c, 1, false).ids == expected.ids);
    }
  };
  for (const int64_t s : sizes) {
    check(s, 5, 40);
    check(20, s, 33);
    check(17, 4, s);
    check(s, s, s);
  }
  check(0, 4, 4);
  check(50, 3, 40000);  // several blocks of codewords: nothing but ties after the first few
  check(9, 3000, 90);
  check(31, 1024, 70);  // rows 4 KB apart
}

TEST_CASE("nearest: the lowest of equal codewords, wherever they are") {
  for (const Version& version : versions())
    for (const int64_t K : {2, 17, 40, 300}) {
      constexpr int64_t d = 9;
      for (int64_t first = 0; first < K; first += K / 8 + 1) {
        std::vector<float> x(d + 2, 1.0f), c(static_cast<size_t>(K * d) + 2, 0.0f);
        for (int64_t k = first; k < K; ++k)
          for (int64_t j = 0; j < d; ++j) c[static_cast<size_t>(1 + k * d + j)] = 1.0f;
        CAPTURE(version.name);
        const Answer found = run(version, 1, d, K, x, c);
        CHECK(found.ids[0] == first);
        CHECK(found.distances[0] == 0.0f);
      }
    }
}

// On CUDA rows are read by 16 bytes only where all begin at multiples of that.
TEST_CASE("nearest: aligned rows give the bits of others") {
  std::mt19937 random(13);
  std::normal_distribution<float> normal;
  struct Sizes {
    int64_t n, d, K;
  };
  for (const Sizes& s :
       {Sizes{1, 4, 1}, {5, 12, 7}, {128, 16, 128}, {130, 20, 257}, {129, 17, 65}, {130, 64, 129}, {70, 36, 600}}) {
    const std::vector<float> x = filled(s.n * s.d, [&] { return normal(random); });
    const std::vector<float> c = filled(s.K * s.d, [&] { return normal(random); });
    tests::Buffer<float> aligned_x(s.n * s.d, 0), aligned_c(s.K * s.d, 0);
    std::copy_n(x.begin() + 1, s.n * s.d, aligned_x.data());
    std::copy_n(c.begin() + 1, s.K * s.d, aligned_c.data());
    for (const Version& version : versions()) {
      CAPTURE(fmt::format("{} n={} d={} K={}", version.name, s.n, s.d, s.K));
      const Answer expected = run(version, s.n, s.d, s.K, x, c);
      for (const float* codewords : {static_cast<const float*>(aligned_c.data()), c.data() + 1}) {
        tests::Buffer<int32_t> ids(s.n);
        tests::Buffer<float> distances(s.n);
        version.table->nearest(Context::cpu(), s.n, s.d, s.K, aligned_x.data(), codewords, ids.data(),
                               distances.data());
        CHECK(ids.values() == expected.ids);
        CHECK(distances.values() == expected.distances);
        CHECK((ids.guards_hold() && distances.guards_hold()));
      }
    }
  }
}

// ||c||^2 - 2<x,c> is off by at most (d + 3) u (|c|^2 + 2 |x||c|) in any order of summation, u = 2^-24: the codeword
// that wins by it may be farther than the nearest by twice that. The distance itself is a sum of squares of
// differences.
TEST_CASE("nearest: as near as rounding allows, at the distance reported") {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  constexpr int64_t n = 201, d = 100, K = 3000;
  const std::vector<float> x = filled(n * d, [&] { return 3 + normal(random); });
  const std::vector<float> c = filled(K * d, [&] { return 3 + normal(random); });
  const auto distance = [&](int64_t i, int64_t k) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) {
      const double difference =
          double{x[static_cast<size_t>(1 + i * d + j)]} - double{c[static_cast<size_t>(1 + k * d + j)]};
      sum += difference * difference;
    }
    return sum;
  };
  const auto norm = [](const std::vector<float>& v, int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum += std::pow(double{v[static_cast<size_t>(1 + i * d + j)]}, 2);
    return std::sqrt(sum);
  };
  const Answer exact = run(Isa::reference, n, d, K, x, c);
  const double u = std::ldexp(1.0, -24);
  for (const Version& version : versions()) {
    CAPTURE(version.name);
    const Answer found = run(version, n, d, K, x, c);
    int differing = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<size_t>(i);
      REQUIRE(found.ids[at] >= 0);
      REQUIRE(found.ids[at] < K);
      differing += found.ids[at] != exact.ids[at];
      const double reached = distance(i, found.ids[at]),
                   longest = std::max(norm(c, found.ids[at]), norm(c, exact.ids[at]));
      CHECK(reached <= distance(i, exact.ids[at]) + 2 * (d + 3) * u * (longest * longest + 2 * norm(x, i) * longest));
      CHECK(std::fabs(found.distances[at] - reached) <= (d + 3) * u * reached);
    }
    CHECK(differing <= n / 50);
  }
}

TEST_CASE("nearest: NaN is never nearest, and a row without a finite distance gives 0") {
  constexpr int64_t n = 20, d = 5, K = 50;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x = filled(n * d, [&] { return normal(random); });
  std::vector<float> c = filled(K * d, [&] { return normal(random); });
  c[1] = kNan;               // codeword 0
  c[1 + 33 * d + 2] = kNan;  // codeword 33
  c[1 + 40 * d] = kInf;      // codeword 40
  x[1 + 4 * d + 3] = kNan;   // row 4
  x[1 + 19 * d] = -kInf;     // row 19
  for (const Version& version : versions()) {
    CAPTURE(version.name);
    const Answer found = run(version, n, d, K, x, c), expected = run(Isa::reference, n, d, K, x, c);
    for (size_t i = 0; i < n; ++i) {
      if (i == 4 || i == 19) {
        CHECK(found.ids[i] == 0);
        CHECK(found.distances[i] == kInf);
        continue;
      }
      CHECK(found.ids[i] == expected.ids[i]);
      CHECK(std::isfinite(found.distances[i]));
    }
  }
}

TEST_CASE("nearest: the same answer at 1, 2 and 3 threads") {
  struct Sizes {
    int64_t n, d, K;
  };
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  for (const Sizes& most : {Sizes{700, 33, 9000}, Sizes{200, 1024, 60}}) {  // and rows 4 KB apart
    const std::vector<float> x = filled(most.n * most.d, [&] { return normal(random); });
    const std::vector<float> c = filled(most.K * most.d, [&] { return normal(random); });
    for (const Version& version : versions()) {
      if (version.name == "reference") continue;  // one row at a time: nothing to cut
      CAPTURE(version.name);
      const bool slow = version.cuda && emulated({DeviceType::cuda, 0});
      const int64_t n = slow ? std::min<int64_t>(most.n, 300) : most.n;
      const int64_t K = slow ? std::min<int64_t>(most.K, 1000) : most.K;
      const Answer one = run(version, n, most.d, K, x, c, 1);
      for (const int threads : {2, 3}) {
        const Answer more = run(version, n, most.d, K, x, c, threads);
        CHECK(more.ids == one.ids);
        CHECK(more.distances == one.distances);
      }
    }
  }
}

}  // namespace
