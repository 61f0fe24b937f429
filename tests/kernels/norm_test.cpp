// layer_norm and layer_norm_backward.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(layer_norm);
QINCO_COVERS(layer_norm_backward);

constexpr double kEps = 1e-5;

// All outputs of a pass, one after the other: y, mean, rstd or dx, dgamma, dbeta.
std::vector<float> join(const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& c) {
  std::vector<float> all(a);
  all.insert(all.end(), b.begin(), b.end());
  all.insert(all.end(), c.begin(), c.end());
  return all;
}

struct Inputs {
  int64_t rows, cols;
  std::vector<float> x, gamma, beta, dy;

  Inputs(int64_t rows_, int64_t cols_)
      : rows(rows_),
        cols(cols_),
        x(Data(1).normal(rows * cols, 2, 3)),
        gamma(Data(2).normal(cols)),
        beta(Data(3).normal(cols)),
        dy(Data(4).normal(rows * cols)) {}
};

std::vector<float> forward(const Table<float>& t, const Context& context, const Inputs& in) {
  Buffer<float> x(in.x), gamma(in.gamma, 2), beta(in.beta, 3);
  Buffer<float> y(in.rows * in.cols, 4), mean(in.rows, 5), rstd(in.rows, 6);
  t.layer_norm(context, in.rows, in.cols, x.data(), gamma.data(), beta.data(), kEps, y.data(), mean.data(),
               rstd.data());
  CHECK(y.guards_hold());
  CHECK(mean.guards_hold());
  CHECK(rstd.guards_hold());
  return join(y.values(), mean.values(), rstd.values());
}

// `saved` is what forward() returned.
std::vector<float> backward(const Table<float>& t, const Context& context, const Inputs& in,
                            const std::vector<float>& saved) {
  const int64_t n = in.rows * in.cols;
  Buffer<float> x(in.x), gamma(in.gamma, 2), dy(in.dy, 3), dx(n, 4), dgamma(in.cols, 5), dbeta(in.cols, 6);
  Buffer<float> mean(std::vector<float>(saved.begin() + n, saved.begin() + n + in.rows));
  Buffer<float> rstd(std::vector<float>(saved.begin() + n + in.rows, saved.end()));
  t.layer_norm_backward(context, in.rows, in.cols, x.data(), gamma.data(), mean.data(), rstd.data(), dy.data(),
                        dx.data(), dgamma.data(), dbeta.data());
  CHECK(dx.guards_hold());
  CHECK(dgamma.guards_hold());
  CHECK(dbeta.guards_hold());
  return join(dx.values(), dgamma.values(), dbeta.values());
}

}  // namespace

TEST_CASE("layer_norm: within rounding on tail sizes") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const int64_t rows : {1, 5, 70})
      for (const int64_t cols : kTailSizes) {
        const std::string what = fmt::format("{} {}x{}", version.name, rows, cols);
        const Inputs in(rows, cols);
        const std::vector<float> expected = forward(reference, TestContext(), in);
        // The mean (of size 10 at most) is rounded to float, and rstd (up to 1/sqrt(eps)) multiplies that error.
        const auto bound = [&](int64_t i) {
          const int64_t row = i < rows * cols ? i / cols : 0;
          const double rstd = expected[static_cast<size_t>(rows * cols + rows + row)];
          const double gamma = i < rows * cols ? std::fabs(in.gamma[static_cast<size_t>(i % cols)]) : 1;
          return kEpsilon * (32 * rstd * gamma + 16 * std::fabs(expected[static_cast<size_t>(i)]) + 32);
        };
        check_close(forward(t, TestContext(), in), expected, bound, what);
      }
  });
}

TEST_CASE("layer_norm_backward: within rounding on tail sizes") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const int64_t rows : {1, 5, 70})
      for (const int64_t cols : kTailSizes) {
        const Inputs in(rows, cols);
        const std::vector<float> saved = forward(reference, TestContext(), in);
        const std::vector<float> expected = backward(reference, TestContext(), in, saved);
        const int64_t n = rows * cols;
        const auto bound = [&](int64_t i) {  // terms of size 3 (dy, gamma, xn) times rstd; sums of `rows` such terms
          if (i >= n) return kEpsilon * 32 * static_cast<double>(rows);
          return kEpsilon * 256 * static_cast<double>(saved[static_cast<size_t>(n + rows + i / cols)]);
        };
        check_close(backward(t, TestContext(), in, saved), expected, bound,
                    fmt::format("{} {}x{}", version.name, rows, cols));
      }
  });
}

TEST_CASE("layer_norm: a row worked out by hand") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    Inputs in(1, 4);
    in.x = {1, 2, 3, 6};  // mean 3, variance 3.5
    in.gamma = {1, 1, 2, 1};
    in.beta = {0, 0, 1, 10};
    const double rstd = 1 / std::sqrt(3.5 + kEps);
    check_close(
        forward(t, TestContext(), in), std::vector<double>{-2 * rstd, -rstd, 1, 10 + 3 * rstd, 3, rstd},
        [](int64_t) { return 2e-6; }, version.name);
  });
}

TEST_CASE("layer_norm: no rows leave gradients of zero") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    check_equal(backward(t, TestContext(), Inputs(0, 3), {}), std::vector<float>(6), version.name);
  });
}

TEST_CASE("layer_norm: the same bits at any thread count") {
  const Inputs in(3001, 67);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const std::vector<float> saved = forward(t, TestContext(), in);
    check_any_thread_count([&](const Context& c) { return forward(t, c, in); }, version.name);
    check_any_thread_count([&](const Context& c) { return backward(t, c, in, saved); }, version.name);
  });
}

}  // namespace qinco::kernels::tests
