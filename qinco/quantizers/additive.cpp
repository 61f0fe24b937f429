#include "qinco/quantizers/additive.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "qinco/quantizers/checks.h"
#include "qinco/quantizers/linear_algebra.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

constexpr double kRidge = 1e-8;
constexpr int64_t kLevels = 256;
constexpr int kLloydIterations = 25;
constexpr int64_t kNormRows = 4096;      // decoded together
constexpr int64_t kMaxUnknowns = 65536;  // their matrix takes 32 GB

/// k levels for sorted values, as dense as the cube root of the values' density, which is best in the limit of many
/// (Panter & Dite 1951): at equal steps of the sum of gap^(2/3) over the gaps between neighbours.
std::vector<double> companded(const std::vector<double>& sorted, int64_t k) {
  std::vector<double> passed = {0};  // the sum up to each value
  for (size_t i = 1; i < sorted.size(); ++i)
    passed.push_back(passed.back() + std::pow(sorted[i] - sorted[i - 1], 2.0 / 3));
  std::vector<double> levels;
  for (int64_t i = 0; i < k; ++i) {
    const double wanted = passed.back() * (static_cast<double>(i) + 0.5) / static_cast<double>(k);
    const auto above = std::lower_bound(passed.begin(), passed.end(), wanted) - passed.begin();
    levels.push_back(sorted[static_cast<size_t>(above)]);
  }
  return levels;
}

/// One of Lloyd's iterations in one dimension: each level becomes the mean of the sorted values nearest to it.
void to_means(const std::vector<double>& sorted, std::vector<double>& levels) {
  auto begin = sorted.begin();
  for (size_t i = 0; i < levels.size(); ++i) {
    const auto end =
        i + 1 < levels.size() ? std::upper_bound(begin, sorted.end(), (levels[i] + levels[i + 1]) / 2) : sorted.end();
    if (end != begin) levels[i] = std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
    begin = end;
  }
}

/// additive_decode of codes in [0,K).
void decode_checked(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                    int64_t codes_ld, int64_t M_used, float* x) {
  const Tensor tables = codebooks.to(context.device).contiguous();
  kernels::ScratchFrame frame(context);
  kernels::GatherSum<float> sum;
  sum.n = n, sum.M = M_used, sum.K = codebooks.size(1), sum.d = codebooks.size(2);
  sum.tables = tables.data<float>();
  sum.codes = to_device(context, frame, codes, n > 0 ? (n - 1) * codes_ld + M_used : 0), sum.codes_ld = codes_ld;
  sum.out = result_of(context, frame, x, n * sum.d);
  kernels::table<float>(context.device).gather_sum(context, sum);
  to_host(context, sum.out, x, n * sum.d);
}

}  // namespace

void additive_decode(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                     int64_t codes_ld, int64_t M_used, float* x) {
  const int64_t M = codebooks.size(0);
  check(M_used >= 1 && M_used <= M, "decode: expected 1 to {} codes a vector, found {}", M, M_used);
  check_codes("decode", n, M_used, codebooks.size(1), codes, codes_ld);
  decode_checked(context, codebooks, n, codes, codes_ld, M_used, x);
}

void additive_norms(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                    float* norms) {
  const int64_t M = codebooks.size(0), d = codebooks.size(2);
  check_codes("fixed codebooks", n, M, codebooks.size(1), codes, M);
  std::vector<float> decoded(static_cast<size_t>(std::min(n, kNormRows) * d));
  for (int64_t begin = 0; begin < n; begin += kNormRows) {
    const int64_t count = std::min(kNormRows, n - begin);
    decode_checked(context, codebooks, count, codes + begin * M, M, M, decoded.data());
    kernels::table<float>().row_squared_norm(host_context(context), count, d, decoded.data(), norms + begin);
  }
}

AdditiveFit::AdditiveFit(int64_t M, int64_t K, int64_t d) : M_(M), K_(K), d_(d) {
  check(M >= 1 && K >= 1 && d >= 1, "fixed codebooks: M = {}, K = {} and d = {} must be at least 1", M, K, d);
  const int64_t unknowns = checked_mul(M, K, "fixed codebooks");
  check(unknowns <= kMaxUnknowns, "fixed codebooks: M x K = {} x {}, expected at most {}", M, K, kMaxUnknowns);
  gram_.resize(static_cast<size_t>(unknowns * unknowns));
  sums_.resize(static_cast<size_t>(unknowns * d));
}

void AdditiveFit::add(const kernels::Context& context, int64_t n, const float* x, const int32_t* codes) {
  check(!gram_.empty(), "fixed codebooks: vectors to fit to come before solving");
  check_codes("fixed codebooks", n, M_, K_, codes, M_);
  check_finite("fixed codebooks", n, d_, x);
  // One owner per codebook's sums, and per pair of codebooks: the order of the additions is that of the vectors.
  kernels::parallel_for(context, M_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t i = 0; i < n; ++i) {
        double* const sum = sums_.data() + (m * K_ + codes[i * M_ + m]) * d_;
        for (int64_t j = 0; j < d_; ++j) sum[j] += static_cast<double>(x[i * d_ + j]);
      }
    }
  });
  kernels::parallel_for(context, M_ * M_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t a = pair / M_, b = pair % M_;
      if (a > b) continue;
      double* const block = gram_.data() + a * K_ * M_ * K_ + b * K_;
      for (int64_t i = 0; i < n; ++i) block[codes[i * M_ + a] * M_ * K_ + codes[i * M_ + b]] += 1;
    }
  });
  n_ += n;
}

Tensor AdditiveFit::solve(const std::function<void()>& poll) && {
  check(n_ > 0, "fixed codebooks: no vectors to fit them to");
  const int64_t unknowns = M_ * K_;
  std::vector<double> gram = std::move(gram_), solution = std::move(sums_);
  for (int64_t i = 0; i < unknowns; ++i)
    for (int64_t j = 0; j < i; ++j) {
      if (i / K_ != j / K_) gram[i * unknowns + j] = gram[j * unknowns + i];
    }
  const double mean_diagonal = static_cast<double>(std::exchange(n_, 0)) / static_cast<double>(K_);
  solve_ridge(unknowns, d_, kRidge * mean_diagonal, gram, solution, poll);
  Tensor codebooks = Tensor::empty({M_, K_, d_});
  std::transform(solution.begin(), solution.end(), codebooks.data<float>(),
                 [](double value) { return static_cast<float>(value); });
  return codebooks;
}

NormQuantizer::NormQuantizer(int64_t n, const float* norms) {
  check(n >= 1, "norms: none to fit the levels to");
  std::vector<double> sorted(norms, norms + n);
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> levels = companded(sorted, std::min(n, kLevels));
  for (int i = 0; i < kLloydIterations; ++i) to_means(sorted, levels);
  levels_.assign(levels.begin(), levels.end());
  levels_.resize(kLevels, levels_.back());
}

NormQuantizer::NormQuantizer(std::vector<float> levels) : levels_(std::move(levels)) {
  check(std::ssize(levels_) == kLevels, "norms: expected {} levels, found {}", kLevels, levels_.size());
}

void NormQuantizer::encode(int64_t n, const float* norms, uint8_t* codes) const {
  for (int64_t i = 0; i < n; ++i) {
    const auto above = std::lower_bound(levels_.begin(), levels_.end(), norms[i]);
    const bool lower =
        above == levels_.end() || (above != levels_.begin() && norms[i] - above[-1] <= *above - norms[i]);
    codes[i] = static_cast<uint8_t>(above - levels_.begin() - (lower ? 1 : 0));
  }
}

}  // namespace qinco
