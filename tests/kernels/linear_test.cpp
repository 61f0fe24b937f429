// The product with packed weights on every ISA: against integer arithmetic and the double reference.
#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {
namespace {

QINCO_COVERS(linear_packed_size);
QINCO_COVERS(linear_pack);
QINCO_COVERS(linear);

struct Case {
  int64_t m, n, k;
  bool accumulate, residual, relu;
};

// x [m,k], w [n,k], y and residual [m,n], each with rows a little longer than needed.
template <class T>
struct Problem {
  Case c;
  int64_t ldx, ldw, ldy, ldr;
  std::vector<T> x, w, y, residual;

  template <class U>
  Problem<U> as() const {
    const auto convert = [](const std::vector<T>& v) { return std::vector<U>(v.begin(), v.end()); };
    return {c, ldx, ldw, ldy, ldr, convert(x), convert(w), convert(y), convert(residual)};
  }
};

Problem<float> make_problem(const Case& c, bool whole, unsigned seed) {
  Problem<float> p{c, c.k + 3, c.k + 1, c.n + 2, c.n + 5, {}, {}, {}, {}};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](int64_t size) {
    std::vector<float> v(static_cast<size_t>(size));
    for (float& f : v) f = whole ? static_cast<float>(static_cast<int>(random() % 9) - 4) : normal(random);
    return v;
  };
  p.x = fill(c.m * p.ldx), p.w = fill(c.n * p.ldw), p.y = fill(c.m * p.ldy), p.residual = fill(c.m * p.ldr);
  return p;
}

// y after the product of the rows [begin, end), packed afresh.
template <class T>
std::vector<T> run(const Table<T>& t, const Problem<T>& p, const Context& context, int64_t begin, int64_t end,
                   Precision precision = Precision::exact) {
  const Case& c = p.c;
  Buffer<T> packed(t.linear_packed_size(c.n, c.k, precision), 0);
  t.linear_pack(context, c.n, c.k, p.w.data(), p.ldw, precision, packed.data());
  CHECK(packed.guards_hold());
  Buffer<T> y({p.y.begin() + begin * p.ldy, p.y.begin() + end * p.ldy});
  Linear<T> l;
  l.m = end - begin, l.n = c.n, l.k = c.k;
  l.x = p.x.data() + begin * p.ldx, l.ldx = p.ldx;
  l.packed = packed.data();
  l.y = y.data(), l.ldy = p.ldy;
  l.accumulate = c.accumulate;
  l.residual = c.residual ? p.residual.data() + begin * p.ldr : nullptr, l.ldr = p.ldr;
  l.relu = c.relu;
  l.precision = precision;
  t.linear(context, l);
  CHECK(y.guards_hold());
  return y.values();
}

template <class Body>
void for_each_precision(Body&& body) {
  for (const Precision precision : {Precision::exact, Precision::fast}) {
    CAPTURE(name(precision));
    body(precision);
  }
}

// |x| |W|^T + |y| + |residual|: what rounding is relative to.
std::vector<double> size_of_terms(Problem<double> p) {
  for (auto* values : {&p.x, &p.w, &p.y, &p.residual})
    for (double& v : *values) v = std::abs(v);
  return run(table<double>(), p, TestContext(), 0, p.c.m);
}

double length(const float* v, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(v[i]) * v[i];
  return std::sqrt(sum);
}

std::vector<Case> cases() {
  std::vector<Case> all = {{40, 100, 1000, true, true, true},  {7, 600, 450, false, true, false},
                           {300, 20, 1000, true, true, true},   // more rows than are made integers of together
                           {150, 700, 40, true, false, false},  // columns in parts, and rows
                           {31, 40, 1021, true, true, true},    // rows 4 KB apart: make_problem puts three between
                           {5, 40, 0, true, true, true},       {5, 0, 7, false, false, false},
                           {0, 5, 7, false, false, false}};
  std::mt19937 random(5);
  const auto any = [&] { return kTailSizes[random() % std::size(kTailSizes)]; };
  for (const int64_t size : kTailSizes)
    for (int i = 0; i < 3; ++i)
      all.push_back({i == 0 ? size : any(), i == 1 ? size : any(), i == 2 ? size : any(), random() % 2 == 0,
                     random() % 2 == 0, random() % 2 == 0});
  return all;
}

}  // namespace

