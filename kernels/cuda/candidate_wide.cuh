// Steps wider than a warp's registers hold (d > 256), on tensor cores all the same: the screen's products are
// cuBLASLt's of operands in bfloat16 with sums in float, and what lies between them passes through memory, for a group
// of vectors at a time that the L2 cache has room for. z is z_table + r + y, and y, the sum of the down products, is
// all that is kept of it in float. What the screen leaves open is computed again in float (candidate_decide.cuh), a
// block for 8 pairs, with weights that lie in the order in which its threads take them.
//
// Floor, a (vector, candidate), in bytes of L2: 8 D + 4 H + (L - 1) (16 D + 4 H); for d = 768, h = 256, L = 2 that is
// 20 KiB, 3.7 ns at 5.5 TB/s, for 1.2 MFLOP, which take 2 ns at 600 TFLOP/s. Rescoring: 2.3 MiB of weights, once for 8
// pairs.
#pragma once

#include "kernels/cuda/candidate_decide.cuh"
#include "kernels/cuda/library.h"

namespace qinco::kernels::cuda {

// Some vectors of a chunk, and what passes between the products: rows [n K].
struct WideScreen {
  int n, K, D, H;
  const float *z_table, *a_table;      // [Kp,D], [Kp,H]
  const float *row, *target, *up_row;  // [n,D], [n,D], [n,H]
  float* y;                            // [n K,D]
  uint16_t *z, *hidden;                // [n K,D], [n K,H] in bfloat16
  float* distances;                    // [n,K]
};

// Columns 4 j to 4 j + 3 of a row.
__device__ inline float4 columns_of(const float* from, int64_t row, int columns, int j) {
  return load_four<true>(from + row * columns + 4 * j, 4);
}

__device__ inline float4 sum_of(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// hidden = relu(a_table + u) of the first block. A warp takes a row, here and below.
__global__ void __launch_bounds__(kBlock) wide_begin_kernel(WideScreen s) {
  for (int64_t e = grid_warp(); e < int64_t{s.n} * s.K; e += grid_warps()) {
    const Place at = place(e, s.K);
    for (int j = lane(); j < s.H / 4; j += kWarp) {
      const float4 sum = sum_of(columns_of(s.a_table, at.col, s.H, j), columns_of(s.up_row, at.row, s.H, j));
      reinterpret_cast<uint2*>(s.hidden + e * s.H)[j] = {pack_relu_bf16(sum.x, sum.y), pack_relu_bf16(sum.z, sum.w)};
    }
  }
}

__device__ inline float4 wide_z(const WideScreen& s, int64_t e, const Place& at, int j) {
  const float4 begin = sum_of(columns_of(s.z_table, at.col, s.D, j), columns_of(s.row, at.row, s.D, j));
  return sum_of(begin, reinterpret_cast<const float4*>(s.y + e * s.D)[j]);
}

// z in bfloat16, for the next block.
__global__ void __launch_bounds__(kBlock) wide_round_kernel(WideScreen s) {
  for (int64_t e = grid_warp(); e < int64_t{s.n} * s.K; e += grid_warps()) {
    const Place at = place(e, s.K);
    for (int j = lane(); j < s.D / 4; j += kWarp) {
      const float4 z = wide_z(s, e, at, j);
      reinterpret_cast<uint2*>(s.z + e * s.D)[j] = {pack_bf16(z.x, z.y), pack_bf16(z.z, z.w)};
    }
  }
}

__global__ void __launch_bounds__(kBlock) wide_distance_kernel(WideScreen s) {
  for (int64_t e = grid_warp(); e < int64_t{s.n} * s.K; e += grid_warps()) {
    const Place at = place(e, s.K);
    float sum = 0;
    for (int j = lane(); j < s.D / 4; j += kWarp) {
      const float4 z = wide_z(s, e, at, j), target = columns_of(s.target, at.row, s.D, j);
      const float x = target.x - z.x, y = target.y - z.y, u = target.z - z.z, v = target.w - z.w;
      sum += (x * x + y * y) + (u * u + v * v);
    }
    sum = warp_sum(sum);
    if (lane() == 0) s.distances[e] = sum;
  }
}

// out [kWidePairs][outer] = relu(W a), or out += W a, for rows a [kWidePairs][inner]; w is W's transpose [inner,outer].
template <bool relu>
__device__ void wide_multiply(const float* w, const float* a, int inner, float* out, int outer) {
  for (int c = threadIdx.x; c < outer; c += kBlock) {
    float sums[kWidePairs] = {};
#pragma unroll 2
    for (int k = 0; k < inner; k += 4) {
      const float* const from = w + int64_t{k} * outer + c;
      const float w0 = __ldg(from), w1 = __ldg(from + outer), w2 = __ldg(from + 2 * outer),
                  w3 = __ldg(from + 3 * outer);
#pragma unroll
      for (int p = 0; p < kWidePairs; ++p) {
        const float4 x = *reinterpret_cast<const float4*>(a + p * inner + k);
        sums[p] += x.x * w0;
        sums[p] += x.y * w1;
        sums[p] += x.z * w2;
        sums[p] += x.w * w3;
      }
    }
#pragma unroll
    for (int p = 0; p < kWidePairs; ++p) out[p * outer + c] = relu ? relu_float(sums[p]) : out[p * outer + c] + sums[p];
  }
}

// The distances of 8 pairs at a time, or their outputs: a warp looks after one of them where they begin and end.
__global__ void __launch_bounds__(kBlock) wide_rescore_kernel(Rescore s) {
  static_assert(kWidePairs == kWarps);
  float* const z = dynamic_shared<float>();    // [kWidePairs][D]
  float* const hidden = z + kWidePairs * s.D;  // [kWidePairs][H]
  const int count = *s.count, warp = static_cast<int>(threadIdx.x / kWarp);
  const int step = static_cast<int>(gridDim.x * kWidePairs);
  for (int first = static_cast<int>(blockIdx.x * kWidePairs); first < count; first += step) {
    const bool there = first + warp < count;  // the last pair once more where there is none
    const uint32_t pair = s.pairs[there ? first + warp : count - 1];
    const int vector = static_cast<int>(pair / static_cast<uint32_t>(s.K));
    const int candidate = static_cast<int>(pair % static_cast<uint32_t>(s.K));
    float* const own = z + warp * s.D;
    for (int j = lane(); j < s.D; j += kWarp)
      own[j] = __ldg(s.z_table + int64_t{candidate} * s.D + j) + __ldg(s.row + int64_t{vector} * s.D + j);
    for (int j = lane(); j < s.H; j += kWarp)
      hidden[warp * s.H + j] =
          relu_float(__ldg(s.a_table + int64_t{candidate} * s.H + j) + __ldg(s.up_row + int64_t{vector} * s.H + j));
    __syncthreads();
    const float* w = reinterpret_cast<const float*>(s.weights);
    for (int l = 0; l < s.L; ++l) {
      if (l > 0) {
        wide_multiply<true>(w, z, s.D, hidden, s.H);
        w += s.matrix;
        __syncthreads();
      }
      wide_multiply<false>(w, hidden, s.H, z, s.D);
      w += s.matrix;
      __syncthreads();
    }
    float distance = 0;
    for (int j = lane(); j < s.D; j += kWarp) {
      if (s.z) {
        if (there) s.z[int64_t{vector} * s.D + j] = own[j];
      } else {
        const float difference = s.target[int64_t{vector} * s.D + j] - own[j];
        distance += difference * difference;
      }
    }
    distance = warp_sum(distance);
    if (!s.z && there && lane() == 0) enter_distance(s, vector, candidate, distance);
  }
}

// --- launching

// Takes `n` vectors through the step.
inline void screen_wide_group(const Context& context, const CandidateLayout& p, const uint16_t* weights,
                              const WideScreen& s) {
  const int64_t rows = int64_t{s.n} * s.K, matrix = p.H() * p.D();
  const unsigned blocks = blocks_for(rows, kWarps);
  launch(context, wide_begin_kernel, blocks, kBlock, 0, s);
  for (int64_t l = 0; l < p.L; ++l) {
    if (l > 0) {
      launch(context, wide_round_kernel, blocks, kBlock, 0, s);
      rounded_product(context, rows, s.H, s.D, s.z, weights, s.hidden);
      weights += matrix;
    }
    rounded_product(context, rows, s.D, s.H, s.hidden, weights, l > 0, s.y);
    weights += matrix;
  }
  launch(context, wide_distance_kernel, blocks, kBlock, 0, s);
}

inline void run_wide_screen(const Context& context, const CandidateLayout& p, const float* packed,
                            const CandidateChunk& c) {
  const int64_t room = wide_screen_bytes / (p.K * (6 * p.D() + 2 * p.H()));
  const int64_t most = room < 1 ? 1 : room, group = c.n < most ? c.n : most;
  ScratchFrame frame(context);
  WideScreen s{};
  s.K = c.K, s.D = c.D, s.H = c.H;
  s.z_table = packed + p.z_table(), s.a_table = packed + p.a_table();
  s.y = frame.get<float>(group * p.K * p.D());
  s.z = frame.get<uint16_t>(group * p.K * p.D());
  s.hidden = frame.get<uint16_t>(group * p.K * p.H());
  for (int64_t first = 0; first < c.n; first += group) {
    s.n = static_cast<int>(c.n - first < group ? c.n - first : group);
    s.row = c.row + first * p.D(), s.target = c.target + first * p.D(), s.up_row = c.up_row + first * p.H();
    s.distances = c.distances + first * p.K;
    screen_wide_group(context, p, reinterpret_cast<const uint16_t*>(packed + p.slabs()), s);
  }
}

// Of at most `most` pairs.
inline void run_wide_rescore(const Context& context, const CandidateLayout& p, int64_t most, const Rescore& s) {
  const int64_t tiles = (most + kWidePairs - 1) / kWidePairs, blocks = 4 * processors(context);
  launch(context, wide_rescore_kernel, static_cast<unsigned>(tiles < blocks ? tiles : blocks), kBlock,
         static_cast<size_t>(p.wide_bytes()), s);
}

}  // namespace qinco::kernels::cuda
