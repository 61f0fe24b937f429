#include "tensor/blocks.h"

#include <algorithm>

namespace qinco {
namespace {

constexpr int64_t kMost = int64_t{1} << 20;

void release(const Tensor& block, const MappedFile& file) {
  const auto begin = reinterpret_cast<uintptr_t>(block.bytes()), of_file = reinterpret_cast<uintptr_t>(file.data());
  const auto bytes = block.numel() * static_cast<int64_t>(size_of(block.dtype()));
  if (begin < of_file || begin - of_file >= static_cast<uintptr_t>(file.size())) return;
  const auto at = static_cast<int64_t>(begin - of_file);
  file.release(at, at + bytes);
}

}  // namespace

void for_blocks(const Tensor& x, const MappedFile* file, const std::function<void(const Tensor& block)>& body) {
  if (x.numel() == 0) return;
  const Tensor rows = x.is_contiguous() ? x.reshape({-1}) : x;
  const int64_t n = rows.size(0), row = rows.numel() / n;
  if (row > kMost) {
    for (int64_t i = 0; i < n; ++i) for_blocks(rows.row(i), file, body);
    return;
  }
  const int64_t step = kMost / row;
  for (int64_t i = 0; i < n; i += step) {
    const Tensor block = rows.slice(0, i, std::min(i + step, n)).contiguous();
    body(block);
    if (file != nullptr) release(block, *file);
  }
}

}  // namespace qinco
