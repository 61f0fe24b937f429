#include "tensor/storage.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/block_cache.h"
#include "kernels/device.h"
#include "kernels/sanitizer.h"

namespace qinco {

namespace {

constexpr std::align_val_t kAlignment{64};

// Under AddressSanitizer every tensor gets memory of its own, so that it sees uses after free.
constexpr size_t kCacheLimit = kAddressSanitizer ? 0 : size_t{512} << 20;

// Blocks from this size on are kept: from glibc's first threshold on, malloc may map and unmap them page by page.
constexpr size_t kKeptFrom = size_t{1} << 17;

size_t rounded(size_t bytes) {
  if (bytes < kKeptFrom) return std::max<size_t>((bytes + 63) / 64 * 64, 64);
  return kernels::BlockCache::rounded(bytes);
}

// Never destroyed, as the counters below: tensors with static lifetime may be freed after it would be.
kernels::BlockCache& cache() {
  static auto* const instance =
      new kernels::BlockCache(kCacheLimit, kCacheLimit / 4);  // a few large ones would fill it
  return *instance;
}

void* allocate_on_cpu(size_t bytes) {
  if (bytes >= kKeptFrom)
    if (void* const block = cache().take(bytes)) return block;
  if (void* const block = ::operator new(bytes, kAlignment, std::nothrow)) return block;
  release_cached_memory();  // what is kept in other sizes may be what is missing
  return ::operator new(bytes, kAlignment);
}

void free_on_cpu(void* block, size_t bytes) noexcept {
  if (bytes >= kKeptFrom && cache().keep(block, bytes)) return;
  ::operator delete(block, kAlignment);
}

/// Counts the memory of tensors by device.
class Counters {
 public:
  void add(Device device, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    MemoryStats& stats = of_[key(device)];
    stats.live += bytes;
    stats.peak = std::max(stats.peak, stats.live);
  }
  MemoryStats stats(Device device) {
    const std::lock_guard lock(mutex_);
    return of_[key(device)];
  }
  void reset_peak(Device device) {
    const std::lock_guard lock(mutex_);
    MemoryStats& stats = of_[key(device)];
    stats.peak = stats.live;
  }

 private:
  static std::pair<DeviceType, int> key(Device device) { return {device.type, device.index}; }

  std::mutex mutex_;
  std::map<std::pair<DeviceType, int>, MemoryStats> of_;
};

Counters& counters() {
  static auto* const instance = new Counters;
  return *instance;
}

bool is_cpu(Device device) {
  return device.type == DeviceType::cpu;
}

}  // namespace

MemoryStats memory_stats(Device device) {
  MemoryStats stats = counters().stats(device);
  if (is_cpu(device)) stats.cached = static_cast<int64_t>(cache().bytes());
  return stats;
}
void reset_memory_peak(Device device) {
  counters().reset_peak(device);
}
void release_cached_memory() {
  for (const auto& [size, blocks] : cache().clear())
    for (void* const block : blocks) ::operator delete(block, kAlignment);
}

Storage::Storage(size_t bytes, Device device) : bytes_(bytes), device_(device) {
  const size_t size = rounded(bytes);
  data_ = static_cast<std::byte*>(is_cpu(device) ? allocate_on_cpu(size) : kernels::allocate(device, size));
  counters().add(device, static_cast<int64_t>(size));
}

Storage::Storage(void* data, size_t bytes, std::shared_ptr<void> owner)
    : data_(static_cast<std::byte*>(data)), bytes_(bytes), owner_(std::move(owner)), external_(true) {}

Storage::~Storage() {
  if (external_) return;
  const size_t size = rounded(bytes_);
  counters().add(device_, -static_cast<int64_t>(size));  // before another thread has the block, and counts it
  if (is_cpu(device_))
    free_on_cpu(data_, size);
  else
    kernels::release(device_, data_, size);
}

}  // namespace qinco
