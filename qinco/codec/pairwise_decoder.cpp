#include "qinco/codec/pairwise_decoder.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "qinco/quantizers/additive.h"
#include "qinco/quantizers/checks.h"
#include "qinco/quantizers/kmeans.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"
#include "tensor/ops.h"

namespace qinco {
namespace {

using kernels::Context;

constexpr int64_t kRows = 16384;  // vectors worked on together

/// The group of each of the codewords [K0,d]: themselves, where they are no more than K.
std::vector<int32_t> groups_of(const Tensor& codewords, int64_t K) {
  const int64_t K0 = codewords.size(0), d = codewords.size(1);
  std::vector<int32_t> groups(static_cast<size_t>(K0));
  std::iota(groups.begin(), groups.end(), 0);
  if (K0 <= K) return groups;
  const Context& context = Context::cpu();
  const float* const x = codewords.data<float>();
  const Tensor centroids = kmeans(context, K0, d, x, K).centroids;
  kernels::table<float>().nearest(context, K0, d, K, x, centroids.data<float>(), groups.data(), nullptr);
  return groups;
}

/// Means of vectors by group; for a group without any, of all.
class GroupMeans {
 public:
  GroupMeans(int64_t groups, int64_t d)
      : d_(d), sums_(static_cast<size_t>(groups * d)), counts_(static_cast<size_t>(groups)) {}

  /// Takes in x [n,d] with the codes' first entries, codes_ld apart.
  void add(int64_t n, const float* x, const int32_t* codes, int64_t codes_ld, const std::vector<int32_t>& groups) {
    for (int64_t i = 0; i < n; ++i) {
      const int32_t group = groups[static_cast<size_t>(codes[i * codes_ld])];
      double* const sum = sums_.data() + group * d_;
      for (int64_t j = 0; j < d_; ++j) sum[j] += static_cast<double>(x[i * d_ + j]);
      ++counts_[static_cast<size_t>(group)];
    }
  }

  /// Writes the mean [d] of a group.
  void mean(int64_t group, float* out) const {
    const bool empty = counts_[static_cast<size_t>(group)] == 0;
    const int64_t begin = empty ? 0 : group, end = empty ? std::ssize(counts_) : group + 1;
    std::vector<double> sum(static_cast<size_t>(d_));
    double count = 0;
    for (int64_t g = begin; g < end; ++g) {
      for (int64_t j = 0; j < d_; ++j) sum[static_cast<size_t>(j)] += sums_[static_cast<size_t>(g * d_ + j)];
      count += static_cast<double>(counts_[static_cast<size_t>(g)]);
    }
    for (int64_t j = 0; j < d_; ++j) out[j] = static_cast<float>(sum[static_cast<size_t>(j)] / count);
  }

 private:
  int64_t d_;
  std::vector<double> sums_;     // [groups,d]
  std::vector<int64_t> counts_;  // [groups]
};

/// Codes [n,entries] as indices into the tables [n,entries-1].
std::vector<int32_t> pairs_of(int64_t n, const int32_t* codes, int64_t entries, int64_t K,
                              const std::vector<int32_t>& groups) {
  std::vector<int32_t> pairs(static_cast<size_t>(n * (entries - 1)));
  kernels::parallel_for(Context::cpu(), n, 1024, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* const code = codes + i * entries;
      const auto first = static_cast<int32_t>(groups[static_cast<size_t>(code[0])] * K);
      for (int64_t m = 1; m < entries; ++m) pairs[static_cast<size_t>(i * (entries - 1) + m - 1)] = first + code[m];
    }
  });
  return pairs;
}

/// What the decoder does, with what is in the memory of one device.
void sum_tables(const Context& context, int64_t n, const Tensor& first, const Tensor& tables, const int32_t* ids,
                const int32_t* pairs, float* x) {
  kernels::GatherSum<float> sum;
  sum.n = n, sum.M = tables.size(0), sum.K = tables.size(1), sum.d = tables.size(2);
  if (tables.dtype() == DType::bf16)
    sum.rounded_tables = &tables.data<BFloat16>()->bits;
  else
    sum.tables = tables.data<float>();
  sum.codes = pairs, sum.codes_ld = sum.M;
  sum.base = first.data<float>(), sum.base_ids = ids;
  sum.out = x;
  kernels::table<float>(context.device).gather_sum(context, sum);
}

