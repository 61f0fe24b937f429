// The distances of single (vector, candidate) pairs in float arithmetic, for what the screen leaves open: few of many.
//
// A block takes 32 pairs through the step: z [32,D] in registers (of 16 columns and 2 rows for each thread), beside it
// the z that a block of the step began with, in shared memory, and 64 hidden units at a time. Weights pass through
// shared memory, k-major (CandidateLayout: floats), 4 slabs for each product of 64 hidden units.
//
// Floor: 2 d h (2L - 1) FLOP a pair, 197 kFLOP for d = 128, h = 256, L = 2. Per 4 clocks of multiply-adds (16 of each
// of 8 warps) an SM's shared memory is busy for 5 clocks: at most 80% of the float peak.
#pragma once

#include "kernels/candidate_margin.h"
#include "kernels/cuda/candidate_layout.h"
#include "kernels/cuda/keys.cuh"
#include "kernels/cuda/slab_stream.cuh"

namespace qinco::kernels::cuda {

constexpr int kPairs = 32;       // of a tile
constexpr int kPairStride = 34;  // from one column to the next in shared memory: even, and off the 32 banks

// A vector's best so far (keys.cuh) where no candidate is nearer than infinity: candidate 0, at infinity.
constexpr Key kNoBest = Key{0xff800000u} << 32;

// relu that keeps NaN.
__device__ inline float relu_float(float x) {
  return x < 0 ? 0.0f : x;
}

// Where element (candidate, column) of a table in fragments C of `columns` padded columns is.
__device__ inline int64_t fragment_index(int64_t candidate, int column, int columns) {
  const int row = static_cast<int>(candidate % 16), lane = row % 8 * 4 + column % 8 / 2;
  return candidate / 16 * 16 * columns + (column / 8 * kWarp + lane) * 4 + row / 8 * 2 + column % 2;
}

struct Rescore {
  int K, d, H, L;
  int hidden_chunks;                   // H64/64
  const float* bound;                  // [1]
  const float* candidate_norms;        // [Kp]
  const float *z_table, *a_table;      // CandidateLayout
  const uint4* slabs;                  // the weights in float
  const float *row, *target, *up_row;  // [n,D], [n,D], [n,H]
  const float* vector_norms;           // [n]
  const float* distances;              // [n,K], the screen's
  const uint32_t* pairs;               // vector * K + candidate
  const int* count;                    // of the pairs
  Key* best;                           // [n] lowered to the pairs' keys
  int* doubted;                        // [n] set where the screen is further off than is likely, or null
  float* z;                            // [n,D] if not null, takes the pairs' outputs and nothing else is written
};

template <int kTiles>
using RescoreStream = SlabStream<kBlock, kTiles * 64, 1, 3>;

template <int kTiles>
constexpr int rescore_shared_bytes() {
  return RescoreStream<kTiles>::kBytes + (16 * kTiles + 64) * kPairStride * 4 + kPairs * 8;
}

// hidden [64][pairs] = relu(W_up z) for the thread's 2 pairs and 4 hidden units.
template <int kTiles>
__device__ void rescore_up(RescoreStream<kTiles>& weights, const float* z, float* hidden) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sum[2][4] = {};
  for (int part = 0; part < 4; ++part) {
    const float4* const slab = reinterpret_cast<const float4*>(weights.take());  // [D/4][64]
#pragma unroll 4
    for (int k = 0; k < 4 * kTiles; ++k) {
      const float2 x = *reinterpret_cast<const float2*>(z + (part * 4 * kTiles + k) * kPairStride + 2 * ty);
      const float4 w = slab[k * 16 + tx];
      sum[0][0] += x.x * w.x, sum[0][1] += x.x * w.y, sum[0][2] += x.x * w.z, sum[0][3] += x.x * w.w;
      sum[1][0] += x.y * w.x, sum[1][1] += x.y * w.y, sum[1][2] += x.y * w.z, sum[1][3] += x.y * w.w;
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    *reinterpret_cast<float2*>(hidden + (4 * tx + j) * kPairStride + 2 * ty) =
        make_float2(relu_float(sum[0][j]), relu_float(sum[1][j]));
}

// out += W_down hidden for the thread's 2 pairs and columns 2 tx + 32 j + {0, 1}.
template <int kTiles>
__device__ void rescore_down(RescoreStream<kTiles>& weights, const float* hidden, float (&out)[2][kTiles]) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int part = 0; part < 4; ++part) {
    const float2* const slab = reinterpret_cast<const float2*>(weights.take());  // [16][D]
#pragma unroll 4
    for (int k = 0; k < 16; ++k) {
      const float2 x = *reinterpret_cast<const float2*>(hidden + (part * 16 + k) * kPairStride + 2 * ty);
#pragma unroll
      for (int j = 0; j < kTiles / 2; ++j) {
        const float2 w = slab[k * 8 * kTiles + 16 * j + tx];
        out[0][2 * j] += x.x * w.x, out[0][2 * j + 1] += x.x * w.y;
        out[1][2 * j] += x.y * w.x, out[1][2 * j + 1] += x.y * w.y;
      }
    }
  }
}

// Enters the distance of one pair.
__device__ inline void enter_distance(const Rescore& s, int64_t vector, int candidate, float distance) {
  if (distance < INFINITY) atomicMin(s.best + vector, make_key(distance, candidate));
  if (!s.doubted) return;
  const float root = sqrtf(s.distances[vector * s.K + candidate]);
  const float likely = margin::shown(s.d) * *s.bound * (s.candidate_norms[candidate] + s.vector_norms[vector]);
  if (!(fabsf(root - sqrtf(distance)) <= likely + margin::kSumError * root)) s.doubted[vector] = 1;
}

