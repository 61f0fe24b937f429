// Released blocks of a device's memory, kept by size for the next that asks: a training batch takes hundreds of blocks
// of the same few sizes, which cost the host a millisecond of calls to the driver's pool (docs/gpu.md).
#pragma once

#include <bit>
#include <cstddef>
#include <map>
#include <mutex>
#include <vector>

namespace qinco::kernels::cuda {

/// All work of a device is in one stream, so a block can be handed out again as soon as it is released.
class BlockCache {
 public:
  static constexpr size_t kLargest = size_t{64} << 20;  // larger ones are few, and worth an exact fit

  /// Keeps at most so many bytes: what takes memory past this cache needs some, too. Set once, before the first.
  void set_limit(size_t bytes) { limit_ = bytes; }

  /// The bytes to allocate for `bytes`: one of four sizes per power of two, which lose a quarter at most, for blocks
  /// that are kept.
  static size_t rounded(size_t bytes) {
    if (bytes > kLargest) return bytes;
    if (bytes <= 256) return 256;
    const size_t step = std::bit_floor(bytes - 1) / 4;
    return (bytes + step - 1) / step * step;
  }

  /// A kept block of `size`, a rounded one; null if there is none.
  void* take(size_t size) {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(size);
    if (found == kept_.end() || found->second.empty()) return nullptr;
    void* const block = found->second.back();
    found->second.pop_back();
    bytes_ -= size;
    return block;
  }

  /// Whether the block is kept.
  bool keep(void* block, size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    if (size > kLargest || size > limit_ - bytes_) return false;
    try {
      kept_[size].push_back(block);
    } catch (...) {
      return false;  // the host has no memory for the list
    }
    bytes_ += size;
    return true;
  }

  /// All blocks that are kept; they are not any more.
  std::vector<void*> clear() {
    const std::lock_guard lock(mutex_);
    std::vector<void*> all;
    for (const auto& [size, blocks] : kept_) all.insert(all.end(), blocks.begin(), blocks.end());
    kept_.clear();
    bytes_ = 0;
    return all;
  }

  size_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> kept_;
  size_t bytes_ = 0, limit_ = 0;
};

}  // namespace qinco::kernels::cuda
