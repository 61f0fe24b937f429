// The matrix product on every ISA against its definition: tails, transposes, epilogues, leading dimensions, threads; at
// Precision::fast too where a version rounds.
#include <array>
#include <bit>
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

QINCO_COVERS(gemm);

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// [rows, cols] inside a larger buffer: off any alignment, with NaN before it, after it and between the rows, so that a
/// read outside shows up in the result, and a write outside in `store`.
struct Matrix {
  std::vector<float> store;
  int64_t ld, offset;

  Matrix(int64_t rows, int64_t cols, int64_t padding, int64_t offset_)
      : store(static_cast<size_t>(offset_ + rows * (cols + padding) + 9), kNan), ld(cols + padding), offset(offset_) {}
  float* data() { return store.data() + offset; }
};

enum Epilogue {
  none,
  bias,
  bias_relu,
  residual,
  accumulate,
  accumulate_bias,
  residual_in_place,
  accumulate_in_place,  // C twice
  residual_row,         // one row for all
  everything,
  kEpilogues
};

struct Case {
  int64_t m, n, k;
  bool trans_a, trans_b;
  int epilogue;
  Precision precision = Precision::exact;
  bool tight = false;  // no gaps between the rows of C and the residual

  Case fast() const {
    Case other = *this;
    other.precision = Precision::fast;
    return other;
  }
};

std::string describe(const Version& version, const Case& s) {
  return fmt::format("{} {} m={} n={} k={} trans_a={} trans_b={} epilogue={}", version.name, name(s.precision), s.m,
                     s.n, s.k, s.trans_a, s.trans_b, s.epilogue);
}

/// What one operand may be off by, relative to itself, at Precision::fast: TF32 has 10 bits of fraction, bfloat16,
/// which is rounded to nearest, 7; elsewhere nothing is rounded.
double operand_error(const Version& version) {
  return version.cuda ? 0x1p-10 : version.matrix_unit ? 0x1p-8 : 0;
}

/// body(version, case) for every version, and with the case at Precision::fast where that rounds.
template <class Body>
void for_each_product(const Case& s, Body&& body) {
  for (const Version& version : versions()) {
    for (const Case& each : {s, s.fast()}) {
      if (each.precision == Precision::fast && operand_error(version) == 0) continue;
      CAPTURE(describe(version, each));
      body(version, each);
    }
  }
}

/// Operands of one product; small integers (whose products and sums are exact) or normal numbers.
struct Problem {
  Matrix a, b, c, r;
  std::vector<float> bias_values;
  Gemm<float> gemm;

  Problem(const Case& s, bool integers, int64_t padding = 3, uint32_t seed = 1)
      : a(s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k, padding, 1),
        b(s.trans_b ? s.n : s.k, s.trans_b ? s.k : s.n, padding + 1, 3),
        c(s.m, s.n, s.tight ? 0 : padding + 2, 5),
        r(s.m, s.n, s.tight ? 0 : padding, 7),
        bias_values(static_cast<size_t>(s.n)) {
    std::mt19937 random(seed);
    const auto value = [&] {
      return integers ? static_cast<float>(std::uniform_int_distribution<int>(-4, 4)(random))
                      : std::normal_distribution<float>()(random);
    };
    const auto fill = [&](Matrix& x, int64_t rows, int64_t cols) {
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) x.data()[i * x.ld + j] = value();
    };
    fill(a, s.trans_a ? s.k : s.m, s.trans_a ? s.m : s.k);
    fill(b, s.trans_b ? s.n : s.k, s.trans_b ? s.k : s.n);
    fill(r, s.m, s.n);
    for (float& x : bias_values) x = value();
    gemm.m = s.m, gemm.n = s.n, gemm.k = s.k;
    gemm.a = a.data(), gemm.lda = a.ld, gemm.trans_a = s.trans_a;
    gemm.b = b.data(), gemm.ldb = b.ld, gemm.trans_b = s.trans_b;
    gemm.c = c.data(), gemm.ldc = c.ld;
    const int e = s.epilogue;
    if (e == bias || e == bias_relu || e == accumulate_bias || e == everything) gemm.bias = bias_values.data();
    if (e == residual || e == everything) gemm.residual = r.data(), gemm.ldr = r.ld;
    if (e == residual_row) gemm.residual = r.data(), gemm.ldr = 0;
    if (e == residual_in_place || e == accumulate_in_place) gemm.residual = c.data(), gemm.ldr = s.m == 1 ? 0 : c.ld;
    gemm.accumulate = e == accumulate || e == accumulate_bias || e == accumulate_in_place || e == everything;
    gemm.relu = e == bias_relu || e == everything;
    gemm.precision = s.precision;
    // C is poisoned with NaN unless the product reads it.
    if (gemm.accumulate || e == residual_in_place) fill(c, s.m, s.n);
  }
};

