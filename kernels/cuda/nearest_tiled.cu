// Nearest codeword in float: the tile of a matrix product, which instead of being stored goes into a running minimum of
// ||c||^2 - 2 <x,c>. Never n x K values in memory.
//
// A block takes 128 rows of x against 128 codewords at a time, 8 x 8 of them per thread: for 64 multiply-adds a thread
// loads 16 floats from shared memory, by 4 loads of 16 bytes. That is 8 clocks of shared memory for 16 of multiply-adds
// on an SM, so these are the limit (2 n K d FLOP). The distance that is reported is computed afterwards from the
// differences, without the cancellation of the expanded form.
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/keys.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int kTile = 128, kStep = 8, kStride = kTile + 4;
constexpr int kPerThread = kTile * kStep / kBlock;

// The columns [begin, begin + 8) of 128 rows of a matrix, on their way from global to shared memory.
struct Piece {
  float values[kPerThread];

  // from: the first of the 128 rows, of which `rows` exist
  __device__ void fetch(const float* from, int rows, int d, int begin) {
    const int column = begin + static_cast<int>(threadIdx.x) % kStep, row = static_cast<int>(threadIdx.x) / kStep;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int r = row + i * (kBlock / kStep);
      values[i] = r < rows && column < d ? __ldg(from + (r * d + column)) : 0.0f;
    }
  }
  __device__ void put(float* to) const {  // [kStep][kStride]
#pragma unroll
    for (int i = 0; i < kPerThread; ++i)
      to[threadIdx.x % kStep * kStride + threadIdx.x / kStep + i * (kBlock / kStep)] = values[i];
  }
};

