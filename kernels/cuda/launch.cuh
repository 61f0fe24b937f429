// Launching kernels, and what most of them share: the thread's place in the grid, sums over a warp and a block, dynamic
// shared memory.
#pragma once

#include <cstdint>
#include <cuda_runtime.h>

#include "kernels/context.h"
#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

/// The multiprocessors of the context's device.
inline int64_t processors(const Context& context) {
  int count = 0;
  check_status(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, context.device.index), "multiprocessors");
  return count;
}

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;
inline constexpr int kBlock = 256;             // threads of a block, unless a kernel has its reasons
inline constexpr int kWarps = kBlock / kWarp;  // warps of such a block
inline constexpr int64_t kMaxBlocks = 8192;    // of kernels that loop over the grid: several waves on every GPU

/// Blocks for n units of which a block does `per_block` at a time: the kernel loops over what is left.
inline unsigned blocks_for(int64_t n, int64_t per_block = kBlock) {
  const int64_t blocks = (n + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

/// Queues kernel<<<grid, block, shared_bytes>>>(arguments...) on the context's stream; nothing if the grid is empty.
/// Throws Error if the launch is refused.
template <class... Parameters, class... Arguments>
void launch(const Context& context, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Arguments&... arguments) {
  constexpr size_t kSharedWithoutAsking = size_t{40} << 10;  // 48 KiB, less what a kernel has of its own

  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  use_device(context.device.index);
  if (shared_bytes > kSharedWithoutAsking)
    allow_shared_memory(reinterpret_cast<const void*>(kernel), context.device.index, shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream_of(context);
  check_call(context.device.index, "launch of a kernel",
             [&] { return cudaLaunchKernelEx(&config, kernel, arguments...); });
}

/// This thread's number in the grid, and the number of threads there: for loops over one-dimensional grids.
__device__ inline int64_t grid_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t grid_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

/// The same for warps, with kBlock threads per block.
__device__ inline int64_t grid_warp() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
}
__device__ inline int64_t grid_warps() {
  return static_cast<int64_t>(gridDim.x) * kWarps;
}
__device__ inline int lane() {
  return static_cast<int>(threadIdx.x % kWarp);
}

/// Row and column of element number e in a matrix of `cols` columns. A division of 64 bits costs several times one of
/// 32, and few matrices need it.
struct Place {
  int64_t row, col;
};
__device__ inline Place place(int64_t e, int64_t cols) {
  if (((e | cols) >> 32) == 0) {
    const auto small = static_cast<uint32_t>(e), divisor = static_cast<uint32_t>(cols);
    return {small / divisor, small % divisor};
  }
  return {e / cols, e % cols};
}

/// Four elements of a row, of which `left` exist, zeros for the others. aligned: they lie at a multiple of 16 bytes,
/// and all exist or none.
template <bool aligned>
__device__ inline float4 load_four(const float* from, int left) {
  if constexpr (aligned) {
    if (left > 0) return __ldg(reinterpret_cast<const float4*>(from));
    return make_float4(0, 0, 0, 0);
  }
  const auto at = [&](int i) { return i < left ? __ldg(from + i) : 0.0f; };
  return make_float4(at(0), at(1), at(2), at(3));
}

/// The dynamic shared memory, aligned to 128 bytes.
template <class T>
__device__ inline T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char qinco_dynamic_shared[];
  return reinterpret_cast<T*>(qinco_dynamic_shared);
#else
  return static_cast<T*>(cuda_emulator::dynamic_shared());
#endif
}

/// The fold of all lanes' values, in every lane, in a fixed order.
template <class T, class Combine>
__device__ inline T warp_fold(T value, Combine combine) {
  for (int bits = kWarp / 2; bits > 0; bits /= 2) value = combine(value, __shfl_xor_sync(kFullMask, value, bits));
  return value;
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Minimum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Maximum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

template <class T>
__device__ inline T warp_sum(T value) {
  return warp_fold(value, Plus{});
}

/// The sum of the values of the lanes before this one.
template <class T>
__device__ inline T sum_of_lanes_before(T value) {
  T sum = value;
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kFullMask, sum, step);
    if (lane() >= step) sum += other;
  }
  return sum - value;
}

/// The sum over a block of kBlock threads, in a fixed order, valid in thread 0. All threads of the block call it.
template <class T>
__device__ inline T block_sum(T value) {
  __shared__ T partial[kWarps];
  value = warp_sum(value);
  __syncthreads();  // the last call's readers are done
  if (lane() == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  T total = 0;
  if (threadIdx.x == 0)
    for (int w = 0; w < kWarps; ++w) total += partial[w];
  return total;
}

/// Counts `shares` of a work of `all` as done by this block: true in the block with the last ones, which then sees what
/// all of them have written. A barrier.
__device__ inline bool arrive(uint32_t* arrivals, int shares, int all) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // behind the barrier: what all threads have written comes before the arrival
    last = atomicAdd(arrivals, static_cast<uint32_t>(shares)) + static_cast<uint32_t>(shares) ==
           static_cast<uint32_t>(all);
    __threadfence();
  }
  __syncthreads();
  return last;
}

}  // namespace qinco::kernels::cuda