Context with_threads(int threads) {
  Context context = Context::cpu();
  context.threads = threads;
  return context;
}

std::vector<float> run(const Version& version, const Case& s, int threads, bool integers, int64_t padding = 3) {
  Problem p(s, integers, padding);
  version.table->gemm(with_threads(threads), p.gemm);
  return p.c.store;
}

void check_exact(const Case& s) {
  const std::vector<float> expected = run(Isa::reference, s, 1, true);
  for_each_product(s, [&](const Version& version, const Case& each) {
    const std::vector<float> found = run(version, each, 1, true);
    // The NaN around C must still be there; elsewhere == also takes -0 for 0.
    bool equal = found.size() == expected.size();
    for (size_t i = 0; equal && i < found.size(); ++i)
      equal = std::isnan(expected[i]) ? std::isnan(found[i]) : found[i] == expected[i];
    CHECK(equal);
  });
}

TEST_CASE("gemm: exact on integers at every tail, transpose and epilogue") {
  const int64_t sizes[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 28, 31, 32, 33, 63, 64, 65, 127, 129};
  for (const int64_t s : sizes)
    for (int e = 0; e < kEpilogues; ++e)
      for (const bool ta : {false, true})
        for (const bool tb : {false, true}) {
          check_exact({s, 33, 17, ta, tb, e});
          check_exact({29, s, 18, ta, tb, e});
          check_exact({15, 35, s, ta, tb, e});
          check_exact({s, s, 5, ta, tb, e});
          check_exact({1, s, s, ta, tb, e});
          check_exact({s, 1, s, ta, tb, e});
          check_exact({s, 3, 40, ta, tb, e});
          check_exact({5, s, 40, ta, tb, e});
        }
}

TEST_CASE("gemm: exact over several blocks of k, n and m") {
  for (int e = 0; e < kEpilogues; ++e)
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        check_exact({37, 45, 1601, ta, tb, e});
        check_exact({21, 1301, 70, ta, tb, e});
        check_exact({1300, 20, 70, ta, tb, e});
        check_exact({9, 530, 801, ta, tb, e});
      }
}

TEST_CASE("gemm: exact where rows lie 4 KB apart, and for one column without gaps") {
  for (int e = 0; e < kEpilogues; ++e)
    for (const bool ta : {false, true}) {
      for (const int64_t n : {5, 40}) {  // with the padding, 1024 floats: a row of B, a row of A
        for (const int64_t m : {1, 3, 6, 14}) check_exact({m, n, 1020, ta, true, e});
        for (const bool tb : {false, true})
          for (const int64_t m : {9, 31}) check_exact({m, n, 1021, ta, tb, e});
      }
      if (e == everything)
        for (int64_t m = 1; m <= 15; ++m) check_exact({m, 19, 333, ta, true, e});  // as many as are taken together
      for (const bool tb : {false, true})
        for (const int64_t m : {1, 4, 40})
          for (const int64_t k : {0, 5, 70, 401, 1020, 1021}) check_exact({m, 1, k, ta, tb, e, Precision::exact, true});
    }
}

