#include "qinco/training/vector_set.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

namespace qinco {

namespace {

constexpr int64_t kReadRows = 4096;
constexpr int64_t kBlockRows = 1024, kDeviceBlockRows = 32768;
constexpr int64_t kGatherRows = 64;
constexpr int64_t kFingerprintRows = 1000;

void copy_row(const float* row, int64_t d, float* out) {
  std::memcpy(out, row, static_cast<size_t>(d) * sizeof(float));
}

void copy_row(const uint8_t* row, int64_t d, float* out) {
  std::copy(row, row + d, out);
}

// Calls body(pointer to the first value) with the type that the rows have.
template <class Body>
auto with_values(const Tensor& rows, Body&& body) {
  return rows.dtype() == DType::u8 ? body(rows.data<uint8_t>()) : body(rows.data<float>());
}

}  // namespace

VectorSet::VectorSet(const VectorFile& file, int64_t begin, int64_t end) {
  check(0 <= begin && begin < end && end <= file.size(), "{}: expected rows within [0,{}), found [{},{})", file.path(),
        file.size(), begin, end);
  const int64_t d = file.dim();
  const bool bytes = file.dtype() == DType::u8;
  rows_ = Tensor::empty({end - begin, d}, bytes ? DType::u8 : DType::f32);
  std::vector<float> block(bytes ? static_cast<size_t>(kReadRows * d) : 0);
  uint8_t* out = bytes ? rows_.data<uint8_t>() : nullptr;
  for (int64_t first = begin; first < end; first += kReadRows) {  // in pieces: the file gives back its pages after each
    const int64_t last = std::min(first + kReadRows, end);
    file.read(first, last, bytes ? block.data() : rows_.data<float>() + (first - begin) * d);
    if (!bytes) continue;
    for (int64_t i = 0; i < (last - first) * d; ++i) *out++ = static_cast<uint8_t>(block[static_cast<size_t>(i)]);
  }
}

VectorSet::VectorSet(Tensor rows) : rows_(std::move(rows)) {
  check(rows_.dim() == 2 && rows_.is_contiguous() && (rows_.dtype() == DType::f32 || rows_.dtype() == DType::u8),
        "vectors: expected contiguous f32 or u8 [n,d], found {} {}", name(rows_.dtype()), rows_.shape());
  if (rows_.dtype() != DType::f32) return;
  const double sum = kernels::table<float>().sum(kernels::Context::cpu(), rows_.numel(), rows_.data<float>());
  check(std::isfinite(sum), "vectors: expected finite values, found NaN or infinity");
}

int64_t VectorSet::block_rows(Device device) const {
  return std::min(size(), device.type == DeviceType::cpu ? kBlockRows : kDeviceBlockRows);
}

void VectorSet::gather(int64_t n, const int32_t* ids, float* out) const {
  with_values(rows_, [&, d = dim()](const auto* values) {
    kernels::parallel_for(kernels::Context::cpu(), n, kGatherRows, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) copy_row(values + ids[i] * d, d, out + i * d);
    });
  });
}

void VectorSet::copy(int64_t begin, int64_t end, float* out) const {
  with_values(rows_, [&, d = dim()](const auto* values) {
    for (int64_t i = begin; i < end; ++i) copy_row(values + i * d, d, out + (i - begin) * d);
  });
}

Tensor VectorSet::sample(int64_t limit) const {
  const int64_t n = std::min(size(), limit);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(spread_row(i, n, size()));
  const Tensor out = Tensor::empty({n, dim()});
  gather(n, ids.data(), out.data<float>());
  return out;
}

VectorSet VectorSet::columns(int64_t begin, int64_t end) const {
  return VectorSet(rows_.slice(1, begin, end).clone());
}

float VectorSet::max_entry() const {
  return with_values(
      rows_, [&](const auto* values) { return static_cast<float>(*std::max_element(values, values + rows_.numel())); });
}

uint64_t VectorSet::fingerprint() const {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  const auto add = [&hash](const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  };
  const int64_t sizes[] = {size(), dim()};
  add(sizes, sizeof(sizes));
  std::vector<float> row(static_cast<size_t>(dim()));
  const int64_t count = std::min(size(), kFingerprintRows);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = i * (size() - 1) / std::max<int64_t>(count - 1, 1);  // the first and the last row included
    copy(id, id + 1, row.data());
    add(row.data(), row.size() * sizeof(float));
  }
  return hash;
}

}  // namespace qinco
