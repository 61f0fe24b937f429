// A CUDA runtime for tests without a GPU: what the sources in kernels/cuda use of the language and of the runtime, for
// a plain C++ compiler. Kernels run on the host, block after block, the threads of a block as fibers that change at
// barriers and shuffles. docs/gpu.md says what it finds and what it cannot.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define CUDA_EMULATOR
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

// --- vector types

#define CUDA_EMULATOR_VECTOR(type, name, bytes)                   \
  struct alignas(bytes / 2) name##2 {                             \
    type x, y;                                                    \
  };                                                              \
  struct name##3 {                                                \
    type x, y, z;                                                 \
  };                                                              \
  struct alignas(bytes > 16 ? 16 : bytes) name##4 {               \
    type x, y, z, w;                                              \
  };                                                              \
  inline name##2 make_##name##2(type x, type y) {                 \
    return {x, y};                                                \
  }                                                               \
  inline name##3 make_##name##3(type x, type y, type z) {         \
    return {x, y, z};                                             \
  }                                                               \
  inline name##4 make_##name##4(type x, type y, type z, type w) { \
    return {x, y, z, w};                                          \
  }
CUDA_EMULATOR_VECTOR(float, float, 16)
CUDA_EMULATOR_VECTOR(double, double, 32)
CUDA_EMULATOR_VECTOR(int, int, 16)
CUDA_EMULATOR_VECTOR(unsigned, uint, 16)
CUDA_EMULATOR_VECTOR(short, short, 8)
CUDA_EMULATOR_VECTOR(unsigned short, ushort, 8)
CUDA_EMULATOR_VECTOR(signed char, char, 4)
CUDA_EMULATOR_VECTOR(unsigned char, uchar, 4)
#undef CUDA_EMULATOR_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// --- what a thread knows of itself

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// --- between the threads of a block

namespace cuda_emulator {

using Where = std::source_location;

/// This thread's lane in its warp.
int lane();
/// Waits for all threads of the block; every one must come to this same line.
void block_barrier(const Where& where);
/// Waits for the lanes of `mask`; every one must come to this same line with this same mask.
void warp_barrier(unsigned mask, const Where& where);
/// A slot of 32 bytes for each lane of this warp, on each of three sides.
void* lane_slot(int of_lane, unsigned mask, int side, const Where& where);
/// The side of this thread's next exchange: 0 and 1 in turn for whole warps, else kSideOfParts.
int exchange_side(unsigned mask);
inline constexpr int kSideOfParts = 2;
/// The shared memory that the launch asked for.
void* dynamic_shared();
/// Ends the launch with an error.
[[noreturn]] void fail(const std::string& message, const Where& where);

// Every lane of `mask` puts down a value; read(lane) picks that of a lane of the mask. Whole warps do so on two sides
// in turn: who is at the next exchange has read the last one's values, so that one barrier is enough.
template <class T, class Read>
auto exchange(unsigned mask, T value, const Where& where, Read read) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 32);
  const int side = exchange_side(mask);
  std::memcpy(lane_slot(lane(), mask, side, where), &value, sizeof(T));
  warp_barrier(mask, where);
  const auto result = read([&](int of_lane) {
    T other;
    std::memcpy(&other, lane_slot(of_lane, mask, side, where), sizeof(T));
    return other;
  });
  if (side == kSideOfParts) warp_barrier(mask, where);
  return result;
}

template <class T>
T shuffle(unsigned mask, T value, int source, const Where& where) {
  return exchange(mask, value, where, [source](auto from) { return from(source); });
}

// The value of every lane of the mask, folded in the order of the lanes.
template <class T, class Fold>
T fold(unsigned mask, T value, const Where& where, Fold combine) {
  return exchange(mask, value, where, [&](auto from) {
    bool first = true;
    T total{};
    for (int of_lane = 0; of_lane < warpSize; ++of_lane) {
      if (!(mask >> of_lane & 1)) continue;
      total = first ? from(of_lane) : combine(total, from(of_lane));
      first = false;
    }
    return total;
  });
}

}  // namespace cuda_emulator

