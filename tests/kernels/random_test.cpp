// uniform, dropout_mask and normal: the numbers of Philox's published vectors, and the same bits in every version at
// any place of a stream.
#include <doctest/doctest.h>
#include <numbers>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(uniform);
QINCO_COVERS(dropout_mask);
QINCO_COVERS(normal);

// At the beginning, in the middle, where the counter's low word overflows, and where the whole counter does.
constexpr RandomState kStates[] = {
    {0, 0, 0}, {7, 1, 12'345}, {~uint64_t{0}, uint64_t{3} << 40, 0xfffffffe}, {uint64_t{1} << 33, 5, ~uint64_t{0} - 1}};

struct Interval {
  double lo, hi;
};
// The third is so narrow that rounding reaches its end. The last two are empty: all values are lo, or below it.
constexpr Interval kIntervals[] = {{-1, 3}, {0.1, 0.7}, {1, 1 + 0x1p-22}, {-1e-3, 1e6}, {2, 2}, {3, -2}};

RandomState later(RandomState state, int64_t blocks) {
  state.position += static_cast<uint64_t>(blocks);
  return state;
}

template <class T>
std::vector<T> run_uniform(const Table<T>& t, const Context& context, const RandomState& state, int64_t n,
                           Interval interval, int64_t offset = 1) {
  Buffer<T> out(n, offset);
  t.uniform(context, state, n, interval.lo, interval.hi, out.data());
  CHECK(out.guards_hold());
  return out.values();
}

std::vector<float> run_mask(const Table<float>& t, const Context& context, const RandomState& state, int64_t n,
                            double p, int64_t offset = 1) {
  Buffer<float> out(n, offset);
  t.dropout_mask(context, state, n, p, out.data());
  CHECK(out.guards_hold());
  return out.values();
}

// The definition, from the values of [0,1): the product is rounded before the sum, which `volatile` makes sure of.
template <class T>
std::vector<T> expected_uniform(const std::vector<T>& units, Interval interval) {
  const T lo = static_cast<T>(interval.lo), hi = static_cast<T>(interval.hi);
  const T width = static_cast<T>(interval.hi - interval.lo);
  std::vector<T> values;
  for (const T u : units) {
    const volatile T product = width * u;
    const T value = lo + product;
    values.push_back(hi > lo ? std::min(value, std::nextafter(hi, lo)) : std::min(value, lo));
  }
  return values;
}

struct Bell {
  double mean, stddev;
};
// None of these may be drawn quicker at the price of a bit: far from zero, with no width, among denormals, upside down,
// beyond the largest float, and with no finite values at all.
constexpr Bell kBells[] = {{0, 1},     {5, 2},  {1e6, 1},     {0, 0},    {-0.0, 0}, {2, 0},
                           {0, 1e-40}, {0, -1}, {1e38, 1e39}, {0, kInf}, {kNan, 1}};

template <class T>
std::vector<T> run_normal(const Table<T>& t, const Context& context, const RandomState& state, int64_t n, Bell bell,
                          int64_t offset = 1) {
  Buffer<T> out(n, offset);
  t.normal(context, state, n, bell.mean, bell.stddev, out.data());
  CHECK(out.guards_hold());
  return out.values();
}

// The definition, from the values of [0,1); the last radius may lack its angle's second value.
template <class T>
std::vector<T> expected_normal(std::vector<T> units, Bell bell, size_t n) {
  std::vector<T> values;
  for (size_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(units[i - i % 2]), turn = static_cast<double>(units[i - i % 2 + 1]);
    const double radius = bell.stddev * std::sqrt(-2 * std::log(1 - u)), angle = 2 * std::numbers::pi * turn;
    const volatile double product = radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
    values.push_back(static_cast<T>(bell.mean + product));
  }
  return values;
}

std::vector<float> expected_mask(const std::vector<float>& units, double p) {
  std::vector<float> values;
  for (const float u : units) values.push_back(u < static_cast<float>(p) ? 0.0f : static_cast<float>(1 / (1 - p)));
  return values;
}

}  // namespace

TEST_CASE("uniform and dropout_mask: values worked out by hand, of Philox's known answers") {
  const RandomState zeros{0, 0, 0}, digits{0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88};
  const std::vector<float> of_zeros = {0x6627e8p-24f, 0xe169c5p-24f, 0xbc57acp-24f, 0x9b00dbp-24f};
  const std::vector<float> of_digits = {0xd16cfep-24f, 0x94fdccp-24f, 0x5001e4p-24f, 0x24126ep-24f};
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    check_equal(run_uniform(t, TestContext(), zeros, 4, {0, 1}), of_zeros, version.name);
    check_equal(run_uniform(t, TestContext(), digits, 4, {0, 1}), of_digits, version.name);
    check_equal(run_uniform(t, TestContext(), digits, 3, {-2, 2}),
                {-2 + 4 * of_digits[0], -2 + 4 * of_digits[1], -2 + 4 * of_digits[2]}, version.name);
    check_equal(run_mask(t, TestContext(), zeros, 4, 0.75), {0, 4, 0, 0}, version.name);
    check_equal(run_mask(t, TestContext(), digits, 4, 0.5), {2, 2, 0, 0}, version.name);
    check_equal(run_mask(t, TestContext(), digits, 4, 0), {1, 1, 1, 1}, version.name);
    const double second = of_zeros[1];  // which is not below itself
    check_equal(run_mask(t, TestContext(), zeros, 4, second), {0, static_cast<float>(1 / (1 - second)), 0, 0},
                version.name);
  });
  Buffer<double> out(3), mask(3, 2);
  table<double>().uniform(TestContext(), zeros, 2, 0, 1, out.data());
  table<double>().uniform(TestContext(), digits, 1, 0, 1, out.data() + 2);
  table<double>().dropout_mask(TestContext(), zeros, 2, 0.75, mask.data());
  table<double>().dropout_mask(TestContext(), digits, 1, 0.5, mask.data() + 2);
  CHECK((out.guards_hold() && mask.guards_hold()));
  // The second word is the higher one: e169c58d6627e8d5, 9b00dbd8bc57ac4c and 94fdccebd16cfe09, without 11 bits.
  check_equal(out.values(), {0x1c2d38b1acc4fdp-53, 0x13601b7b178af5p-53, 0x129fb99d7a2d9fp-53}, "double");
  check_equal(mask.values(), {4, 0, 2}, "double");
}

