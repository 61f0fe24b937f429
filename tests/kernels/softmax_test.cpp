// log_sum_exp, softmax, log_softmax and their backward passes.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(log_sum_exp);
QINCO_COVERS(softmax);
QINCO_COVERS(log_softmax);
QINCO_COVERS(softmax_backward);
QINCO_COVERS(log_softmax_backward);

using Forward = void (*)(const Context&, int64_t rows, int64_t cols, const float* x, float* y);
using Backward = void (*)(const Context&, int64_t rows, int64_t cols, const float* y, const float* dy, float* dx);

std::vector<float> run(Forward kernel, const Context& context, int64_t rows, int64_t cols, const std::vector<float>& x,
                       int64_t results) {
  Buffer<float> in(x), out(results, 3);
  kernel(context, rows, cols, in.data(), out.data());
  CHECK(out.guards_hold());
  return out.values();
}

std::vector<float> run(Backward kernel, const Context& context, int64_t rows, int64_t cols, const std::vector<float>& y,
                       const std::vector<float>& dy) {
  Buffer<float> in(y), gradient(dy, 2), out(rows * cols, 3);
  kernel(context, rows, cols, in.data(), gradient.data(), out.data());
  CHECK(out.guards_hold());
  return out.values();
}

constexpr int64_t kRows = 5;

}  // namespace

TEST_CASE("softmax family: within rounding on tail sizes") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    std::vector<int64_t> sizes(std::begin(kTailSizes), std::end(kTailSizes));
    sizes.push_back(1000);
    for (const int64_t cols : sizes)
      for (const float deviation : {1.0f, 30.0f}) {
        const std::string what = fmt::format("{} cols={} deviation={}", version.name, cols, deviation);
        const std::vector<float> x = Data(1).normal(kRows * cols, 50, deviation);
        const TestContext c;

        const std::vector<float> lse = run(reference.log_sum_exp, c, kRows, cols, x, kRows);
        check_close(
            run(t.log_sum_exp, c, kRows, cols, x, kRows), lse,
            [&](int64_t i) { return 3 * kEpsilon * (std::fabs(lse[static_cast<size_t>(i)]) + 10); }, what);

        // x - max carries an error of eps |x - max|, which exp turns into a relative one; the sum of positive terms and
        // the scaling add a few eps.
        const std::vector<float> p = run(reference.softmax, c, kRows, cols, x, kRows * cols);
        const std::vector<float> log_p = run(reference.log_softmax, c, kRows, cols, x, kRows * cols);
        const auto relative = [&](int64_t i) { return kEpsilon * (std::fabs(log_p[static_cast<size_t>(i)]) + 16); };
        check_close(
            run(t.softmax, c, kRows, cols, x, kRows * cols), p,
            [&](int64_t i) { return relative(i) * p[static_cast<size_t>(i)] + 0x1p-148; }, what);
        check_close(
            run(t.log_softmax, c, kRows, cols, x, kRows * cols),
            run(reference.log_softmax, c, kRows, cols, x, kRows * cols), [&](int64_t i) { return 2 * relative(i); },
            what);
      }
  });
}

TEST_CASE("softmax family: infinities, NaN and large values") {
  const std::vector<float> x = {-kInf, 1, 2, -kInf, -kInf, -kInf, kNan, 1, 2, 3e38f, 1, 3e38f, kInf, 1, -kInf};
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const TestContext c;
    const auto near = [](int64_t) { return 2e-7; };
    const double a = 1 / (1 + std::exp(1.0)), b = 1 - a;
    const std::vector<double> p = {0, a, b, kNan, kNan, kNan, kNan, kNan, kNan, 0.5, 0, 0.5, kNan, kNan, kNan};
    check_close(run(t.softmax, c, 5, 3, x, 15), p, near, version.name);
    const std::vector<double> lse = {2 - std::log(b), -kInf, kNan, 3e38f, kInf};
    check_close(run(t.log_sum_exp, c, 5, 3, x, 5), lse, near, version.name);
    const std::vector<double> log_p = {-kInf, std::log(a),  std::log(b), kNan,         kNan, kNan, kNan, kNan,
                                       kNan,  -std::log(2), -3e38f,      -std::log(2), kNan, kNan, kNan};
    check_close(run(t.log_softmax, c, 5, 3, x, 15), log_p, near, version.name);
  });
}

TEST_CASE("softmax family: rows far below zero, of every tail size") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t cols : kTailSizes) {
      const std::string what = fmt::format("{} cols={}", version.name, cols);
      const std::vector<float> x(static_cast<size_t>(kRows * cols), -1000.0f);
      const double share = 1 / static_cast<double>(cols);
      const TestContext c;
      const auto same = [](int64_t n, double value) { return std::vector<double>(static_cast<size_t>(n), value); };
      const auto near = [](double size) { return [=](int64_t) { return 8 * kEpsilon * size; }; };
      check_close(run(t.softmax, c, kRows, cols, x, kRows * cols), same(kRows * cols, share), near(share), what);
      check_close(run(t.log_softmax, c, kRows, cols, x, kRows * cols), same(kRows * cols, std::log(share)), near(5),
                  what);
      check_close(run(t.log_sum_exp, c, kRows, cols, x, kRows), same(kRows, -1000 - std::log(share)), near(1000), what);
    }
  });
}

TEST_CASE("softmax backward passes: within rounding of the sizes of their terms") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const int64_t cols : kTailSizes) {
      const std::string what = fmt::format("{} cols={}", version.name, cols);
      const std::vector<float> x = Data(2).normal(kRows * cols, 0, 2), dy = Data(3).normal(kRows * cols, 1);
      const TestContext c;
      const std::vector<float> p = run(reference.softmax, c, kRows, cols, x, kRows * cols);
      const std::vector<float> log_p = run(reference.log_softmax, c, kRows, cols, x, kRows * cols);
      std::vector<double> mass(kRows);
      for (size_t i = 0; i < dy.size(); ++i) mass[i / static_cast<size_t>(cols)] += std::fabs(dy[i]);
      const auto bound = [&](int64_t i) {
        const auto e = static_cast<size_t>(i);
        return 16 * kEpsilon * (std::fabs(dy[e]) + p[e] * mass[e / static_cast<size_t>(cols)]);
      };
      check_close(run(t.softmax_backward, c, kRows, cols, p, dy),
                  run(reference.softmax_backward, c, kRows, cols, p, dy), bound, what);
      check_close(run(t.log_softmax_backward, c, kRows, cols, log_p, dy),
                  run(reference.log_softmax_backward, c, kRows, cols, log_p, dy), bound, what);
    }
  });
}

TEST_CASE("softmax family: the same bits at any thread count") {
  const int64_t rows = 1009, cols = 67;
  const std::vector<float> x = Data(4).normal(rows * cols), dy = Data(5).normal(rows * cols);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const Forward kernel : {t.softmax, t.log_softmax})
      check_any_thread_count([&](const Context& c) { return run(kernel, c, rows, cols, x, rows * cols); },
                             version.name);
    check_any_thread_count([&](const Context& c) { return run(t.log_sum_exp, c, rows, cols, x, rows); }, version.name);
    for (const Backward kernel : {t.softmax_backward, t.log_softmax_backward})
      check_any_thread_count([&](const Context& c) { return run(kernel, c, rows, cols, x, dy); }, version.name);
  });
}

}  // namespace qinco::kernels::tests
