// Devices through the CUDA runtime. Memory comes from the driver's stream-ordered pool, which is told to keep what is
// released; blocks of common sizes are kept here (block_cache.h), unless QINCO_CUDA_CACHE is 0, as for
// compute-sanitizer, which then sees each block by itself.
#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstdlib>
#include <cuda_runtime.h>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/block_cache.h"
#include "kernels/check.h"
#include "kernels/cuda/download.h"
#include "kernels/cuda/recorded_blocks.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/upload.h"

namespace qinco::kernels::cuda {

namespace {

// One device, made ready on first use: its one stream, what feeds and empties it, and whether the driver has pools
// (some virtual GPUs have none).
struct State {
  std::once_flag ready;
  cudaStream_t stream = nullptr;
  bool pools = false;
  cudaMemPool_t pool = nullptr;
  // All work is in one stream: a block can be handed out again as soon as it is released.
  BlockCache cache{0, size_t{64} << 20};
  RecordedBlocks recorded;
  UploadRing uploads;
  DownloadRing downloads;
};

#ifdef CUDA_EMULATOR
constexpr bool kCaching = false;  // it looks at the guards around a block as that is released
#else
constexpr bool kCaching = true;
#endif

bool caching() {
  static const bool on = [] {
    const char* const setting = std::getenv("QINCO_CUDA_CACHE");
    return setting ? std::string(setting) != "0" : kCaching;
  }();
  return on;
}

// As it is, ready or not. Never destroyed: static objects may release device memory after it would be.
State& known_state(int index) {
  static auto* const states = new std::vector<State>(static_cast<size_t>(device_count()));
  return states->at(static_cast<size_t>(index));
}

State& state_of(int index) {
  State& state = known_state(index);
  use_device(index);
  std::call_once(state.ready, [&] {
    int pools = 0;
    check_status(cudaStreamCreate(&state.stream), "stream");
    check_status(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index), "device attribute");
    state.pools = pools != 0;
    size_t free = 0, total = 0;
    check_status(cudaMemGetInfo(&free, &total), "memory");
    if (caching()) state.cache.set_limit(total / 4);  // what takes memory past the cache needs some, too
    if (!state.pools) return;
    check_status(cudaDeviceGetDefaultMemPool(&state.pool, index), "memory pool");
    uint64_t keep = total / 4 * 3;  // cuBLAS and the loading of kernels take memory past the pool
    check_status(cudaMemPoolSetAttribute(state.pool, cudaMemPoolAttrReleaseThreshold, &keep), "memory pool");
  });
  return state;
}

cudaError_t try_allocate(const State& state, size_t bytes, void** memory) {
  return state.pools ? cudaMallocAsync(memory, bytes, state.stream) : cudaMalloc(memory, bytes);
}

// The bytes to allocate for `bytes`.
size_t block_size(const State& state, size_t bytes) {
  return caching() ? state.cache.block_size(bytes) : std::max<size_t>(bytes, 1);
}

void free_block(const State& state, void* memory) {
  if (state.pools)
    cudaFreeAsync(memory, state.stream);
  else
    cudaFree(memory);
}

// Keeps a block for the next that asks, or frees it.
void give_back(State& state, void* memory, size_t size) {
  if (!state.cache.keep(memory, size)) free_block(state, memory);
}

// Gives all that is kept to the driver.
void give_back_kept(State& state) {
  for (const auto& [size, blocks] : state.cache.clear())
    for (void* const block : blocks) free_block(state, block);
  check_status(cudaStreamSynchronize(state.stream), "device");
  if (state.pools) check_status(cudaMemPoolTrimTo(state.pool, 0), "memory pool");
}

// Before what only the host can do again.
void check_not_recording(int index) {
  check(!is_recording(index), "cuda: waiting for the device, and copies from or to the host, cannot be recorded");
}

// A block of `wanted` bytes for the `bytes` that were asked for.
void* unrecorded_block(int index, State& state, size_t bytes, size_t wanted) {
  if (void* const kept = state.cache.take(wanted)) return kept;
  void* memory = nullptr;
  cudaError_t status = try_allocate(state, wanted, &memory);
  if (status == cudaErrorMemoryAllocation) {
    // What is kept may be in pieces that are too small: given back to the driver, they are one again.
    cudaGetLastError();
    give_back_kept(state);
    status = try_allocate(state, wanted, &memory);
  }
  if (status == cudaSuccess) return memory;
  cudaGetLastError();
  if (status != cudaErrorMemoryAllocation) check_status(status, "allocation");
  const MemoryInfo info = memory_info(index);
  throw OutOfMemory(fmt::format("device cuda:{}: out of memory: {} bytes wanted, {} of {} free", index, bytes,
                                info.free, info.total));
}

}  // namespace

void check_status(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string words = fmt::format("cuda: {}: {}", what, cudaGetErrorString(status));
  cudaGetLastError();  // an error that was reported is not reported again by the next call
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(words);
  throw Error(words);
}

