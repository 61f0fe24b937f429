// The CUDA half of kernels/device.h: in cuda/device.cpp, or in no_cuda.cpp where the build has no CUDA. No CUDA types,
// so that plain C++ includes it.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/device.h"

namespace qinco::kernels::cuda {

/// Whether this build has CUDA.
bool built();
/// CUDA devices on this machine; 0 without a driver.
int device_count();

// The rest is for indices below device_count(). They throw Error where the runtime reports one.
std::string description(int index);
/// 10 times the major number plus the minor one.
int compute_capability(int index);
MemoryInfo memory_info(int index);
void* allocate(int index, size_t bytes);
/// What allocate(index, bytes) returned.
void release(int index, void* memory, size_t bytes) noexcept;
void copy_to(int index, void* destination, const void* host, size_t bytes);
void copy_from(int index, void* host, const void* source, size_t bytes);
void copy_between(int to, void* destination, int from, const void* source, size_t bytes);
void synchronize(int index);
/// The device's one stream.
void* stream(int index);

}  // namespace qinco::kernels::cuda