// Four and four rows (or columns) of a thread: 4 at, 4 at + 64.
__device__ inline void load_eight(const float* from, int at, float (&out)[8]) {
  const float4 low = *reinterpret_cast<const float4*>(from + 4 * at);
  const float4 high = *reinterpret_cast<const float4*>(from + 64 + 4 * at);
  out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
  out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

__device__ inline int place(int at, int i) {
  return i / 4 * 64 + 4 * at + i % 4;
}

// sum += the product of one piece of each matrix.
__device__ inline void multiply(const float* x, const float* c, int tx, int ty, float (&sum)[8][8]) {
#pragma unroll
  for (int k = 0; k < kStep; ++k) {
    float a[8], b[8];
    load_eight(x + k * kStride, ty, a);
    load_eight(c + k * kStride, tx, b);
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[i][j] += a[i] * b[j];
  }
}

// norms [K rounded up to tiles]: infinity beyond K.
__global__ void __launch_bounds__(kBlock) norms_kernel(int64_t K, int64_t d, const float* c, float* norms) {
  for (int64_t k = grid_warp(); k < round_up(K, kTile); k += grid_warps()) {
    float squares = k < K ? 0 : INFINITY;
    for (int64_t j = lane(); k < K && j < d; j += kWarp) squares += c[k * d + j] * c[k * d + j];
    squares = warp_sum(squares);
    if (lane() == 0) norms[k] = squares;
  }
}

// keys[i] = the least (||c||^2 - 2 <x,c>, k) among finite values. blockIdx.x: 128 rows; blockIdx.y: a share of the
// codewords.
__global__ void __launch_bounds__(kBlock, 2)
    nearest_kernel(int64_t n, int d, int K, const float* x, const float* c, const float* norms, Key* keys) {
  __align__(16) __shared__ float xs[2][kStep * kStride];
  __align__(16) __shared__ float cs[2][kStep * kStride];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int64_t row = int64_t{blockIdx.x} * kTile;
  const int tiles = (K + kTile - 1) / kTile;
  const int first = static_cast<int>(int64_t{tiles} * blockIdx.y / gridDim.y);
  const int last = static_cast<int>(int64_t{tiles} * (blockIdx.y + 1) / gridDim.y);
  const float* const my_x = x + row * d;
  const int rows = n - row < kTile ? static_cast<int>(n - row) : kTile;
  float best[8];
  int best_k[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) best[i] = INFINITY, best_k[i] = 0;

  Piece next_x, next_c;
  next_x.fetch(my_x, rows, d, 0);
  next_c.fetch(c + int64_t{first} * kTile * d, K - first * kTile, d, 0);
  int side = 0;
  for (int tile = first; tile < last; ++tile) {
    float sum[8][8] = {};
    for (int begin = 0; begin < d; begin += kStep, side = 1 - side) {
      next_x.put(xs[side]);
      next_c.put(cs[side]);
      __syncthreads();  // and the step before the last has been read, on this side
      const bool same_tile = begin + kStep < d;
      const int next_begin = same_tile ? begin + kStep : 0, next_tile = same_tile ? tile : tile + 1;
      next_x.fetch(my_x, rows, d, next_begin);
      next_c.fetch(c + int64_t{next_tile} * kTile * d, K - next_tile * kTile, d, next_begin);
      multiply(xs[side], cs[side], tx, ty, sum);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {  // ascending codewords: the lowest of equals stays
      const int k = tile * kTile + place(tx, j);
      const float norm = __ldg(norms + k);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float score = norm - 2 * sum[i][j];
        if (score < best[i] && score > -INFINITY) best[i] = score, best_k[i] = k;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    Key key = best[i] < INFINITY ? make_key(best[i], static_cast<uint32_t>(best_k[i])) : kNoKey;
    for (int bits = 8; bits > 0; bits /= 2) key = Minimum{}(key, __shfl_xor_sync(kFullMask, key, bits));
    const int64_t r = row + place(ty, i);
    if (tx == 0 && r < n) atomicMin(keys + r, key);
  }
}

__global__ void __launch_bounds__(kBlock) clear_kernel(int64_t n, Key* keys) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) keys[i] = kNoKey;
}

__global__ void __launch_bounds__(kBlock) finish_kernel(int64_t n, int64_t d, const float* x, const float* c,
                                                        const Key* keys, int32_t* ids, float* distances) {
  for (int64_t i = grid_warp(); i < n; i += grid_warps()) {
    const bool found = keys[i] != kNoKey;
    const int64_t k = found ? index_of(keys[i]) : 0;
    float sum = 0;
    if (distances) {
      for (int64_t j = lane(); j < d; j += kWarp) {
        const float difference = x[i * d + j] - c[k * d + j];
        sum += difference * difference;
      }
      sum = warp_sum(sum);
    }
    if (lane() > 0) continue;
    ids[i] = static_cast<int32_t>(k);
    if (distances) distances[i] = found ? sum : INFINITY;
  }
}

}  // namespace

void tiled_nearest(const Context& context, int64_t n, int64_t d, int64_t K, const float* x, const float* c,
                   int32_t* ids, float* distances) {
  if (n <= 0) return;
  ScratchFrame frame(context);
  float* const norms = frame.get<float>(round_up(K, kTile));
  Key* const keys = frame.get<Key>(n);
  const int64_t row_blocks = (n + kTile - 1) / kTile, tiles = (K + kTile - 1) / kTile;
  // Where there are fewer rows than fill the device twice, codewords are shared out as well.
  const int64_t wanted = (4 * processors(context) + row_blocks - 1) / row_blocks;
  const int64_t shares = wanted < tiles ? wanted : tiles;
  launch(context, norms_kernel, blocks_for(round_up(K, kTile), kWarps), kBlock, 0, K, d, c, norms);
  launch(context, clear_kernel, blocks_for(n), kBlock, 0, n, keys);
  launch(context, nearest_kernel, dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(shares)), kBlock, 0, n,
         static_cast<int>(d), static_cast<int>(K), x, c, norms, keys);
  launch(context, finish_kernel, blocks_for(n, kWarps), kBlock, 0, n, d, x, c, keys, ids, distances);
}

}  // namespace qinco::kernels::cuda