TEST_CASE("uniform and dropout_mask: the definition, bit for bit, at any place of a stream, aligned and not") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const RandomState& state : kStates)
      for (const int64_t n : kTailSizes) {
        const std::string what = fmt::format("{} n={} position={}", version.name, n, state.position);
        const std::vector<float> units = run_uniform(reference, TestContext(), state, n, {0, 1});
        for (const int64_t offset : {0, 1}) {
          for (const Interval interval : kIntervals)
            CHECK_MESSAGE(
                same_bits(run_uniform(t, TestContext(), state, n, interval, offset), expected_uniform(units, interval)),
                what << " in " << interval.lo << " to " << interval.hi);
          for (const double p : {0.0, 0.1, 0.5, 0.99})
            CHECK_MESSAGE(same_bits(run_mask(t, TestContext(), state, n, p, offset), expected_mask(units, p)),
                          what << " p=" << p);
        }
        // What lies some blocks on begins so many blocks later.
        const int64_t blocks = n / 8;
        const std::vector<float> rest = run_uniform(t, TestContext(), later(state, blocks), n - 4 * blocks, {0, 1});
        CHECK_MESSAGE(same_bits(rest, {units.begin() + 4 * blocks, units.end()}), what);
      }
    Buffer<float> none(1);
    t.uniform(TestContext(), {}, 0, 0, 1, none.data());
    t.dropout_mask(TestContext(), {}, 0, 0.5, none.data());
    check_equal(none.values(), {kNan}, "empty");
  });
}

TEST_CASE("uniform: the definition in double") {
  for (const RandomState& state : kStates)
    for (const Interval interval : kIntervals) {
      const std::vector<double> units = run_uniform(table<double>(), TestContext(), state, 129, {0, 1});
      const std::vector<double> values = run_uniform(table<double>(), TestContext(), state, 129, interval);
      CHECK_MESSAGE(same_bits(values, expected_uniform(units, interval)), interval.lo << " to " << interval.hi);
    }
}

TEST_CASE("normal: the definition, bit for bit, at any place of a stream") {
  const auto check_state = [](const RandomState& state, int64_t n, const Bell& bell) {
    const std::vector<float> units = run_uniform(table<float>(Isa::reference), TestContext(), state, n + 1, {0, 1});
    const std::vector<float> expected = expected_normal(units, bell, static_cast<size_t>(n));
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CHECK_MESSAGE(same_bits(run_normal(t, TestContext(), state, n, bell), expected),
                    fmt::format("{} n={} position={} {}+-{}", version.name, n, state.position, bell.mean, bell.stddev));
    });
  };
  for (const RandomState& state : kStates)
    for (const Bell& bell : kBells)
      for (const int64_t n : kTailSizes) check_state(state, n, bell);
  check_state({4, 2, 1}, (1 << 18) + 37, {0, 1});  // on a GPU, in parts
  // Blocks with a value that lies so near to the middle between two floats that a quicker logarithm rounds it up.
  for (const uint64_t block : {9'013'078, 13'231'107, 24'770'387, 26'093'671}) check_state({1, 0, block}, 32, {0, 1});
  // One with half a turn, whose sine is a zero of the other sign to what rounds the angle less.
  check_state({1, 0, 11'368'472}, 32, {0, 1e-60});
  const std::vector<double> wide = run_uniform(table<double>(), TestContext(), kStates[1], 34, {0, 1});
  CHECK(
      same_bits(run_normal(table<double>(), TestContext(), kStates[1], 33, {5, 2}), expected_normal(wide, {5, 2}, 33)));
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const auto run = [&](const Context& context) { return run_normal(t, context, {3, 1, 4}, 50'003, {0, 1}); };
    check_any_thread_count(run, version.name);
  });
}

TEST_CASE("uniform and dropout_mask: the same bits at any thread count") {
  const int64_t n = 50'003;
  const RandomState state{3, 1, 4};
  const std::vector<float> units = run_uniform(table<float>(Isa::reference), TestContext(), state, n, {0, 1});
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const auto uniform = [&](const Context& context) { return run_uniform(t, context, state, n, {0, 1}); };
    const auto mask = [&](const Context& context) { return run_mask(t, context, state, n, 0.25); };
    check_any_thread_count(uniform, version.name);
    check_any_thread_count(mask, version.name);
    CHECK(same_bits(uniform(TestContext()), units));
    CHECK(same_bits(mask(TestContext()), expected_mask(units, 0.25)));
  });
}

}  // namespace qinco::kernels::tests