// The pairs of a tile in shared memory.
template <int kTiles>
struct RescoreTile {
  static constexpr int D = 16 * kTiles;
  float* z;                   // [D][kPairStride]
  float* hidden;              // [64][kPairStride]
  int *vectors, *candidates;  // [kPairs]

  __device__ explicit RescoreTile(void* shared)
      : z(static_cast<float*>(shared)),
        hidden(z + D * kPairStride),
        vectors(reinterpret_cast<int*>(hidden + 64 * kPairStride)),
        candidates(vectors + kPairs) {}

  // Pairs number first, first + 1, ..; the last one again where there are fewer than kPairs.
  __device__ void begin(const Rescore& s, int first, int count) {
    __syncthreads();  // nobody reads the last tile's any more
    if (threadIdx.x < kPairs) {
      const int at = first + static_cast<int>(threadIdx.x);
      const uint32_t pair = s.pairs[at < count ? at : count - 1];
      vectors[threadIdx.x] = static_cast<int>(pair / static_cast<uint32_t>(s.K));
      candidates[threadIdx.x] = static_cast<int>(pair % static_cast<uint32_t>(s.K));
    }
    __syncthreads();
    for (int p = threadIdx.x / kWarp; p < kPairs; p += kWarps)
      for (int c = lane(); c < D; c += kWarp)
        z[c * kPairStride + p] = s.z_table[fragment_index(candidates[p], c, D)] + s.row[int64_t{vectors[p]} * D + c];
    __syncthreads();
  }

  // hidden = relu(a_table + u), for 64 hidden units of the first block.
  __device__ void begin_hidden(const Rescore& s, int chunk) {
    __syncthreads();  // the last chunk's hidden units have been read
    for (int p = threadIdx.x / kWarp; p < kPairs; p += kWarps)
      for (int j = lane(); j < 64; j += kWarp) {
        const int unit = chunk * 64 + j;
        hidden[j * kPairStride + p] = unit < s.H ? relu_float(s.a_table[fragment_index(candidates[p], unit, s.H)] +
                                                              s.up_row[int64_t{vectors[p]} * s.H + unit])
                                                 : 0.0f;
      }
  }
};

// Column number j of a thread.
__device__ inline int rescore_column(int j) {
  return 2 * static_cast<int>(threadIdx.x % 16) + j / 2 * 32 + j % 2;
}

// Enters the distances of a tile whose first `there` pairs are to be entered, or writes their outputs.
template <int kTiles>
__device__ void rescore_end(const Rescore& s, const RescoreTile<kTiles>& tile, int there,
                            const float (&out)[2][kTiles]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int p = 2 * static_cast<int>(threadIdx.x / 16) + r;
    const int64_t first = int64_t{tile.vectors[p]} * tile.D;
    float distance = 0;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (s.z) {
        if (p < there) s.z[first + rescore_column(j)] = out[r][j];
      } else {
        const float difference = s.target[first + rescore_column(j)] - out[r][j];
        distance += difference * difference;
      }
    }
    if (s.z) continue;
    for (int bits = 8; bits > 0; bits /= 2) distance += __shfl_xor_sync(kFullMask, distance, bits);
    if (threadIdx.x % 16 == 0 && p < there) enter_distance(s, tile.vectors[p], tile.candidates[p], distance);
  }
}

template <int kTiles>
__global__ void __launch_bounds__(kBlock) rescore_kernel(Rescore s) {
  uint4* const ring = dynamic_shared<uint4>();
  RescoreTile<kTiles> tile(ring + RescoreStream<kTiles>::kBytes / 16);
  const int count = *s.count, grid = static_cast<int>(gridDim.x), mine = static_cast<int>(blockIdx.x);
  const int tiles = (count + kPairs - 1) / kPairs, my_tiles = mine < tiles ? (tiles - mine + grid - 1) / grid : 0;
  const int period = (2 * s.L - 1) * s.hidden_chunks * 4, ty = threadIdx.x / 16;
  RescoreStream<kTiles> weights(ring, s.slabs, period, my_tiles * period);

  for (int first = mine * kPairs; first < count; first += grid * kPairs) {
    tile.begin(s, first, count);
    float out[2][kTiles];
#pragma unroll
    for (int j = 0; j < kTiles; ++j)
#pragma unroll
      for (int r = 0; r < 2; ++r) out[r][j] = tile.z[rescore_column(j) * kPairStride + 2 * ty + r];
    for (int l = 0; l < s.L; ++l) {
      if (l > 0) {
#pragma unroll
        for (int j = 0; j < kTiles; ++j)  // nobody reads z since the last up product; a slab's barrier follows
          *reinterpret_cast<float2*>(tile.z + rescore_column(j) * kPairStride + 2 * ty) =
              make_float2(out[0][j], out[1][j]);
      }
      for (int chunk = 0; chunk < s.hidden_chunks; ++chunk) {
        if (l == 0)
          tile.begin_hidden(s, chunk);
        else
          rescore_up<kTiles>(weights, tile.z, tile.hidden);
        rescore_down<kTiles>(weights, tile.hidden, out);
      }
    }
    rescore_end(s, tile, count - first, out);
  }
}

}  // namespace qinco::kernels::cuda
