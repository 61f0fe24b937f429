// Philox against the published vectors; distributions, streams, resuming.
#include "tensor/random.h"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/context.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

TEST_CASE("random: Philox4x32-10 known answers (Random123, kat_vectors)") {
  using Block = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random: uniform and normal moments") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name(dtype));
    constexpr int64_t kCount = 200'003;
    constexpr auto kN = static_cast<double>(kCount);
    Tensor x = Tensor::empty({kCount}, dtype);
    Random random(42);
    const auto central_moment = [&](int power, double about) {
      const Tensor values = x.to(DType::f64);
      double total = 0;
      for (int64_t i = 0; i < kCount; ++i) total += std::pow(values.data<double>()[i] - about, power);
      return total / kN;
    };
    random.uniform(x, -1, 3);
    CHECK(std::abs(central_moment(1, 1)) <= 4 * std::sqrt(4.0 / 3 / kN));
    CHECK(central_moment(2, 1) == doctest::Approx(4.0 / 3).epsilon(0.01));
    const Tensor values = x.to(DType::f64);
    const auto [low, high] = std::minmax_element(values.data<double>(), values.data<double>() + kCount);
    CHECK(*low >= -1);
    CHECK(*low <= -0.999);
    CHECK(*high < 3);
    CHECK(*high >= 2.999);
    random.normal(x, 5, 2);
    CHECK(std::abs(central_moment(1, 5)) <= 4 * 2 / std::sqrt(kN));
    CHECK(central_moment(2, 5) == doctest::Approx(4).epsilon(0.02));
    CHECK(std::abs(central_moment(3, 5)) <= 0.5);
    CHECK(central_moment(4, 5) == doctest::Approx(3 * 16).epsilon(0.05));
  }
}

