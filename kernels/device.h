// Devices: which there are, and memory on them. The same in builds with and without CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace qinco {

enum class DeviceType : uint8_t { cpu, cuda };

/// `cpu`, or the index-th CUDA device.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  /// Parses `cpu`, `cuda` or `cuda:i`; throws Error on anything else.
  static Device parse(const std::string& text);
  std::string name() const;
  bool operator==(const Device&) const = default;
};

}  // namespace qinco

namespace qinco::kernels {

/// How many devices of a type this build can use on this machine: 1 for cpu; 0 for cuda where the build has no CUDA.
int device_count(DeviceType type);

/// Throws Error, one line that says why, unless `device` can be used.
void check_device(Device device);

/// For people: the processor's instruction set, or the GPU's name, compute capability and memory.
std::string device_description(Device device);

/// Bytes of a device's memory. What this process has released counts as free.
struct MemoryInfo {
  size_t free = 0, total = 0;
};
MemoryInfo memory_info(Device device);

/// `bytes` >= 0 uninitialised bytes on `device`, aligned to 64 (CUDA: 256). On a CUDA device released memory is kept
/// for later calls, and what is done to the memory follows what was queued on the device before. Throws std::bad_alloc
/// on the CPU, elsewhere OutOfMemory with the bytes wanted and free.
void* allocate(Device device, size_t bytes);

/// Gives back what `allocate(device, bytes)` returned, or null; work queued on the device may still use it.
void release(Device device, void* memory, size_t bytes) noexcept;

/// Copies between two devices, or within one, after everything queued on them. When it returns, the host may change
/// `source` if that is the host's, and read `destination` if that is. The blocks do not overlap.
void copy_bytes(Device to, void* destination, Device from, const void* source, size_t bytes);

/// Waits until everything queued on `device` is done; throws Error if it failed.
void synchronize(Device device);

}  // namespace qinco::kernels