/// Column m of codes [n,entries].
std::vector<int32_t> column(int64_t n, const int32_t* codes, int64_t entries, int64_t m) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = codes[i * entries + m];
  return out;
}

/// Makes the tables, in the codec's own space and the host's memory.
class PairwiseFit {
 public:
  PairwiseFit(const Codec& codec, int64_t n, const int32_t* codes, int64_t entries, const std::vector<int32_t>& groups)
      : codec_(codec),
        n_(n),
        entries_(entries),
        K_(codec.config().K),
        d_(codec.config().d),
        G_(std::min(K_, codec.config().K0())),
        codes_(codes),
        groups_(groups),
        first_(codec.first_codebook().to(Device{}).clone()),
        means_(static_cast<size_t>(entries - 1), GroupMeans(G_, d_)) {}

  /// first [K0,d] and tables [entries-1,G*K,d].
  std::pair<Tensor, Tensor> fit() && {
    AdditiveFit rest(entries_, K_, d_);  // first, since there may be too many codes for it
    const Tensor decoded = decode();
    tables_ = Tensor::empty({entries_ - 1, G_ * K_, d_});
    for (int64_t m = 1; m < entries_; ++m)
      for (int64_t g = 0; g < G_; g += groups_together()) run_step(m, g, std::min(G_, g + groups_together()));
    add_codebooks(codebooks_of_rest(decoded, std::move(rest)));
    return {first_, tables_};
  }

 private:
  int64_t groups_together() const { return std::max<int64_t>(1, kRows / K_); }

  // The network's reconstructions of all codes, whose means on the way it takes in.
  Tensor decode() {
    Tensor decoded = Tensor::empty({n_, d_});
    const Context& context = Context::of(codec_.device());
    for (int64_t begin = 0; begin < n_; begin += kRows) {
      const int64_t count = std::min(kRows, n_ - begin);
      const int32_t* const codes = codes_ + begin * entries_;
      float* const out = decoded.data<float>() + begin * d_;
      kernels::table<float>().gather_rows(Context::cpu(), count, d_, first_.data<float>(),
                                          column(count, codes, entries_, 0).data(), out);
      for (int64_t m = 1; m < entries_; ++m) {
        means_[static_cast<size_t>(m - 1)].add(count, out, codes, entries_, groups_);
        advance(context, m, count, column(count, codes, entries_, m), out);
      }
    }
    return decoded;
  }

  // The host's x [n,d] += what step m adds.
  void advance(const Context& context, int64_t m, int64_t n, const std::vector<int32_t>& ids, float* x) const {
    kernels::ScratchFrame frame(context);
    float* const rows = result_of(context, frame, x, n * d_);
    if (rows != x) kernels::copy_bytes(context.device, rows, Device{}, x, static_cast<size_t>(n * d_) * sizeof(float));
    codec_.advance_on_device(m, n, to_device(context, frame, ids.data(), n), rows);
    to_host(context, rows, x, n * d_);
  }

  // Rows of table m of the groups [begin, end): what the step adds to their means.
  void run_step(int64_t m, int64_t begin, int64_t end) {
    const int64_t rows = (end - begin) * K_;
    float* const out = tables_.data<float>() + ((m - 1) * G_ + begin) * K_ * d_;
    std::vector<float> means(static_cast<size_t>(rows * d_));
    std::vector<int32_t> ids(static_cast<size_t>(rows));
    for (int64_t i = 0; i < rows; ++i) {
      float* const mean = means.data() + i * d_;
      if (i % K_ == 0)
        means_[static_cast<size_t>(m - 1)].mean(begin + i / K_, mean);
      else
        std::copy_n(mean - d_, d_, mean);
      ids[static_cast<size_t>(i)] = static_cast<int32_t>(i % K_);
    }
    std::copy(means.begin(), means.end(), out);
    advance(Context::of(codec_.device()), m, rows, ids, out);
    kernels::table<float>().axpby(Context::cpu(), rows * d_, -1.0f, means.data(), 1.0f, out);
  }