TEST_CASE("linear is exact on small whole numbers") {
  for (const Case& c : cases()) {
    CAPTURE(c.m);
    CAPTURE(c.n);
    CAPTURE(c.k);
    const Problem<float> p = make_problem(c, true, 1);
    const std::vector<double> expected = run(table<double>(), p.as<double>(), TestContext(), 0, c.m);
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CAPTURE(version.name);
      CHECK(run(t, p, TestContext(), 0, c.m) == std::vector<float>(expected.begin(), expected.end()));
    });
  }
}

TEST_CASE("linear stays within its bound of the exact product") {
  for (const Case& c : cases()) {
    CAPTURE(c.m);
    CAPTURE(c.n);
    CAPTURE(c.k);
    const Problem<float> p = make_problem(c, false, 2);
    const std::vector<double> expected = run(table<double>(), p.as<double>(), TestContext(), 0, c.m);
    const std::vector<double> size = size_of_terms(p.as<double>());
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CAPTURE(version.name);
      const std::vector<float> found = run(t, p, TestContext(), 0, c.m);
      const double split = version.matrix_unit ? 0x1p-15 : version.cuda ? 0x1p-21 : 0;  // of operands, into parts
      const double bound = split + static_cast<double>(c.k + 3) * kEpsilon;
      for (int64_t i = 0; i < c.m; ++i)
        for (int64_t j = 0; j < c.n; ++j) {
          const auto at = static_cast<size_t>(i * p.ldy + j);
          REQUIRE(std::abs(found[at] - expected[at]) <= bound * size[at]);
        }
    });
  }
}

TEST_CASE("linear at precision fast stays within the bound of 16-bit integers") {
  // Float holds the squares of the first alone, and 32767 times the length of a row of the third.
  for (const auto& [scale, scale_of_w] :
       {std::pair(1.0F, 1.0F), {1e-21F, 1e21F}, {1e35F, 1.0F}, {1.0F, 1e35F}, {1e28F, 1e-23F}}) {
    for (const Case& c : cases()) {
      CAPTURE(c.m);
      CAPTURE(c.n);
      CAPTURE(c.k);
      Problem<float> p = make_problem(c, false, 9);
      for (float& x : p.x) x *= scale;
      for (float& w : p.w) w *= scale_of_w;
      CAPTURE(p.x[0]);
      CAPTURE(p.w[0]);
      const std::vector<double> expected = run(table<double>(), p.as<double>(), TestContext(), 0, c.m);
      const std::vector<double> size = size_of_terms(p.as<double>());
      const double most = 1.01 * std::sqrt(static_cast<double>(c.k)) * 0x1p-15;
      for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
        CAPTURE(version.name);
        const std::vector<float> found = run(t, p, TestContext(), 0, c.m, Precision::fast);
        for (int64_t i = 0; i < c.m; ++i)
          for (int64_t j = 0; j < c.n; ++j) {
            const auto at = static_cast<size_t>(i * p.ldy + j);
            const double lengths = length(&p.x[i * p.ldx], c.k) * length(&p.w[j * p.ldw], c.k);
            REQUIRE(std::abs(found[at] - expected[at]) <=
                    most * lengths + static_cast<double>(c.k + 3) * kEpsilon * size[at]);
          }
      });
    }
  }
}

