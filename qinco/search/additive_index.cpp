#include "qinco/search/additive_index.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "tensor/create.h"

namespace qinco {
namespace {

using kernels::kScanEntries;

constexpr int64_t kAddBlock = 4096;
constexpr int64_t kTableFloats = int64_t{1} << 22;  // look-up tables made together: 16 MB

}  // namespace

void PackedCodes::add(int64_t n, const uint8_t* codes) {
  constexpr int64_t kBlock = kernels::kScanBlock;
  bytes_.resize(static_cast<size_t>((n_ + n + kBlock - 1) / kBlock * kBlock * width_));
  for (int64_t i = 0; i < n; ++i, ++n_)
    for (int64_t m = 0; m < width_; ++m)
      bytes_[static_cast<size_t>(kernels::scan_place(n_, m, width_))] = codes[i * width_ + m];
}

ScanTables::ScanTables(const Tensor& codebooks, std::optional<NormQuantizer> norms)
    : M_(codebooks.size(0)), norms_(std::move(norms)) {
  const int64_t K = codebooks.size(1), d = codebooks.size(2);
  check(K <= kScanEntries, "search by look-up tables: K = {}, expected at most {}", K, kScanEntries);
  codewords_ = zeros({M_ * kScanEntries, d});
  for (int64_t m = 0; m < M_; ++m)
    for (int64_t i = 0; i < K * d; ++i)
      codewords_.data<float>()[m * kScanEntries * d + i] = -2 * codebooks.data<float>()[m * K * d + i];
}

void ScanTables::make(const kernels::Context& context, int64_t nq, const float* queries, float* tables) const {
  kernels::Gemm<float> product;
  product.m = nq, product.n = M_ * kScanEntries, product.k = d();
  product.a = queries, product.lda = d();
  product.b = codewords_.data<float>(), product.ldb = d(), product.trans_b = true;
  product.c = tables, product.ldc = width() * kScanEntries;
  kernels::table<float>().gemm(context, product);
  if (!norms_) return;
  for (int64_t q = 0; q < nq; ++q)
    std::copy(norms_->levels().begin(), norms_->levels().end(), tables + (q * width() + M_) * kScanEntries);
}

void ScanTables::to_bytes(int64_t n, const int32_t* codes, const float* norms, uint8_t* bytes) const {
  std::vector<uint8_t> levels(norms_ ? static_cast<size_t>(n) : 0);
  if (norms_) norms_->encode(n, norms, levels.data());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t m = 0; m < M_; ++m) *bytes++ = static_cast<uint8_t>(codes[i * M_ + m]);
    if (norms_) *bytes++ = levels[static_cast<size_t>(i)];
  }
}

AdditiveIndex::AdditiveIndex(const Tensor& codebooks, std::optional<NormQuantizer> norms)
    : codebooks_(codebooks.clone()), tables_(codebooks, std::move(norms)), codes_(tables_.width()) {}

void AdditiveIndex::add(const kernels::Context& context, int64_t n, const int32_t* codes) {
  constexpr int64_t kMost = int64_t{std::numeric_limits<uint32_t>::max()} - 1;
  check(size() + n <= kMost, "search: {} vectors, expected at most {}", size() + n, kMost);
  const int64_t rows = std::min(n, kAddBlock);
  std::vector<float> norms(static_cast<size_t>(rows));
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * tables_.width()));
  for (int64_t begin = 0; begin < n; begin += kAddBlock) {
    const int64_t count = std::min(kAddBlock, n - begin);
    const int32_t* const block = codes + begin * M();
    additive_norms(context, codebooks_, count, block, norms.data());
    tables_.to_bytes(count, block, norms.data(), bytes.data());
    codes_.add(count, bytes.data());
    if (!tables_.norms()) norms_.insert(norms_.end(), norms.begin(), norms.begin() + count);
  }
}

void AdditiveIndex::codes(int64_t id, int32_t* out) const {
  for (int64_t m = 0; m < M(); ++m) out[m] = codes_.at(id, m);
}

void AdditiveIndex::search(const kernels::Context& context, int64_t nq, const float* queries, int64_t k, int64_t* ids,
                           float* scores) const {
  const int64_t table = tables_.width() * kScanEntries, d = tables_.d();
  const int64_t block = std::clamp<int64_t>(kTableFloats / table, 1, std::max<int64_t>(nq, 1));
  std::vector<float> tables(static_cast<size_t>(block * table));
  const kernels::ScanList<float> list{size(), codes_.data(), tables_.norms() ? nullptr : norms_.data(), 0, 0};
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    tables_.make(context, count, queries + begin * d, tables.data());
    std::vector<kernels::ScanQuery<float>> scans;
    for (int64_t q = 0; q < count; ++q) scans.push_back({tables.data() + q * table, 1, &list});
    kernels::table<float>().scan(context,
                                 {count, tables_.width(), k, scans.data(), ids + begin * k, scores + begin * k});
  }
}

}  // namespace qinco