  // Codebooks [entries,K,d], the first the groups', of least error for what the tables leave of the reconstructions.
  Tensor codebooks_of_rest(const Tensor& decoded, AdditiveFit fit) const {
    const Context& context = Context::cpu();
    std::vector<float> rest(static_cast<size_t>(std::min(kRows, n_) * d_));
    for (int64_t begin = 0; begin < n_; begin += kRows) {
      const int64_t count = std::min(kRows, n_ - begin);
      const int32_t* const codes = codes_ + begin * entries_;
      const std::vector<int32_t> pairs = pairs_of(count, codes, entries_, K_, groups_);
      sum_tables(context, count, first_, tables_, column(count, codes, entries_, 0).data(), pairs.data(), rest.data());
      kernels::table<float>().axpby(context, count * d_, 1.0f, decoded.data<float>() + begin * d_, -1.0f, rest.data());
      std::vector<int32_t> grouped(codes, codes + count * entries_);
      for (int64_t i = 0; i < count; ++i) {
        int32_t& first = grouped[static_cast<size_t>(i * entries_)];
        first = groups_[static_cast<size_t>(first)];
      }
      fit.add(context, count, rest.data(), grouped.data());
    }
    return std::move(fit).solve();
  }

  void add_codebooks(const Tensor& codebooks) {
    const kernels::Table<float>& kernel = kernels::table<float>();
    const Context& context = Context::cpu();
    const float* const more = codebooks.data<float>();
    for (int64_t i = 0; i < std::ssize(groups_); ++i)
      kernel.axpby(context, d_, 1.0f, more + groups_[static_cast<size_t>(i)] * d_, 1.0f, first_.data<float>() + i * d_);
    for (int64_t m = 1; m < entries_; ++m)
      for (int64_t g = 0; g < G_; ++g)
        kernel.axpby(context, K_ * d_, 1.0f, more + m * K_ * d_, 1.0f,
                     tables_.data<float>() + ((m - 1) * G_ + g) * K_ * d_);
  }

  const Codec& codec_;
  const int64_t n_, entries_, K_, d_, G_;
  const int32_t* const codes_;
  const std::vector<int32_t>& groups_;
  Tensor first_, tables_;
  std::vector<GroupMeans> means_;  // before step m, at m - 1
};

/// Of codes [n,entries] `most`, evenly spread.
std::vector<int32_t> some_of(int64_t n, const int32_t* codes, int64_t entries, int64_t most) {
  std::vector<int32_t> some;
  some.reserve(static_cast<size_t>(most * entries));
  for (int64_t i = 0; i < most; ++i) {
    const int32_t* const row = codes + (i * n / most) * entries;
    some.insert(some.end(), row, row + entries);
  }
  return some;
}

/// x times the codec's scale, on its device.
Tensor in_original_space(const Tensor& x, const Codec& codec) {
  return scale(x, static_cast<double>(codec.config().db_scale)).to(codec.device());
}

}  // namespace

PairwiseDecoder::PairwiseDecoder(const Codec& codec, int64_t n, const int32_t* codes, int64_t entries)
    : K_(codec.config().K) {
  check(entries >= 2 && entries <= codec.config().codes(), "pairwise decoder: {} codes a vector, expected 2 to {}",
        entries, codec.config().codes());
  check(n >= 1, "pairwise decoder: no codes to fit to");
  codec.check_codes(n, codes, entries, entries);
  groups_ = groups_of(codec.first_codebook().to(Device{}), K_);
  const int64_t fitted = std::min(n, kMostFitted);
  const std::vector<int32_t> some = some_of(n, codes, entries, fitted);
  const auto [first, tables] = PairwiseFit(codec, fitted, some.data(), entries, groups_).fit();
  first_ = in_original_space(first, codec);
  tables_ = in_original_space(tables, codec).to(DType::bf16);
}

void PairwiseDecoder::decode_to_device(int64_t n, const int32_t* codes, float* x) const {
  check_whole_codes("pairwise decoder", n, entries(), std::ssize(groups_), K_, codes, entries());
  const Context& context = Context::of(first_.device());
  const std::vector<int32_t> pairs = pairs_of(n, codes, entries(), K_, groups_);
  const std::vector<int32_t> ids = column(n, codes, entries(), 0);
  kernels::ScratchFrame frame(context);
  const int32_t* const on_device = to_device(context, frame, ids.data(), n);
  sum_tables(context, n, first_, tables_, on_device, to_device(context, frame, pairs.data(), std::ssize(pairs)), x);
}

}  // namespace qinco
