// sum, sum_squared_difference, row_sum, column_sum, row_squared_norm, row_squared_distance, row_argmin.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(sum);
QINCO_COVERS(sum_squared_difference);
QINCO_COVERS(row_sum);
QINCO_COVERS(column_sum);
QINCO_COVERS(row_squared_norm);
QINCO_COVERS(row_squared_distance);
QINCO_COVERS(row_argmin);

using RowKernel = void (*)(const Context&, int64_t rows, int64_t cols, const float* x, float* out);

// A kernel from a matrix to one value per row or column, with what bounds its error: the sum of |terms| per result.
struct Reduction {
  const char* name;
  RowKernel Table<float>::*kernel;
  bool over_columns;
  double (*magnitude)(double x);
};

const Reduction kReductions[] = {
    {"row_sum", &Table<float>::row_sum, false, [](double x) { return std::fabs(x); }},
    {"row_squared_norm", &Table<float>::row_squared_norm, false, [](double x) { return x * x; }},
    {"column_sum", &Table<float>::column_sum, true, [](double x) { return std::fabs(x); }},
};

std::vector<float> run(const Table<float>& t, const Reduction& r, const Context& context, int64_t rows, int64_t cols,
                       const std::vector<float>& x) {
  Buffer<float> in(x), out(r.over_columns ? cols : rows, 3);
  (t.*r.kernel)(context, rows, cols, in.data(), out.data());
  CHECK(out.guards_hold());
  return out.values();
}

// A lane adds at most 4096/8 terms of a block, or 64 rows, one after the other; rounding errors of both signs cancel,
// so that 16 roundings of the whole magnitude are plenty.
void check_reduction(const Table<float>& t, const Reduction& r, int64_t rows, int64_t cols,
                     const std::string& version) {
  const std::string what = fmt::format("{} {} {}x{}", version, r.name, rows, cols);
  const Table<float>& reference = table<float>(Isa::reference);
  const std::vector<float> k = Data(1).integers(rows * cols), x = Data(2).normal(rows * cols, 1);
  check_equal(run(t, r, TestContext(), rows, cols, k), run(reference, r, TestContext(), rows, cols, k), what);

  std::vector<double> magnitude(static_cast<size_t>(r.over_columns ? cols : rows));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j)
      magnitude[static_cast<size_t>(r.over_columns ? j : i)] += r.magnitude(x[static_cast<size_t>(i * cols + j)]);
  check_close(
      run(t, r, TestContext(), rows, cols, x), run(reference, r, TestContext(), rows, cols, x),
      [&](int64_t i) { return 16 * kEpsilon * magnitude[static_cast<size_t>(i)]; }, what);
}

std::vector<int32_t> run_argmin(const Table<float>& t, const Context& context, int64_t rows, int64_t cols,
                                const std::vector<float>& x) {
  Buffer<float> in(x);
  Buffer<int32_t> ids(rows, 3);
  t.row_argmin(context, rows, cols, in.data(), ids.data());
  CHECK(ids.guards_hold());
  return ids.values();
}

}  // namespace

TEST_CASE("row and column reductions: exact on integers, within rounding else") {
  for_each_version([](const Table<float>& t, const Version& version) {
    for (const Reduction& r : kReductions) {
      for (const int64_t rows : {1, 3, 4, 17, 70})
        for (const int64_t cols : kTailSizes) check_reduction(t, r, rows, cols, version.name);
      check_reduction(t, r, 1, 100'003, version.name);
      check_reduction(t, r, 20'011, 9, version.name);
    }
  });
}

TEST_CASE("row and column reductions: empty and the same bits at any thread count") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    for (const Reduction& r : kReductions) {
      for (const int64_t d : {131, 3}) {
        const int64_t n = 132'703 / d;
        const std::vector<float> x = Data(3).normal(n * d);
        check_any_thread_count([&](const Context& context) { return run(t, r, context, n, d, x); },
                               fmt::format("{} {}", version.name, r.name));
      }
      const int64_t rows = r.over_columns ? 0 : 3, cols = r.over_columns ? 3 : 0;
      check_equal(run(t, r, TestContext(), rows, cols, {}), {0, 0, 0}, r.name);
    }
  });
}

// After a first term of 2^24, what is 1 would be lost in a sum of floats.
TEST_CASE("row and column reductions: long sums lose no digits, however many stand side by side") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    for (const Reduction& r : kReductions) {
      const int64_t many = 17, length = 3 * 4096;
      const int64_t rows = r.over_columns ? length : many, cols = r.over_columns ? many : length;
      const float first = r.magnitude(2) == 4 ? 0x1p12f : 0x1p24f;
      std::vector<float> x(static_cast<size_t>(many * length));
      for (int64_t i = 0; i < length; ++i)
        for (int64_t j = 0; j < many; ++j)
          x[static_cast<size_t>(r.over_columns ? i * many + j : j * length + i)] = i == 0 ? first : i < 4096 ? 0 : 1;
      check_equal(run(t, r, TestContext(), rows, cols, x),
                  std::vector<float>(static_cast<size_t>(many), 0x1p24f + 8192),
                  fmt::format("{} {}", version.name, r.name));
    }
  });
}

