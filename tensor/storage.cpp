#include "tensor/storage.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/check.h"
#include "kernels/device.h"

namespace qinco {

namespace {

constexpr std::align_val_t kAlignment{64};

// Under AddressSanitizer every tensor gets memory of its own, so that it sees uses after free.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kCacheLimit = 0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr size_t kCacheLimit = 0;
#else
constexpr size_t kCacheLimit = size_t{512} << 20;
#endif
#else
constexpr size_t kCacheLimit = size_t{512} << 20;
#endif

// Blocks from this size on are cached; malloc keeps smaller ones itself.
constexpr size_t kCachedFrom = size_t{1} << 20;

// Cached sizes are rounded up to one of four per power of two: at most 25% lost, and few different sizes to look for.
size_t rounded(size_t bytes) {
  if (bytes < kCachedFrom) return std::max<size_t>((bytes + 63) / 64 * 64, 64);
  const size_t step = std::bit_floor(bytes) / 4;
  return (bytes + step - 1) / step * step;
}

/// Keeps large freed blocks by size. Training asks for the same sizes in every batch, and malloc returns blocks above
/// 32 MiB to the system at once, to be mapped again page by page: with 60 MB activations (fashion_mnist --batch-size
/// 60000) that is about 15% of the CPU time.
class Cache {
 public:
  ~Cache() { release(); }

  void* allocate(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      count(static_cast<int64_t>(bytes));
      const auto found = bytes < kCachedFrom ? free_.end() : free_.find(bytes);
      if (found != free_.end() && !found->second.empty()) {
        void* const block = found->second.back();
        found->second.pop_back();
        stats_.cached -= static_cast<int64_t>(bytes);
        return block;
      }
    }
    void* const block = ::operator new(bytes, kAlignment, std::nothrow);
    if (block) return block;
    release();  // what is cached in other sizes may be what is missing
    try {
      return ::operator new(bytes, kAlignment);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      stats_.live -= static_cast<int64_t>(bytes);
      throw;
    }
  }

  void free(void* block, size_t bytes) noexcept {
    {
      const std::lock_guard lock(mutex_);
      stats_.live -= static_cast<int64_t>(bytes);
      const bool fits = static_cast<size_t>(stats_.cached) + bytes <= kCacheLimit;
      if (bytes >= kCachedFrom && fits && keep(block, bytes)) return;
    }
    ::operator delete(block, kAlignment);
  }

  void release() {
    std::map<size_t, std::vector<void*>> blocks;
    {
      const std::lock_guard lock(mutex_);
      blocks.swap(free_);
      stats_.cached = 0;
    }
    for (const auto& [bytes, list] : blocks)
      for (void* const block : list) ::operator delete(block, kAlignment);
  }

  MemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak = stats_.live;
  }

 private:
  void count(int64_t bytes) {
    stats_.live += bytes;
    stats_.peak = std::max(stats_.peak, stats_.live);
  }
  bool keep(void* block, size_t bytes) noexcept {
    try {
      free_[bytes].push_back(block);
    } catch (const std::bad_alloc&) {
      return false;
    }
    stats_.cached += static_cast<int64_t>(bytes);
    return true;
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  MemoryStats stats_;
};

// Never destroyed: tensors with static lifetime may be freed after it would be.
Cache& cache() {
  static Cache* const instance = new Cache;
  return *instance;
}

/// Counts the memory of the devices that cache it themselves.
class Counters {
 public:
  void add(Device device, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    MemoryStats& stats = of_[device.index];
    stats.live += bytes;
    stats.peak = std::max(stats.peak, stats.live);
  }
  MemoryStats stats(Device device) {
    const std::lock_guard lock(mutex_);
    return of_[device.index];
  }
  void reset_peak(Device device) {
    const std::lock_guard lock(mutex_);
    of_[device.index].peak = of_[device.index].live;
  }

 private:
  std::mutex mutex_;
  std::map<int, MemoryStats> of_;
};

Counters& counters() {
  static Counters* const instance = new Counters;
  return *instance;
}

bool is_cpu(Device device) {
  return device.type == DeviceType::cpu;
}

}  // namespace

MemoryStats memory_stats(Device device) {
  return is_cpu(device) ? cache().stats() : counters().stats(device);
}
void reset_memory_peak(Device device) {
  is_cpu(device) ? cache().reset_peak() : counters().reset_peak(device);
}
void release_cached_memory() {
  cache().release();
}

Storage::Storage(size_t bytes, Device device) : bytes_(bytes), device_(device) {
  const size_t size = rounded(bytes);
  data_ = static_cast<std::byte*>(is_cpu(device) ? cache().allocate(size) : kernels::allocate(device, size));
  if (!is_cpu(device)) counters().add(device, static_cast<int64_t>(size));
}

Storage::Storage(void* data, size_t bytes, std::shared_ptr<void> owner)
    : data_(static_cast<std::byte*>(data)), bytes_(bytes), owner_(std::move(owner)), external_(true) {}

Storage::~Storage() {
  if (external_) return;
  const size_t size = rounded(bytes_);
  if (is_cpu(device_)) {
    cache().free(data_, size);
  } else {
    kernels::release(device_, data_, size);
    counters().add(device_, -static_cast<int64_t>(size));
  }
}

}  // namespace qinco