void give_back_kept(int index) {
  give_back_kept(state_of(index));
}

void use_device(int index) {
  check_status(cudaSetDevice(index), "device");
}

bool built() {
  return true;
}

int device_count() {
  static const int count = [] {
    int found = 0;
    if (cudaGetDeviceCount(&found) == cudaSuccess) return found;
    cudaGetLastError();  // no driver, or one that is too old: no devices
    return 0;
  }();
  return count;
}

std::string description(int index) {
  cudaDeviceProp p{};
  check_status(cudaGetDeviceProperties(&p, index), "device properties");
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GB", p.name, p.major, p.minor,
                     p.multiProcessorCount, static_cast<double>(p.totalGlobalMem) / 1e9);
}

int compute_capability(int index) {
  int major = 0, minor = 0;
  check_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "device attribute");
  check_status(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "device attribute");
  return 10 * major + minor;
}

MemoryInfo memory_info(int index) {
  const State& state = state_of(index);
  MemoryInfo info;
  check_status(cudaMemGetInfo(&info.free, &info.total), "memory");
  info.free += state.cache.bytes();
  if (!state.pools) return info;
  uint64_t reserved = 0, used = 0;
  check_status(cudaMemPoolGetAttribute(state.pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "memory pool");
  check_status(cudaMemPoolGetAttribute(state.pool, cudaMemPoolAttrUsedMemCurrent, &used), "memory pool");
  info.free += reserved - used;
  return info;
}

void* allocate(int index, size_t bytes) {
  State& state = state_of(index);
  const size_t wanted = block_size(state, bytes);
  if (!is_recording(index)) return unrecorded_block(index, state, bytes, wanted);
  const void* const owner = recording_now().owner;
  if (void* const released = state.recorded.take(owner, wanted)) return released;
  void* const memory = unrecorded_block(index, state, bytes, wanted);
  if (state.recorded.add(owner, memory, wanted, true)) return memory;
  free_block(state, memory);
  throw std::bad_alloc();
}

void release(int index, void* memory, size_t bytes) noexcept {
  // Failures here follow one that was reported, or the end of the process.
  if (cudaSetDevice(index) != cudaSuccess) return;
  State& state = known_state(index);
  const size_t size = block_size(state, bytes);
  if (is_recording(index)) {
    // What is recorded may have been given this block. Where the host cannot note that, the block is lost.
    state.recorded.add(recording_now().owner, memory, size, false);
    return;
  }
  if (!state.recorded.release(memory)) give_back(state, memory, size);
}

void release_recorded(int index, const void* owner) noexcept {
  State& state = known_state(index);
  state.recorded.disown(owner, [&state](void* memory, size_t size) { give_back(state, memory, size); });
}

void allow_shared_memory(const void* kernel, int device, size_t bytes) {
  static std::mutex mutex;
  static auto* const allowed = new std::map<std::pair<const void*, int>, size_t>;
  const std::lock_guard lock(mutex);
  size_t& most = (*allowed)[{kernel, device}];
  if (bytes <= most) return;
  check_call(device, "shared memory of a kernel", [&] {  // which loads the kernel
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  });
  most = bytes;
}

void copy_to(int index, void* destination, const void* host, size_t bytes) {
  check_not_recording(index);
  State& state = state_of(index);
  state.uploads.copy(state.stream, destination, host, bytes);
}

void copy_written(int index, void* destination, size_t bytes, size_t unit,
                  const std::function<void(void*, size_t)>& write) {
  check_not_recording(index);
  State& state = state_of(index);
  state.uploads.copy_written(state.stream, destination, bytes, unit, write);
}

void copy_from(int index, void* host, const void* source, size_t bytes) {
  check_not_recording(index);
  State& state = state_of(index);
  if (bytes >= DownloadRing::kLeastBytes) return state.downloads.copy(state.stream, host, source, bytes);
  check_status(cudaMemcpyAsync(host, source, bytes, cudaMemcpyDeviceToHost, state.stream), "copy");
  check_status(cudaStreamSynchronize(state.stream), "copy");
}

void copy_between(int to, void* destination, int from, const void* source, size_t bytes) {
  if (to == from) {
    cudaStream_t const own = state_of(to).stream;
    check_status(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice,
                                 is_recording(to) ? recording_now().stream : own),
                 "copy");
    return;
  }
  check_not_recording(from);
  synchronize(to);
  const State& state = state_of(from);
  check_status(cudaMemcpyPeerAsync(destination, to, source, from, bytes, state.stream), "copy");
  synchronize(from);
}

void synchronize(int index) {
  check_not_recording(index);
  check_status(cudaStreamSynchronize(state_of(index).stream), "device");
}

void* stream(int index) {
  return state_of(index).stream;
}

}  // namespace qinco::kernels::cuda
