// Released blocks of memory, kept by size for the next that asks: training takes the same few sizes in every batch. On
// a GPU, hundreds of blocks cost the host a millisecond of calls to the driver's pool (docs/gpu.md); on the CPU, malloc
// returns blocks above 32 MiB to the system at once, to be mapped again page by page: with activations of 60 MB
// (fashion_mnist --batch-size 60000) that is about 15% of the time.
#pragma once

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace qinco::kernels {

/// Keeps blocks that nobody uses any more; whose they are is for the callers to know.
class BlockCache {
 public:
  /// Keeps at most `limit` bytes, in blocks of at most `largest`: larger ones may be few, and worth an exact fit.
  explicit BlockCache(size_t limit = 0, size_t largest = SIZE_MAX) : limit_(limit), largest_(largest) {}
  /// Before the first block is kept.
  void set_limit(size_t bytes) { limit_ = bytes; }

  /// `bytes` > 4 rounded up to one of four sizes per power of two, which lose a quarter at most: few sizes to look for.
  static size_t rounded(size_t bytes) {
    assert(bytes > 4);
    const size_t step = std::bit_floor(bytes - 1) / 4;
    return (bytes + step - 1) / step * step;
  }

  /// The bytes to allocate for `bytes`: rounded, 256 at least, for a block that is kept.
  size_t block_size(size_t bytes) const { return bytes > largest_ ? bytes : rounded(std::max<size_t>(bytes, 256)); }

  /// A kept block of `size`; null if there is none.
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
    if (size > largest_ || size > limit_ - bytes_) return false;
    try {
      kept_[size].push_back(block);
    } catch (...) {
      return false;  // the host has no memory for the list
    }
    bytes_ += size;
    return true;
  }

  using Blocks = std::map<size_t, std::vector<void*>>;  // by size

  /// What was kept, now the caller's.
  Blocks clear() noexcept {
    const std::lock_guard lock(mutex_);
    bytes_ = 0;
    return std::exchange(kept_, {});
  }

  size_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  mutable std::mutex mutex_;
  Blocks kept_;
  size_t bytes_ = 0, limit_, largest_;
};

}  // namespace qinco::kernels
