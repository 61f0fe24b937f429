// Fixed codebooks by least squares: numpy's error on the same codes; norms in 8 bits.
#include "qinco/quantizers/additive.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "qinco/io/vectors.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tensor/random.h"
#include "tests/support.h"

namespace qinco {
namespace {

using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::same_bits;

constexpr int64_t kK = 16, kD = 8;

/// The vectors and codes of tests/golden/additive_lstsq.py.
struct Problem {
  Problem(int64_t rows, int64_t codes_per_row, int64_t used) : n(rows), M(codes_per_row) {
    const Tensor all = read_rows(QINCO_SOURCE_DIR "/data/sift-sample/learn.bvecs", 0, n);
    x = all.slice(1, 0, kD).contiguous();
    for (int64_t i = 0; i < n; ++i) {
      const float* const row = all.data<float>() + i * all.size(1);
      for (int64_t m = 0; m < M; ++m) codes.push_back(static_cast<int32_t>(row[m] + 2 * row[m + 5]) / 16 % used);
    }
  }

  Tensor fit(const Context& context, int64_t batch) const {
    AdditiveFit fit(M, kK, kD);
    for (int64_t i = 0; i < n; i += batch)
      fit.add(context, std::min(batch, n - i), x.data<float>() + i * kD, codes.data() + i * M);
    return std::move(fit).solve();
  }

  double mse(const Tensor& codebooks) const {
    const Tensor xhat = Tensor::empty({n, kD});
    additive_decode(Context::cpu(), codebooks, n, codes.data(), M, M, xhat.data<float>());
    return sum_squared_difference(x, xhat) / static_cast<double>(n);
  }

