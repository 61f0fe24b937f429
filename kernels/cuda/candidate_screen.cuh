// The bulk of the candidate search: the distances of all candidates, with products in bfloat16 on the tensor cores.
//
// A warp takes 16 candidates of one or two vectors through the whole step in its registers: z in float as fragments C,
// which are the accumulators of the down products; and hidden units 16 at a time, whose sums become, rounded, the
// operand A of the down product (mma.cuh). So an activation is never written anywhere, and shared memory holds nothing
// but weights, packed in the order in which lanes take them: a load of 16 bytes per lane feeds 2 products per vector.
//
// Floor, d = 128, h = 256, L = 2, K = 256, per vector: 50.3 MFLOP, at bfloat16 dense peaks of 312 (A100) and 989
// (H100) TFLOP/s 6.2 and 19.7 million vectors/s. docs/gpu.md has the budget of registers, shared memory and L2. On
// Hopper the most usual steps have a screen of their own (candidate_screen_hopper.cuh).
#pragma once

#include "kernels/cuda/candidate_layout.h"
#include "kernels/cuda/slab_stream.cuh"

namespace qinco::kernels::cuda {

struct Screen {
  int n, K, L;
  int candidate_tiles;                 // ceil(K/16)
  int hidden_tiles;                    // H/16
  const float4* z_table;               // fragments C: [candidate_tiles][D/8][32]
  const float4* a_table;               // [candidate_tiles][H/8][32]
  const uint4* slabs;                  // CandidateLayout; for Hopper's screen the pieces
  const float *row, *target, *up_row;  // [n,D], [n,D], [n,H]; readable up to whole groups
  float* distances;                    // [n,K]
};

template <int kTiles>
using ScreenStream = SlabStream<kBlock, kTiles * kWarp, 4, 3>;

// z += W_down hidden, for 16 hidden units.
template <int kTiles, int kVectors>
__device__ void screen_down(const uint4* slab, int lane, const uint32_t (&hidden)[kVectors][4],
                            float (&z)[kVectors][2 * kTiles][4]) {
#pragma unroll
  for (int p = 0; p < kTiles; ++p) {
    const uint4 b = slab[p * kWarp + lane];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      mma_bf16(z[v][2 * p], hidden[v], b.x, b.y);
      mma_bf16(z[v][2 * p + 1], hidden[v], b.z, b.w);
    }
  }
}

// hidden = relu(W_up y), for 16 hidden units.
template <int kTiles, int kVectors>
__device__ void screen_up(const uint4* slab, int lane, const uint32_t (&y)[kVectors][kTiles][4],
                          uint32_t (&hidden)[kVectors][4]) {
  float sum[kVectors][2][4] = {};
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
    const uint4 b = slab[k * kWarp + lane];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      mma_bf16(sum[v][0], y[v][k], b.x, b.y);
      mma_bf16(sum[v][1], y[v][k], b.z, b.w);
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      hidden[v][2 * half] = pack_relu_bf16(sum[v][half][0], sum[v][half][1]);
      hidden[v][2 * half + 1] = pack_relu_bf16(sum[v][half][2], sum[v][half][3]);
    }
}

// What relu(a_table + u) needs of memory for 16 hidden units: fetched while the 16 before are multiplied.
template <int kVectors>
struct ScreenBegin {
  float4 a[2];
  float2 u[kVectors][2];

  // up_row [kVectors][H]
  __device__ void fetch(const float4* a_table, const float* up_row, int H, int c, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      a[half] = __ldg(a_table + (2 * c + half) * kWarp + lane);
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        u[v][half] = __ldg(reinterpret_cast<const float2*>(up_row + v * H + 16 * c + 8 * half) + lane % 4);
    }
  }
  __device__ void hidden(uint32_t (&out)[kVectors][4]) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        out[v][2 * half] = pack_relu_bf16(a[half].x + u[v][half].x, a[half].y + u[v][half].y);
        out[v][2 * half + 1] = pack_relu_bf16(a[half].z + u[v][half].x, a[half].w + u[v][half].y);
      }
  }
};

// Writes ||target - z||^2 of 16 candidates.
template <int kTiles>
__device__ void screen_distances(const float (&z)[2 * kTiles][4], const float* target, int lane, int candidates,
                                 float* out) {
  float low = 0, high = 0;  // of rows g and g + 8
#pragma unroll
  for (int j = 0; j < 2 * kTiles; ++j) {
    const float2 t = __ldg(reinterpret_cast<const float2*>(target + 8 * j) + lane % 4);
    const float a = t.x - z[j][0], b = t.y - z[j][1], c = t.x - z[j][2], d = t.y - z[j][3];
    low += a * a + b * b;
    high += c * c + d * d;
  }
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    low += __shfl_xor_sync(kFullMask, low, step);
    high += __shfl_xor_sync(kFullMask, high, step);
  }
  const int g = lane / 4;
  if (lane % 4 == 0 && g < candidates) out[g] = low;
  if (lane % 4 == 1 && g + 8 < candidates) out[g + 8] = high;
}