TEST_CASE("gemm: one column has the same bits with gaps and without") {
  for (const Version& version : versions()) {
    if (version.cuda) continue;  // there the layout decides what multiplies
    for (const bool ta : {false, true})
      for (const bool tb : {false, true})
        for (const int64_t m : {3, 40})
          for (const int64_t k : {5, 70, 801}) {
            Problem loose({m, 1, k, ta, tb, residual}, false),
                tight({m, 1, k, ta, tb, residual, Precision::exact, true}, false);
            version.table->gemm(with_threads(1), loose.gemm);
            version.table->gemm(with_threads(1), tight.gemm);
            bool equal = true;
            for (int64_t i = 0; i < m; ++i) equal &= loose.c.data()[i * loose.c.ld] == tight.c.data()[i];
            CHECK_MESSAGE(equal, describe(version, {m, 1, k, ta, tb, residual}));
          }
  }
}

/// Whether C, which was `before` (with the same leading dimension), is off by at most `relative` of the sum of the
/// magnitudes of its terms.
bool within_bound(const Gemm<float>& g, const float* before, double relative) {
  bool within = true;
  for (int64_t i = 0; i < g.m; ++i)
    for (int64_t j = 0; j < g.n; ++j) {
      double sum = g.accumulate ? before[i * g.ldc + j] : 0, magnitude = std::fabs(sum);
      for (int64_t q = 0; q < g.k; ++q) {
        const double product = double{g.trans_a ? g.a[q * g.lda + i] : g.a[i * g.lda + q]} *
                               double{g.trans_b ? g.b[j * g.ldb + q] : g.b[q * g.ldb + j]};
        sum += product, magnitude += std::fabs(product);
      }
      if (g.bias) sum += g.bias[j], magnitude += std::fabs(g.bias[j]);
      if (g.residual) sum += g.residual[i * g.ldr + j], magnitude += std::fabs(g.residual[i * g.ldr + j]);
      if (g.relu && sum < 0) sum = 0;
      within = within && std::fabs(g.c[i * g.ldc + j] - sum) <= relative * magnitude;
    }
  return within;
}

// Whatever the order of the sums and the number of roundings, the error is at most about k u |A||B| (Higham, Accuracy
// and Stability of Numerical Algorithms, 3.5), u = 2^-24; three more terms for bias, residual and C.
TEST_CASE("gemm: within the rounding bound of the double reference") {
  for (const Case& s : {Case{65, 130, 257, false, false, everything}, Case{65, 130, 257, true, true, none},
                        Case{3, 50, 1000, false, true, bias}, Case{300, 2, 777, false, true, residual},
                        Case{13, 200, 900, false, false, accumulate}, Case{40, 70, 1500, true, false, bias}}) {
    Problem p(s, false);
    const std::vector<float> c_before = p.c.store;
    for (const Version& version : versions()) {
      CAPTURE(version.name);
      p.c.store = c_before;
      const Gemm<float>& g = p.gemm;
      version.table->gemm(with_threads(1), g);
      CHECK(within_bound(g, c_before.data() + p.c.offset, std::ldexp(static_cast<double>(g.k + 3), -24)));
    }
  }
}

/// A problem whose operands' rows lie at multiples of 16 bytes, as those of tensors do: CUDA has kernels for those. NaN
/// is between the rows.
struct AlignedProblem : Problem {
  AlignedProblem(const Case& s, bool integers)
      : Problem(s, integers, 0),
        a_rows(spread(a, s.trans_a ? s.m : s.k), 0),
        b_rows(spread(b, s.trans_b ? s.k : s.n), 0) {
    gemm.a = a_rows.data(), gemm.lda = (s.trans_a ? s.m : s.k) + kBetween;
    gemm.b = b_rows.data(), gemm.ldb = (s.trans_b ? s.k : s.n) + kBetween;
  }

