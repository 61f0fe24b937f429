#include "qinco/search/additive_index.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

using kernels::kScanEntries;

constexpr int64_t kAddBlock = 4096;
constexpr int64_t kTableFloats = int64_t{1} << 22;  // look-up tables made together: 16 MB

}  // namespace

size_t PackedCodes::bytes_of(int64_t n) const {
  using kernels::kScanBlock;
  return static_cast<size_t>((n + kScanBlock - 1) / kScanBlock * kScanBlock * width_);
}

void PackedCodes::add(int64_t n, const uint8_t* codes) {
  bytes_.resize(bytes_of(n_ + n));
  for (int64_t i = 0; i < n; ++i, ++n_)
    for (int64_t m = 0; m < width_; ++m)
      bytes_[static_cast<size_t>(kernels::scan_place(n_, m, width_))] = codes[i * width_ + m];
}

ScanTables::ScanTables(const Tensor& codebooks, std::optional<NormQuantizer> norms, Device device)
    : M_(codebooks.size(0)), kernels_(&kernels::table<float>(device)), norms_(std::move(norms)) {
  const int64_t K = codebooks.size(1), d = codebooks.size(2);
  check(K <= kScanEntries, "search by look-up tables: K = {}, expected at most {}", K, kScanEntries);
  const Tensor values = codebooks.contiguous().to(Device{}), codewords = zeros({M_ * kScanEntries, d});
  for (int64_t m = 0; m < M_; ++m)
    for (int64_t i = 0; i < K * d; ++i)
      codewords.data<float>()[m * kScanEntries * d + i] = -2 * values.data<float>()[m * K * d + i];
  product_.allocate(*kernels_, device, M_ * kScanEntries, d, kernels::Precision::fast);
  product_.pack(*kernels_, kernels::Context::of(device), codewords.to(device).data<float>(), d);
  if (norms_) levels_ = from_vector(norms_->levels()).to(device);
}

void ScanTables::make(const kernels::Context& context, int64_t nq, const float* queries, float* tables) const {
  kernels::Linear<float> product = product_.product(nq, queries, tables);
  product.ldy = width() * kScanEntries;
  kernels_->linear(context, product);
  if (!norms_) return;
  const Tensor repeated = levels_.expand({nq, kScanEntries}).contiguous();
  const int64_t shape[] = {nq, kScanEntries}, strides[] = {product.ldy, 1};
  kernels_->strided_write(context, 2, shape, strides, repeated.data<float>(), tables + M_ * kScanEntries);
}

void ScanTables::to_bytes(int64_t n, const int32_t* codes, const float* norms, uint8_t* bytes) const {
  std::vector<uint8_t> levels(norms_ ? static_cast<size_t>(n) : 0);
  if (norms_) norms_->encode(n, norms, levels.data());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t m = 0; m < M_; ++m) *bytes++ = static_cast<uint8_t>(codes[i * M_ + m]);
    if (norms_) *bytes++ = levels[static_cast<size_t>(i)];
  }
}

AdditiveIndex::AdditiveIndex(const Tensor& codebooks, std::optional<NormQuantizer> norms, Device device)
    : codebooks_(codebooks.clone(device)), tables_(codebooks, std::move(norms), device), codes_(tables_.width()) {}

void AdditiveIndex::add(const kernels::Context& context, int64_t n, const int32_t* codes) {
  constexpr int64_t kMost = int64_t{std::numeric_limits<uint32_t>::max()} - 1;
  check(size() + n <= kMost, "search: {} vectors, expected at most {}", size() + n, kMost);
  std::vector<float> norms(static_cast<size_t>(n));
  additive_norms(context, codebooks_, n, codes, norms.data());  // checks all codes before any are taken in
  std::vector<uint8_t> bytes(static_cast<size_t>(std::min(n, kAddBlock) * tables_.width()));
  for (int64_t begin = 0; begin < n; begin += kAddBlock) {
    const int64_t count = std::min(kAddBlock, n - begin);
    tables_.to_bytes(count, codes + begin * M(), norms.data() + begin, bytes.data());
    codes_.add(count, bytes.data());
  }
  if (!tables_.norms()) norms_.insert(norms_.end(), norms.begin(), norms.end());
}

void AdditiveIndex::reserve(int64_t n) {
  codes_.reserve(n);
  if (!tables_.norms()) norms_.reserve(static_cast<size_t>(n));
}

void AdditiveIndex::codes(int64_t id, int32_t* out) const {
  for (int64_t m = 0; m < M(); ++m) out[m] = codes_.at(id, m);
}

void AdditiveIndex::copy_to_device(Device device) const {
  if (on_device_ == size()) return;
  device_codes_ = device_norms_ = {};  // gone before their successors come
  const auto copy = [&](const auto& host, DType dtype) {
    const Tensor there = Tensor::empty({std::ssize(host)}, dtype, device);
    kernels::copy_bytes(device, there.bytes(), Device{}, host.data(), host.size() * sizeof(host[0]));
    return there;
  };
  on_device_ = -1;
  device_codes_ = copy(codes_.bytes(), DType::u8);
  device_norms_ = copy(norms_, DType::f32);
  on_device_ = size();
}

void AdditiveIndex::search(const kernels::Context& context, int64_t nq, const float* queries, int64_t k, int64_t* ids,
                           float* scores) const {
  check(k >= 1, "search: {} neighbours asked for, expected at least 1", k);
  const int64_t table = tables_.width() * kScanEntries, d = tables_.d();
  const int64_t block = std::clamp<int64_t>(kTableFloats / table, 1, std::max<int64_t>(nq, 1));
  const bool cpu = context.device.type == DeviceType::cpu;
  if (!cpu) copy_to_device(context.device);
  const float* const norms = cpu ? norms_.data() : device_norms_.data<float>();
  const kernels::ScanList<float> list{size(), cpu ? codes_.data() : device_codes_.data<uint8_t>(),
                                      tables_.norms() ? nullptr : norms, 0, 0};
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    kernels::ScratchFrame frame(context);
    float* const tables = frame.get<float>(count * table);
    int64_t* const found = result_of(context, frame, ids + begin * k, count * k);
    float* const best = result_of(context, frame, scores + begin * k, count * k);
    tables_.make(context, count, to_device(context, frame, queries + begin * d, count * d), tables);
    std::vector<kernels::ScanQuery<float>> scans;
    for (int64_t q = 0; q < count; ++q) scans.push_back({tables + q * table, 1, &list});
    kernels::table<float>(context.device).scan(context, {count, tables_.width(), k, scans.data(), found, best});
    to_host(context, found, ids + begin * k, count * k);
    to_host(context, best, scores + begin * k, count * k);
  }
}

}  // namespace qinco