TEST_CASE("linear at precision fast errs as if at random") {
  for (const int64_t k : {16, 45, 128, 1000}) {
    const Case c{60, 70, k, false, false, false};
    const Problem<float> p = make_problem(c, false, 11);
    const std::vector<double> expected = run(table<double>(), p.as<double>(), TestContext(), 0, c.m);
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CAPTURE(version.name);
      const std::vector<float> found = run(t, p, TestContext(), 0, c.m, Precision::fast);
      double squares = 0;
      for (int64_t i = 0; i < c.m; ++i)
        for (int64_t j = 0; j < c.n; ++j) {
          const auto at = static_cast<size_t>(i * p.ldy + j);
          squares += std::pow((found[at] - expected[at]) / length(&p.x[i * p.ldx], k) / length(&p.w[j * p.ldw], k), 2);
        }
      // Two roundings by up to a half each: sqrt(1/6) 2^-15.
      CHECK(std::sqrt(squares / static_cast<double>(c.m * c.n)) <= 0x1p-16);
    });
  }
}

TEST_CASE("linear at precision fast has the same bits with and without VNNI") {
  if (!cpu_has(Feature::avx_vnni)) {  // AVX-512 makes integers with VNNI only
    MESSAGE("skipped: this machine has no AVX-VNNI");
    return;
  }
  for (const Case& c : cases()) {
    const Problem<float> p = make_problem(c, false, 12);
    const Table<float>& t = table<float>(Isa::avx2);
    const std::vector<float> with = run(t, p, TestContext(), 0, c.m, Precision::fast);
    const ScopedWithout without(Feature::avx_vnni);
    CHECK(run(t, p, TestContext(), 0, c.m, Precision::fast) == with);
  }
}

TEST_CASE("linear at precision fast takes rows of zeros, and rows too short or too long to scale") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    CAPTURE(version.name);
    Problem<float> p = make_problem({9, 21, 40, false, false, false}, false, 10);
    const std::vector<float> clean = run(t, p, TestContext(), 0, p.c.m, Precision::fast);
    std::fill_n(p.x.begin() + 4 * p.ldx, 40, 0.0F);
    std::fill_n(p.x.begin() + 5 * p.ldx, 40, 1e-30F);  // too short to scale
    std::fill_n(p.x.begin() + 6 * p.ldx, 40, 3e38F);   // longer than any float
    std::fill_n(p.w.begin() + 20 * p.ldw, 40, 0.0F);
    const std::vector<float> found = run(t, p, TestContext(), 0, p.c.m, Precision::fast);
    for (int64_t i = 0; i < p.c.m; ++i)
      for (int64_t j = 0; j < p.c.n; ++j) {
        const auto at = static_cast<size_t>(i * p.ldy + j);
        CAPTURE(i);
        CAPTURE(j);
        if (i == 6) continue;  // NaN, or the sum
        if (i == 4 || j == 20)
          CHECK(found[at] == 0.0F);
        else if (i == 5)
          CHECK(std::abs(found[at]) <= 1e-27F);
        else
          CHECK(found[at] == clean[at]);
      }
  });
}

// y of m rows with rows `stride` longer than needed, everything `offset` floats from where it would be aligned.
std::vector<float> product(const Table<float>& t, const Problem<float>& p, int64_t m, int64_t stride, int64_t offset,
                           bool residual_is_y, Precision precision) {
  const int64_t n = p.c.n, k = p.c.k;
  std::vector<float> from(static_cast<size_t>(m * (k + stride))), to(static_cast<size_t>(m * (n + stride)));
  for (int64_t i = 0; i < m; ++i) {
    std::copy_n(p.x.begin() + i * p.ldx, k, from.begin() + i * (k + stride));
    std::copy_n(p.y.begin() + i * p.ldy, n, to.begin() + i * (n + stride));
  }
  Buffer<float> packed(t.linear_packed_size(n, k, precision), 0), x(from, offset), y(to, offset);
  const TestContext context;
  t.linear_pack(context, n, k, p.w.data(), p.ldw, precision, packed.data());
  Linear<float> l{m, n, k, x.data(), k + stride, packed.data(), y.data(), n + stride, p.c.accumulate};
  if (residual_is_y) l.residual = y.data(), l.ldr = n + stride;
  l.relu = p.c.relu;
  l.precision = precision;
  t.linear(context, l);
  std::vector<float> found;
  for (int64_t i = 0; i < m; ++i)
    found.insert(found.end(), &y.data()[i * (n + stride)], &y.data()[i * (n + stride)] + n);
  return found;
}

