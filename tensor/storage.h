// The memory behind tensors: 64-byte aligned, large blocks cached by size, counted by device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/context.h"

namespace qinco {

/// Memory of all tensors of the process on one device, in bytes. Mapped files and other external memory are not
/// counted.
struct MemoryStats {
  int64_t live = 0;    // held by tensors now
  int64_t peak = 0;    // the largest `live` since start or reset_memory_peak()
  int64_t cached = 0;  // CPU: freed by tensors and kept for the next ones; elsewhere kernels::allocate keeps it, as 0
};
MemoryStats memory_stats(Device device = {});
void reset_memory_peak(Device device = {});
/// Gives the cached memory of the CPU back to the system.
void release_cached_memory();

/// A block of memory with one or more tensors on it.
class Storage {
 public:
  /// Uninitialised, aligned to 64 bytes; throws std::bad_alloc on the CPU, elsewhere Error as kernels::allocate.
  Storage(size_t bytes, Device device);
  /// External memory, kept alive by `owner`.
  Storage(void* data, size_t bytes, std::shared_ptr<void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  /// On another device than the CPU the host cannot follow this pointer.
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  bool external() const { return external_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  Device device_;
  std::shared_ptr<void> owner_;  // set for external memory
  bool external_ = false;
};

}  // namespace qinco