  static std::vector<float> spread(Matrix& x, int64_t cols) {
    const int64_t rows = (static_cast<int64_t>(x.store.size()) - x.offset) / x.ld;
    std::vector<float> to(static_cast<size_t>(rows * (cols + kBetween)), kNan);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(x.data() + i * x.ld, cols, to.begin() + i * (cols + kBetween));
    return to;
  }

  static constexpr int64_t kBetween = 4;
  tests::Buffer<float> a_rows, b_rows;
};

TEST_CASE("gemm: aligned operands, over tiles and parts of k") {
  int turn = 0;
  for (const auto& [m, n, k] :
       {std::array<int64_t, 3>{64, 32, 64}, {132, 36, 300}, {4, 4, 2048}, {200, 72, 68}, {68, 132, 512}})
    for (const auto& [ta, tb] : {std::pair{false, true}, {false, false}, {true, false}, {true, true}})
      for (const int e : {turn++ % kEpilogues, static_cast<int>(everything)}) {
        const Case s{m, n, k, ta, tb, e};
        Problem expected(s, true);
        table<float>(Isa::reference).gemm(with_threads(1), expected.gemm);
        for_each_product(s, [&](const Version& version, const Case& each) {
          AlignedProblem whole(each, true);
          version.table->gemm(with_threads(1), whole.gemm);
          bool equal = true;
          for (int64_t i = 0; i < s.m; ++i)
            for (int64_t j = 0; j < s.n; ++j)
              equal = equal && whole.c.data()[i * whole.c.ld + j] == expected.c.data()[i * expected.c.ld + j];
          CHECK(equal);
          AlignedProblem real(each, false), again(each, false);
          const std::vector<float> before = real.c.store;
          version.table->gemm(with_threads(1), real.gemm);
          version.table->gemm(with_threads(2), again.gemm);
          CHECK(same_bits(real.c.store, again.c.store));
          if (real.gemm.residual == real.gemm.c) return;  // it is not there any more
          const double one = each.precision == Precision::fast ? operand_error(version) : 0;
          CHECK(within_bound(real.gemm, before.data() + real.c.offset,
                             2 * one + one * one + std::ldexp(static_cast<double>(s.k + 3), -24)));
        });
      }
}

TEST_CASE("gemm: aligned operands with NaN and infinity") {
  const float nan_of_a_gpu = std::bit_cast<float>(0x7fffffffu), negative_nan = std::bit_cast<float>(0xffffffffu);
  for (const bool ta : {false, true})
    for (const bool integers : {false, true})  // whose low parts are zeros
      for (const float bad : {kNan, nan_of_a_gpu, negative_nan, kInf, -kInf}) {
        const Case s{72, 40, 96, ta, false, none};
        for_each_product(s, [&](const Version& version, const Case& each) {
          AlignedProblem p(each, integers);
          const int64_t row = 70, q = 90;
          p.a_rows.data()[ta ? q * p.gemm.lda + row : row * p.gemm.lda + q] = bad;
          version.table->gemm(with_threads(1), p.gemm);
          for (int64_t i = 0; i < s.m; ++i)
            for (int64_t j = 0; j < s.n; ++j) {
              const float found = p.c.data()[i * p.c.ld + j], b = p.gemm.b[q * p.gemm.ldb + j];
              if (i != row)
                CHECK(std::isfinite(found));
              else if (std::isnan(bad) || b == 0)
                CHECK(std::isnan(found));
              else
                CHECK(found == (b < 0 ? -bad : bad));
            }
        });
      }
}