TEST_CASE("linear gives the same bits whether or not rows are aligned, and however many there are") {
  // More than a GPU takes 16 rows at a time.
  const int64_t many = device_count(DeviceType::cuda) > 0 && emulated({DeviceType::cuda, 0}) ? 600 : 9000;
  for (const bool residual : {false, true}) {
    const Problem<float> p = make_problem({many, 128, 32, residual, false, residual}, false, 8);
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CAPTURE(version.name);
      for_each_precision([&](Precision precision) {
        const std::vector<float> found = product(t, p, many, 0, 0, residual, precision);
        CHECK(product(t, p, many, 1, 1, residual, precision) == found);
        for (const int64_t m : {1, 15, 40})
          CHECK(product(t, p, m, 0, 0, residual, precision) ==
                std::vector<float>(found.begin(), found.begin() + m * p.c.n));
      });
    });
  }
}

TEST_CASE("linear adds a residual of one row to all") {
  Problem<float> p = make_problem({45, 70, 33, false, true, false}, true, 6);
  Problem<float> repeated = p;
  p.ldr = 0;
  for (int64_t i = 0; i < p.c.m; ++i)
    std::copy_n(p.residual.begin(), p.c.n, repeated.residual.begin() + i * repeated.ldr);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    CAPTURE(version.name);
    for_each_precision([&](Precision precision) {
      const std::vector<float> found = run(t, p, TestContext(), 0, p.c.m, precision);
      check_equal(found, run(t, repeated, TestContext(), 0, p.c.m, precision), version.name);
    });
  });
}

TEST_CASE("a row of linear depends neither on the other rows nor on the number of threads") {
  for (const Case& c : {Case{200, 70, 90, true, false, true}, Case{60, 40, 1021, true, false, true}}) {
    const Problem<float> p = make_problem(c, false, 3);
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      CAPTURE(version.name);
      for_each_precision([&](Precision precision) {
        const std::vector<float> all = run(t, p, TestContext(), 0, p.c.m, precision);
        for (int threads : {2, 3}) CHECK(run(t, p, TestContext(threads), 0, p.c.m, precision) == all);
        for (int64_t begin = 0; begin < p.c.m; begin += 37)
          for (int64_t end : {begin + 1, begin + 15}) {
            CHECK(run(t, p, TestContext(), begin, end, precision) ==
                  std::vector<float>(all.begin() + begin * p.ldy, all.begin() + end * p.ldy));
          }
      });
    });
  }
}

TEST_CASE("linear leaves NaN and infinity in their own rows and columns, and relu leaves NaN") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    CAPTURE(version.name);
    for_each_precision([&](Precision precision) {
      for (const bool relu : {false, true}) {
        CAPTURE(relu);
        Problem<float> p = make_problem({40, 33, 50, false, false, relu}, false, 4);
        const std::vector<float> clean = run(t, p, TestContext(), 0, p.c.m, precision);
        p.x[5 * p.ldx + 7] = kNan;
        p.x[9 * p.ldx + 49] = kInf;
        p.w[32 * p.ldw + 3] = kNan;
        const std::vector<float> found = run(t, p, TestContext(), 0, p.c.m, precision);
        for (int64_t i = 0; i < p.c.m; ++i)
          for (int64_t j = 0; j < p.c.n; ++j) {
            const auto at = static_cast<size_t>(i * p.ldy + j);
            if (i == 5 || j == 32)
              CHECK(std::isnan(found[at]));
            else if (i == 9)
              CHECK((!std::isfinite(found[at]) || (relu && found[at] == 0)));
            else
              CHECK(found[at] == clean[at]);
          }
      }
    });
  });
}

}  // namespace qinco::kernels::tests
