// The runtime's functions on one emulated device (CUDA_EMULATOR_DEVICES=n for several that share its memory).
// Everything is done when the function that asks for it returns, but copies from and to page-locked memory
// (pinned.cpp).
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/pinned.h"
#include "tests/cuda_emulator/status.h"

namespace cuda_emulator {

namespace {

thread_local std::string last_words;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

int devices() {
  static const char* const setting = std::getenv("CUDA_EMULATOR_DEVICES");
  static const int count = setting ? std::atoi(setting) : 1;
  return count;
}

bool is_device(int device) {
  return device >= 0 && device < devices();
}

// What is wrong with one end of a copy.
std::string end_error(const void* memory, size_t bytes, bool on_device) {
  const Memory& device = Memory::instance();
  if (on_device && !device.holds(memory, bytes)) return "not a block of device memory of that size";
  if (!on_device && device.owns(memory)) return "device memory where the host's is expected";
  return "";
}

cudaError_t copy(void* to, bool to_device, const void* from, bool from_device, size_t bytes) {
  Memory::instance().open();
  std::string error = end_error(to, bytes, to_device);
  if (error.empty()) error = end_error(from, bytes, from_device);
  if (error.empty() && is_pinned(to_device ? from : to)) {
    if (!to_device) await_copy(to, bytes);
    copy_later(to, from, bytes);
  } else if (error.empty()) {
    arrive();
    std::memcpy(to, from, bytes);
  }
  Memory::instance().close();
  if (!error.empty()) return set_error(cudaErrorInvalidValue, fmt::format("copy of {} bytes: {}", bytes, error));
  return cudaSuccess;
}

}  // namespace

cudaError_t set_error(cudaError_t error, const std::string& words) {
  last_error = error;
  last_words = words;
  return error;
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : error == last_error ? last_words.c_str() : "error of the emulator";
}
cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return set_error(cudaErrorInvalidDevice, "no such device");
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!is_device(device)) return set_error(cudaErrorInvalidDevice, "no such device");
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated device");
  properties->totalGlobalMem = Memory::instance().total_bytes();
  properties->sharedMemPerBlockOptin = size_t{227} << 10;
  properties->major = 9;
  properties->multiProcessorCount = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!is_device(device)) return set_error(cudaErrorInvalidDevice, "no such device");
  *value = attribute == cudaDevAttrMultiProcessorCount            ? 2
           : attribute == cudaDevAttrComputeCapabilityMajor       ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor       ? 0
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10
                                                                  : 1;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const DeviceWork work;
  *free = Memory::instance().free_bytes();
  *total = Memory::instance().total_bytes();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  *static_cast<uint64_t*>(value) = 0;
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = Memory::instance().allocate(bytes);
  return *memory ? cudaSuccess : set_error(cudaErrorMemoryAllocation, "out of memory");
}
cudaError_t cudaFree(void* memory) {
  const std::string error = memory ? Memory::instance().release(memory) : "";
  if (error.empty()) return cudaSuccess;
  // Whoever frees cannot throw, so that the error might go unseen.
  std::fprintf(stderr, "cuda emulator: %s\n", error.c_str());
  std::abort();
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  return cudaMalloc(memory, bytes);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  return cudaFree(memory);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return do_on(stream, [=] { return copy(to, to_device, from, from_device, bytes); });
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream) {
  if (!is_device(to_device) || !is_device(from_device)) return set_error(cudaErrorInvalidDevice, "no such device");
  return do_on(stream, [=] { return copy(to, true, from, true, bytes); });
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return do_on(stream, [=] {
    const DeviceWork work;
    const std::string error = end_error(memory, bytes, true);
    if (!error.empty()) return set_error(cudaErrorInvalidValue, fmt::format("memset: {}", error));
    std::memset(memory, value, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceSynchronize() {
  const DeviceWork work;
  return cudaSuccess;
}