TEST_CASE("random: a narrow interval's end is never drawn") {
  Tensor x = Tensor::empty({10'000});
  const float lo = 1, hi = 1 + 0x1p-22f;
  Random(1).uniform(x, lo, hi);
  const auto [low, high] = std::minmax_element(x.data<float>(), x.data<float>() + x.numel());
  CHECK(*low == lo);
  CHECK(*high < hi);
}

TEST_CASE("random: numbers depend on seed, stream and position only") {
  const int threads = kernels::default_threads();
  std::vector<Tensor> draws;
  for (const int n : {1, 3}) {
    kernels::set_default_threads(n);
    Random random(7, 1);
    Tensor x = Tensor::empty({100'001});
    random.normal(x);
    draws.push_back(x);
  }
  kernels::set_default_threads(threads);
  CHECK(same_bits(draws[0], draws[1]));
  CHECK(Random(7).block(3) == Random(7).block(3));
  CHECK(Random(7).block(3) != Random(7).block(4));
  CHECK(Random(7).block(3) != Random(8).block(3));
  CHECK(Random(7, 1).block(3) != Random(7, 2).block(3));

  Random random(9);
  Tensor first = Tensor::empty({7}), second = Tensor::empty({5});
  random.uniform(first, 0, 1);
  const RandomState state = random.state();
  random.uniform(second, 0, 1);
  const uint64_t next = random.next64();
  Random resumed(0);
  resumed.set_state(state);
  Tensor again = Tensor::empty({5});
  resumed.uniform(again, 0, 1);
  CHECK(same_bits(second, again));
  CHECK(resumed.next64() == next);
  CHECK(!same_bits(first.slice(0, 0, 5), second));
}

TEST_CASE("random: a dropout mask is 0 where uniform values are below p") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor values = Tensor::empty({1001}, dtype), mask = Tensor::empty({1001}, dtype);
    Random one(5), other(5);
    one.uniform(values, 0, 1);
    other.dropout_mask(mask, 0.2);
    CHECK(one.state() == other.state());
    const Tensor u = values.to(DType::f64), kept = mask.to(DType::f64);
    int zeros = 0;
    for (int64_t i = 0; i < u.numel(); ++i) {
      const double found = kept.data<double>()[i];
      CHECK(found == (u.data<double>()[i] < 0.2 ? 0 : 1.25));
      zeros += found == 0;
    }
    CHECK(std::abs(zeros - 200) <= 51);  // four standard deviations
  }
  const Tensor x = Tensor::empty({4, 4});
  for (const double p : {-0.1, 1.0, std::nan("")})
    CHECK(contains(error_of([&] { Random(1).dropout_mask(x, p); }), "expected 0 <= p < 1, found"));
  CHECK(contains(error_of([&] { Random(1).dropout_mask(x.transpose(0, 1), 0.5); }), "dropout: expected a contiguous"));
  CHECK(contains(error_of([&] { Random(1).uniform(x.slice(1, 0, 2), 0, 1); }), "uniform: expected a contiguous"));
  CHECK(contains(error_of([&] { Random(1).normal(Tensor::empty({2}, DType::i32)); }), "normal: expected f32 or f64"));
}

TEST_CASE("random: parameters that cannot be drawn from are refused, and nothing is drawn") {
  Random random(1);
  const Tensor x = zeros({6}), wide = zeros({6}, DType::f64);
  const double nan = std::nan("");
  using Pairs = std::vector<std::pair<double, double>>;
  for (const auto& range : Pairs{{1, 0}, {nan, 1}, {0, nan}, {-INFINITY, 0}, {-3e38, 3e38}, {0, 1e39}, {-1e39, -1e39}})
    CHECK(
        contains(error_of([&] { random.uniform(x, range.first, range.second); }), "uniform: expected lo <= hi, both"));
  CHECK(contains(error_of([&] { random.uniform(wide, -1e308, 1e308); }), "finite in f64, found lo -1e+308 and hi"));
  for (const auto& normal : Pairs{{0, -1}, {nan, 1}, {0, nan}, {0, 1e39}, {-1e39, 1}})
    CHECK(contains(error_of([&] { random.normal(x, normal.first, normal.second); }), "normal: expected a mean and a"));
  CHECK(random.state() == Random(1).state());
  CHECK(same_bits(x, zeros({6})));
  random.uniform(wide, -3e38, 3e38);
  random.uniform(x, 2, 2);
  CHECK(same_bits(x, full({6}, 2)));
  random.normal(x, 3, 0);
  CHECK(same_bits(x, full({6}, 3)));
}

TEST_CASE("random: below is unbiased and in range") {
  Random random(3);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70'000; ++i) ++counts[random.below(7)];
  double chi_squared = 0;
  for (const int count : counts) chi_squared += std::pow(count - 10'000, 2) / 10'000;
  CHECK(chi_squared <= 22.5);  // 6 degrees of freedom: exceeded once in a thousand seeds
  CHECK(random.below(1) == 0);
  // Just above 2^63 nearly half of all words are drawn again.
  for (int i = 0; i < 100; ++i) CHECK(random.below((uint64_t{1} << 63) + 1) <= uint64_t{1} << 63);
  // Of 3 2^62, the first third would come twice as often as the others if no word were drawn again.
  int first_third = 0;
  for (int i = 0; i < 900; ++i) first_third += random.below(uint64_t{3} << 62) < uint64_t{1} << 62;
  CHECK(std::abs(first_third - 300) <= 57);  // four standard deviations
  CHECK(contains(error_of([&] { random.below(0); }), "expected n >= 1"));
}

TEST_CASE("random: permutations are permutations, all orders alike") {
  Random random(4);
  std::vector<int32_t> order = random.permutation(1000);
  CHECK(!std::is_sorted(order.begin(), order.end()));
  std::sort(order.begin(), order.end());
  std::vector<int32_t> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(order == expected);
  CHECK(random.permutation(0).empty());
  std::array<int, 6> counts{};
  for (int i = 0; i < 6000; ++i) {
    const auto p = random.permutation(3);
    ++counts[static_cast<size_t>(p[0] * 2 + (p[1] > p[2]))];
  }
  for (const int count : counts) CHECK(std::abs(count - 1000) <= 120);
}