inline void __syncthreads(cuda_emulator::Where where = cuda_emulator::Where::current()) {
  cuda_emulator::block_barrier(where);
}
inline int __syncthreads_or(int predicate, cuda_emulator::Where where = cuda_emulator::Where::current()) {
  static int any;  // blocks run one after the other
  if (predicate) any = 1;
  cuda_emulator::block_barrier(where);
  const int result = any;
  cuda_emulator::block_barrier(where);
  any = 0;
  cuda_emulator::block_barrier(where);
  return result;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, cuda_emulator::Where where = cuda_emulator::Where::current()) {
  cuda_emulator::warp_barrier(mask, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_emulator::Where where = cuda_emulator::Where::current()) {
  const int group = cuda_emulator::lane() / width * width;
  return cuda_emulator::shuffle(mask, value, group + (source & (width - 1)), where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  cuda_emulator::Where where = cuda_emulator::Where::current()) {
  const int mine = cuda_emulator::lane(), source = mine ^ bits;
  return cuda_emulator::shuffle(mask, value, source / width == mine / width ? source : mine, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_emulator::Where where = cuda_emulator::Where::current()) {
  const int mine = cuda_emulator::lane(), source = mine + static_cast<int>(delta);
  return cuda_emulator::shuffle(mask, value, source / width == mine / width ? source : mine, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_emulator::Where where = cuda_emulator::Where::current()) {
  const int mine = cuda_emulator::lane(), source = mine - static_cast<int>(delta);
  return cuda_emulator::shuffle(mask, value, source >= mine / width * width ? source : mine, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_emulator::Where where = cuda_emulator::Where::current()) {
  const unsigned mine = predicate ? 1u << cuda_emulator::lane() : 0u;
  return cuda_emulator::fold(mask, mine, where, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate, cuda_emulator::Where where = cuda_emulator::Where::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cuda_emulator::Where where = cuda_emulator::Where::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

// --- memory and arithmetic

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, static_cast<T>(*address + value));
}
template <class T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, std::min(*address, value));
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, std::max(*address, value));
}
template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return std::exchange(*address, *address == expected ? value : *address);
}
template <class T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return std::exchange(*address, value);
}

template <class To, class From>
To cuda_emulator_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}
inline unsigned __float_as_uint(float value) {
  return cuda_emulator_bits<unsigned>(value);
}
inline int __float_as_int(float value) {
  return cuda_emulator_bits<int>(value);
}
inline float __uint_as_float(unsigned value) {
  return cuda_emulator_bits<float>(value);
}
inline float __int_as_float(int value) {
  return cuda_emulator_bits<float>(value);
}
inline long long __double_as_longlong(double value) {
  return cuda_emulator_bits<long long>(value);
}
inline double __longlong_as_double(long long value) {
  return cuda_emulator_bits<double>(value);
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}
inline int __clz(int value) {
  return value ? __builtin_clz(static_cast<unsigned>(value)) : 32;
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}
inline double rsqrt(double value) {
  return 1.0 / std::sqrt(value);
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}

// --- the runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMemoryPoolsSupported = 115,
};
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrUsedMemCurrent = 7,
};

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaMallocHost(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();

namespace cuda_emulator {

/// What a device would refuse at once.
cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config);
/// Runs call(arguments) in every thread of every block.
cudaError_t launch(const cudaLaunchConfig_t& config, void (*call)(void*), void* arguments);
cudaError_t allow_shared_bytes(const void* kernel, int bytes);

/// Does `work`, or notes it where the stream is being captured.
cudaError_t do_on(cudaStream_t stream, std::function<cudaError_t()> work);

/// Device memory may be touched while one of these lives: in launches, copies and library calls.
class DeviceWork {
 public:
  DeviceWork();
  ~DeviceWork();
  DeviceWork(const DeviceWork&) = delete;
  DeviceWork& operator=(const DeviceWork&) = delete;
};

}  // namespace cuda_emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> parameters;
  } call{kernel, {std::forward<Arguments>(arguments)...}};
  const auto run = [](void* state) {
    const auto& [function, parameters] = *static_cast<Call*>(state);
    std::apply(function, parameters);
  };
  const cudaError_t status = cuda_emulator::check_launch(reinterpret_cast<const void*>(kernel), *config);
  if (status != cudaSuccess) return status;
  return cuda_emulator::do_on(config->stream,
                              [call, run, own = *config]() mutable { return cuda_emulator::launch(own, run, &call); });
}

template <class Function>
cudaError_t cudaFuncSetAttribute(Function* kernel, cudaFuncAttribute, int value) {
  return cuda_emulator::allow_shared_bytes(reinterpret_cast<const void*>(kernel), value);
}

#include "tensor_core.h"
#include "warpgroup.h"