  int64_t n, M;
  Tensor x;
  std::vector<int32_t> codes;
};

TEST_CASE("fixed codebooks: the error is that of numpy's lstsq on the same codes") {
  // Printed by tests/golden/additive_lstsq.py.
  CHECK(Problem(2000, 4, 16).mse(Problem(2000, 4, 16).fit(Context::cpu(), 2000)) ==
        doctest::Approx(3856.85157).epsilon(1e-6));
  CHECK(Problem(70, 4, 16).mse(Problem(70, 4, 16).fit(Context::cpu(), 70)) ==
        doctest::Approx(1328.79879).epsilon(1e-5));
  const Problem rare(2000, 6, 11);
  const Tensor codebooks = rare.fit(Context::cpu(), 2000);
  CHECK(rare.mse(codebooks) == doctest::Approx(3848.57247).epsilon(1e-6));
  for (int64_t m = 0; m < rare.M; ++m)  // codewords that never occurred
    for (int64_t i = 11 * kD; i < kK * kD; ++i) CHECK(codebooks.data<float>()[m * kK * kD + i] == 0);
}

TEST_CASE("fixed codebooks: neither batches nor threads change a bit") {
  const Problem problem(1500, 5, 16);
  Context one = Context::cpu(), three = Context::cpu();
  one.threads = 1;
  three.threads = 3;
  const Tensor codebooks = problem.fit(one, 1500);
  CHECK(same_bits(problem.fit(three, 1500), codebooks));
  CHECK(same_bits(problem.fit(three, 127), codebooks));
}

TEST_CASE("fixed codebooks: sums of codewords are found again, and decode from any prefix") {
  const int64_t n = 3000, M = 3;
  Random random(3);
  const Tensor truth = Tensor::empty({M, kK, kD}), x = Tensor::empty({n, kD}), xhat = Tensor::empty({n, kD});
  random.normal(truth);
  std::vector<int32_t> codes;
  for (int64_t i = 0; i < n * M; ++i) codes.push_back(static_cast<int32_t>(random.below(kK)));
  additive_decode(Context::cpu(), truth, n, codes.data(), M, M, x.data<float>());
  AdditiveFit fit(M, kK, kD);
  fit.add(Context::cpu(), n, x.data<float>(), codes.data());
  additive_decode(Context::cpu(), std::move(fit).solve(), n, codes.data(), M, M, xhat.data<float>());
  CHECK(tests::worst_difference(xhat, x) < 1e-5);
  additive_decode(Context::cpu(), truth, 1, codes.data() + M, M, 2, xhat.data<float>());
  for (int64_t j = 0; j < kD; ++j)
    CHECK(xhat.data<float>()[j] ==
          truth.data<float>()[codes[M] * kD + j] + truth.data<float>()[(kK + codes[M + 1]) * kD + j]);
}

TEST_CASE("fixed codebooks: many unknowns are solved for in blocks, between which a poll can end it") {
  const int64_t n = 3000, M = 6, K = 64, d = 130, unknowns = M * K;
  Random random(5);
  const Tensor x = tests::normal_vectors(n, d, 6);
  std::vector<int32_t> codes;
  for (int64_t i = 0; i < n * M; ++i) codes.push_back(static_cast<int32_t>(random.below(K)));
  const auto solve = [&](const std::function<void()>& poll) {
    AdditiveFit fit(M, K, d);
    fit.add(Context::cpu(), n, x.data<float>(), codes.data());
    return std::move(fit).solve(poll);
  };
  int64_t polls = 0;
  const Tensor codebooks = solve([&] { ++polls; });
  const int64_t blocks = (unknowns + 127) / 128 + (d + 127) / 128;
  CHECK(polls == blocks);
  // Least squares: the errors of each codeword's vectors add up to 0.
  const Tensor xhat = Tensor::empty({n, d});
  additive_decode(Context::cpu(), codebooks, n, codes.data(), M, M, xhat.data<float>());
  std::vector<double> sums(static_cast<size_t>(unknowns * d));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t m = 0; m < M; ++m)
      for (int64_t j = 0; j < d; ++j)
        sums[static_cast<size_t>((m * K + codes[static_cast<size_t>(i * M + m)]) * d + j)] +=
            static_cast<double>(x.data<float>()[i * d + j]) - static_cast<double>(xhat.data<float>()[i * d + j]);
  CHECK(std::all_of(sums.begin(), sums.end(), [](double sum) { return std::abs(sum) < 1e-3; }));
  for (const int64_t last : {int64_t{1}, blocks}) {
    polls = 0;
    CHECK(error_of([&] { solve([&] { check(++polls < last, "stopped"); }); }) == "stopped");
    CHECK(polls == last);
  }
}

TEST_CASE("fixed codebooks: what cannot be fitted is refused") {
  AdditiveFit fit(2, 4, 1);
  CHECK(contains(error_of([] { AdditiveFit(2, 4, 1).solve(); }), "no vectors"));
  const float x[] = {1, 2};
  const int32_t codes[] = {0, 3, 1, 4};
  CHECK(contains(error_of([&] { fit.add(Context::cpu(), 2, x, codes); }), "row 1: expected codes in [0,4), found 4"));
  CHECK(contains(error_of([] { AdditiveFit(512, 256, 1); }), "M x K = 512 x 256"));
  const float bad[] = {1, INFINITY};
  CHECK(contains(error_of([&] { fit.add(Context::cpu(), 2, bad, codes); }), "row 1: expected codes"));
  CHECK(
      contains(error_of([&] { fit.add(Context::cpu(), 2, bad, std::vector<int32_t>(4).data()); }), "row 1 holds inf"));
  fit.add(Context::cpu(), 1, x, codes);
  std::move(fit).solve();
  CHECK(contains(error_of([&] { fit.add(Context::cpu(), 1, x, codes); }), "come before solving"));
}

TEST_CASE("fixed codebooks: decoding takes any strides, and refuses codes and prefixes out of range") {
  const Tensor all = tests::normal_vectors(2 * 6, 3, 1).reshape({2, 6, 3}), few = all.slice(1, 0, 4);
  const std::vector<int32_t> codes = {3, 0, 1, 2}, out = {0, 1, 4, 0}, negative = {0, -1, 0, 0};
  const Tensor a = Tensor::empty({2, 3}), b = Tensor::empty({2, 3});
  const auto decode = [&](const Tensor& codebooks, const std::vector<int32_t>& given, int64_t used, const Tensor& x) {
    additive_decode(Context::cpu(), codebooks, 2, given.data(), 2, used, x.data<float>());
  };
  decode(few, codes, 2, a);
  decode(all, codes, 2, b);
  CHECK(same_bits(a, b));
  CHECK(contains(error_of([&] { decode(few, out, 2, a); }), "decode: row 1: expected codes in [0,4), found 4"));
  CHECK(contains(error_of([&] { decode(few, negative, 2, a); }), "decode: row 0: expected codes in [0,4), found -1"));
  CHECK(contains(error_of([&] { decode(few, codes, 3, a); }), "expected 1 to 2 codes a vector, found 3"));
}

TEST_CASE("norms in 8 bits: nothing to fit to, and levels of another number, are refused") {
  CHECK(contains(error_of([] { NormQuantizer(0, nullptr); }), "norms: none"));
  CHECK(contains(error_of([] { NormQuantizer(std::vector<float>(255)); }), "expected 256 levels, found 255"));
}

TEST_CASE("norms in 8 bits: the nearest of ascending levels, with a small error") {
  const int64_t n = 5000;
  Tensor norms = Tensor::empty({n});
  Random(5).normal(norms, 200, 20);
  const float* const values = norms.data<float>();
  const NormQuantizer quantizer(n, values);
  const std::vector<float>& levels = quantizer.levels();
  REQUIRE(levels.size() == 256);
  CHECK(std::is_sorted(levels.begin(), levels.end()));
  std::vector<uint8_t> codes(n);
  quantizer.encode(n, values, codes.data());
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float distance = std::abs(values[i] - levels[codes[i]]);
    float nearest = distance;
    for (const float level : levels) nearest = std::min(nearest, std::abs(values[i] - level));
    CHECK(distance == nearest);
    error += static_cast<double>(distance * distance);
  }
  CHECK(error / n < 0.02);  // 256 equal steps over 8 deviations: 0.63^2 / 12 = 0.033
  const float few[] = {3, 1, 3};
  const NormQuantizer small(3, few);
  small.encode(3, few, codes.data());
  for (int i = 0; i < 3; ++i) CHECK(small.levels()[codes[i]] == doctest::Approx(few[i]).epsilon(2e-3));
}

}  // namespace
}  // namespace qinco