// z = z_table + r; row [kVectors][D].
template <int kTiles, int kVectors>
__device__ void screen_begin(const float4* z_table, const float* row, int lane, float (&z)[kVectors][2 * kTiles][4]) {
#pragma unroll
  for (int j = 0; j < 2 * kTiles; ++j) {
    const float4 entry = __ldg(z_table + j * kWarp + lane);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float2 r = __ldg(reinterpret_cast<const float2*>(row + v * 16 * kTiles + 8 * j) + lane % 4);
      z[v][j][0] = entry.x + r.x, z[v][j][1] = entry.y + r.y;
      z[v][j][2] = entry.z + r.x, z[v][j][3] = entry.w + r.y;
    }
  }
}

// y = z rounded, as operand A.
template <int kTiles, int kVectors>
__device__ void screen_round(const float (&z)[kVectors][2 * kTiles][4], uint32_t (&y)[kVectors][kTiles][4]) {
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
#pragma unroll
    for (int j = 0; j < 2 * kTiles; ++j) {
      y[v][j / 2][j % 2 * 2] = pack_bf16(z[v][j][0], z[v][j][1]);
      y[v][j / 2][j % 2 * 2 + 1] = pack_bf16(z[v][j][2], z[v][j][3]);
    }
}

// A tile: 16 candidates of 8 kVectors vectors. A block takes a range of tiles, candidates inside, so that its vectors
// stay in L1, as do the tables that its warps share.
template <int kTiles, int kVectors>
__global__ void __launch_bounds__(kBlock, kTiles <= 2 ? 2 : 1) screen_kernel(Screen s) {
  constexpr int D = 16 * kTiles, kGroup = group_vectors(D);
  static_assert(kGroup == kWarps * kVectors);
  uint4* const ring = dynamic_shared<uint4>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t tiles = int64_t{(s.n + kGroup - 1) / kGroup} * s.candidate_tiles;
  const int64_t begin = tiles * blockIdx.x / gridDim.x, end = tiles * (blockIdx.x + 1) / gridDim.x;
  const int period = (2 * s.L - 1) * s.hidden_tiles;
  ScreenStream<kTiles> weights(ring, s.slabs, period, static_cast<int>(end - begin) * period);

  for (int64_t tile = begin; tile < end; ++tile) {
    const int candidate = static_cast<int>(tile % s.candidate_tiles);
    const int first = static_cast<int>(tile / s.candidate_tiles) * kGroup + warp * kVectors;
    const bool idle = first >= s.n;  // takes its slabs all the same: that is a barrier
    const int H = 16 * s.hidden_tiles;
    const float* const row = s.row + int64_t{first} * D;
    const float* const up_row = s.up_row + int64_t{first} * H;
    const float4* const a_table = s.a_table + int64_t{candidate} * s.hidden_tiles * 2 * kWarp;
    const float4* const z_table = s.z_table + int64_t{candidate} * 2 * kTiles * kWarp;

    ScreenBegin<kVectors> ahead;
    float z[kVectors][2 * kTiles][4];
    ahead.fetch(a_table, up_row, H, 0, lane);
    screen_begin<kTiles, kVectors>(z_table, row, lane, z);
    uint32_t hidden[kVectors][4];
    for (int c = 0; c < s.hidden_tiles; ++c) {
      ahead.hidden(hidden);
      ahead.fetch(a_table, up_row, H, c + 1 < s.hidden_tiles ? c + 1 : c, lane);
      const uint4* const slab = weights.take();
      if (!idle) screen_down<kTiles, kVectors>(slab, lane, hidden, z);
    }
    for (int l = 1; l < s.L; ++l) {
      uint32_t y[kVectors][kTiles][4];
      screen_round<kTiles, kVectors>(z, y);
      for (int c = 0; c < s.hidden_tiles; ++c) {
        const uint4* slab = weights.take();
        if (!idle) screen_up<kTiles, kVectors>(slab, lane, y, hidden);
        slab = weights.take();
        if (!idle) screen_down<kTiles, kVectors>(slab, lane, hidden, z);
      }
    }
    if (idle) continue;
    const int candidates = s.K - candidate * 16;
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (first + v < s.n)
        screen_distances<kTiles>(z[v], s.target + int64_t{first + v} * D, lane, candidates,
                                 s.distances + int64_t{first + v} * s.K + candidate * 16);
  }
}

}  // namespace qinco::kernels::cuda