TEST_CASE("row_squared_distance: exact on integers, and far from the origin as near it") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    const auto distances = [&t](const Context& context, int64_t rows, int64_t cols, const std::vector<float>& x,
                                const std::vector<float>& y) {
      Buffer<float> in(x), origin(y, 1), out(rows, 3);
      t.row_squared_distance(context, rows, cols, in.data(), origin.data(), out.data());
      CHECK(out.guards_hold());
      return out.values();
    };
    const auto in_double = [](int64_t rows, int64_t cols, const std::vector<float>& x, const std::vector<float>& y) {
      std::vector<float> totals;
      for (int64_t i = 0; i < rows; ++i) {
        double total = 0;
        for (int64_t j = 0; j < cols; ++j) {
          const double difference =
              static_cast<double>(x[static_cast<size_t>(i * cols + j)]) - y[static_cast<size_t>(j)];
          total += difference * difference;
        }
        totals.push_back(static_cast<float>(total));
      }
      return totals;
    };
    for (const int64_t rows : {0, 1, 3, 70})
      for (const int64_t cols : kTailSizes) {
        const std::string what = fmt::format("{} {}x{}", version.name, rows, cols);
        const std::vector<float> k = Data(8).integers(rows * cols), c = Data(9).integers(cols);
        check_equal(distances(TestContext(), rows, cols, k, c), in_double(rows, cols, k, c), what);
        // All terms are positive, and differences of floats this close are exact.
        const std::vector<float> x = Data(10).normal(rows * cols, 1000), y = Data(11).normal(cols, 1000);
        const std::vector<float> expected = in_double(rows, cols, x, y);
        check_close(
            distances(TestContext(), rows, cols, x, y), expected,
            [&](int64_t i) { return 16 * kEpsilon * static_cast<double>(expected[static_cast<size_t>(i)]); }, what);
      }
    const std::vector<float> x = Data(12).normal(1013 * 131), y = Data(13).normal(131);
    check_any_thread_count([&](const Context& context) { return distances(context, 1013, 131, x, y); }, version.name);
    check_equal(distances(TestContext(), 3, 0, {}, {}), {0, 0, 0}, version.name);
  });
}

TEST_CASE("sum and sum_squared_difference: double accumulators") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    std::vector<int64_t> sizes(std::begin(kTailSizes), std::end(kTailSizes));
    sizes.insert(sizes.end(), {0, 16384, 16385, 100'003});
    for (const int64_t n : sizes) {
      const std::string what = fmt::format("{} n={}", version.name, n);
      const std::vector<float> a = Data(4).normal(n, 1000), b = Data(5).normal(n, 999);
      double total = 0, squares = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        total += a[i];
        squares += difference * difference;
      }
      Buffer<float> left(a), right(b, 3);
      const auto run_both = [&](const Context& context) {
        return std::vector<double>{t.sum(context, n, left.data()),
                                   t.sum_squared_difference(context, n, left.data(), right.data())};
      };
      const std::vector<double> found = run_both(TestContext());
      const double scale = 1e-13 * static_cast<double>(n);  // n roundings of a double, in the worst order
      CHECK_MESSAGE(std::fabs(found[0] - total) <= scale * 1000, what);
      CHECK_MESSAGE(std::fabs(found[1] - squares) <= scale * 10, what);
      check_any_thread_count(run_both, what);
    }
  });
}

TEST_CASE("row_argmin: lowest index among equals, never NaN") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    for (const int64_t cols : kTailSizes) {
      const int64_t rows = 50;
      std::vector<float> x = Data(6).integers(rows * cols, 2);  // many ties
      for (size_t i = 0; i < x.size(); i += 7) x[i] = kNan;
      for (size_t i = 3; i < x.size(); i += 11) x[i] = kInf;
      std::vector<int32_t> expected;
      for (int64_t i = 0; i < rows; ++i) {
        int64_t best = -1;
        for (int64_t j = 0; j < cols; ++j) {
          const float value = x[static_cast<size_t>(i * cols + j)];
          if (!std::isnan(value) && (best < 0 || value < x[static_cast<size_t>(i * cols + best)])) best = j;
        }
        expected.push_back(static_cast<int32_t>(best < 0 ? 0 : best));
      }
      CHECK_MESSAGE(run_argmin(t, TestContext(), rows, cols, x) == expected, version.name << " cols=" << cols);
    }
    const std::vector<float> special = {kNan, kNan, kNan, kNan, kInf, kInf, 0, -0.0f, 0, -kInf, kNan, -kInf};
    CHECK(run_argmin(t, TestContext(), 4, 3, special) == std::vector<int32_t>{0, 1, 0, 0});
    const std::vector<float> x = Data(7).normal(1009 * 300);
    check_any_thread_count([&](const Context& context) { return run_argmin(t, context, 1009, 300, x); }, version.name);
  });
}

}  // namespace qinco::kernels::tests