TEST_CASE("gemm: fast rounds what it multiplies on CUDA and on the matrix unit, and nothing elsewhere") {
  for (const Version& version : versions())
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const Case s{64, 128, 96, ta, tb, accumulate_bias};
        CAPTURE(describe(version, s));
        Problem exact(s, false, 0), fast(s.fast(), false, 0);
        const std::vector<float> before = fast.c.store;
        version.table->gemm(with_threads(1), exact.gemm);
        version.table->gemm(with_threads(1), fast.gemm);
        const double one = operand_error(version);
        CHECK(within_bound(fast.gemm, before.data() + fast.c.offset, 2 * one + one * one + 100 * 0x1p-24));
        const bool same = same_bits(fast.c.store, exact.c.store);
        if (one == 0)
          CHECK(same);
        else if (version.matrix_unit || emulated({DeviceType::cuda, 0}))
          CHECK_FALSE(same);
        else
          WARN_FALSE(same);  // cuBLAS may, it need not
      }
}

TEST_CASE("gemm: the same bits at 1, 2 and 3 threads") {
  for (const Case& s : {Case{500, 130, 300, false, true, bias_relu}, Case{256, 128, 1024, true, false, accumulate},
                        Case{7, 2000, 333, false, false, none}, Case{3, 3000, 500, false, true, none},
                        Case{1000, 700, 90, true, true, residual}, Case{500, 130, 1021, false, true, bias}})
    for_each_product(s, [](const Version& version, const Case& each) {
      const std::vector<float> one = run(version, each, 1, false);
      CHECK(same_bits(one, run(version, each, 2, false)));
      CHECK(same_bits(one, run(version, each, 3, false)));
    });
}

TEST_CASE("gemm: the same bits at any leading dimension and alignment") {
  for_each_product({45, 75, 401, true, false, bias}, [](const Version& version, const Case& s) {
    if (version.cuda) return;  // cuBLAS chooses by alignment
    Problem tight(s, false, 0), loose(s, false, 12);
    version.table->gemm(with_threads(1), tight.gemm);
    version.table->gemm(with_threads(1), loose.gemm);
    for (int64_t i = 0; i < s.m; ++i)
      CHECK(std::memcmp(tight.c.data() + i * tight.c.ld, loose.c.data() + i * loose.c.ld,
                        static_cast<size_t>(s.n) * sizeof(float)) == 0);
  });
}

void check_spread(const Version& version, const Case& s, float bad) {
  Problem p(s, false);
  const int64_t row = s.m - 1, column = s.n - 2, q = s.k - 1;
  p.a.data()[s.trans_a ? q * p.a.ld + row : row * p.a.ld + q] = bad;
  p.b.data()[s.trans_b ? column * p.b.ld + q : q * p.b.ld + column] = kNan;
  version.table->gemm(with_threads(1), p.gemm);
  for (int64_t i = 0; i < s.m; ++i)
    for (int64_t j = 0; j < s.n; ++j) {
      const float found = p.c.data()[i * p.c.ld + j];
      if (j == column)
        CHECK(std::isnan(found));  // relu keeps a NaN
      else if (i != row)
        CHECK(std::isfinite(found));
      else if (std::isnan(bad))
        CHECK(std::isnan(found));
      else
        CHECK((found == 0.0f || found == kInf));  // relu(-inf) or relu(inf)
    }
}

TEST_CASE("gemm: NaN and infinity reach their row and column, and nothing else") {
  for (const int64_t m : {2, 8, 40})
    for (const int64_t n : {3, 9, 50})
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          for_each_product({m, n, 19, ta, tb, bias_relu}, [](const Version& version, const Case& s) {
            for (const float bad : {kNan, kInf}) {
              CAPTURE(bad);
              check_spread(version, s, bad);
            }
          });
}

TEST_CASE("gemm: relu on a NaN bias and on negative zero agrees with the reference") {
  for (const Version& version : versions()) {
    Problem p({3, 20, 0, false, false, bias_relu}, true);
    p.bias_values[4] = kNan, p.bias_values[5] = -0.0f, p.bias_values[6] = -kInf;
    version.table->gemm(with_threads(1), p.gemm);
    CHECK(std::isnan(p.c.data()[4]));
    CHECK(p.c.data()[5] == 0.0f);
    CHECK(p.c.data()[6] == 0.0f);
  }
}

}  // namespace
