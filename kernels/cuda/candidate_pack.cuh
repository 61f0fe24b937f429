// Packs a step of the candidate search (CandidateLayout), and makes the probes that measure the screen's rounding.
#pragma once

#include "kernels/cuda/candidate_decide.cuh"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

// One table [K,columns] in fragments C, padded to [Kp,padded]; adds each row's squares to its sum. A warp takes a row.
__device__ inline float pack_table_row(const float* from, bool there, int64_t k, int columns, int padded, float* to) {
  float squares = 0;
  for (int j = lane(); j < padded; j += kWarp) {
    const float x = there && j < columns ? from[k * columns + j] : 0.0f;
    to[fragment_index(k, j, padded)] = x;
    squares += x * x;
  }
  return squares;
}

__global__ void __launch_bounds__(kBlock)
    pack_tables_kernel(CandidateLayout p, const float* z_table, const float* a_table, float* packed) {
  const int d = static_cast<int>(p.d), h = static_cast<int>(p.h);
  const int D = static_cast<int>(p.D()), H = static_cast<int>(p.H());
  if (grid_thread() < kPackHeader) packed[grid_thread()] = 0;
  for (int64_t k = grid_warp(); k < p.Kp(); k += grid_warps()) {
    float squares = pack_table_row(z_table, k < p.K, k, d, D, packed + p.z_table());
    squares += pack_table_row(a_table, k < p.K, k, h, H, packed + p.a_table());
    squares = warp_sum(squares);
    if (lane() == 0) packed[p.norms() + k] = sqrtf(squares);
  }
}

// A weight matrix of the step between `hidden` units and d: W_down [d,h], or W_up [h,d] with `up`; zero beyond.
struct PackedWeights {
  const float* w;
  int d, h;
  bool up;

  __device__ float at(int64_t column, int64_t hidden) const {
    if (column >= d || hidden >= h) return 0;
    return up ? w[hidden * d + column] : w[column * h + hidden];
  }
};

// Fragments B of 16 hidden units at a time, `stride` slabs apart: register b of a lane holds two neighbours of the
// inner dimension, which is d for up and the hidden units for down.
__global__ void __launch_bounds__(kBlock)
    pack_slabs_kernel(PackedWeights w, int D, int hidden_tiles, int stride, uint4* slabs) {
  const int64_t size = D / 16 * kWarp;
  for (int64_t i = grid_thread(); i < hidden_tiles * size; i += grid_threads()) {
    const int64_t c = i / size, p = i % size / kWarp, g = i % kWarp / 4, t = i % 4;
    const auto pair = [&](int64_t n, int64_t k) {  // outer index n, inner k and k + 1, of 16 each
      if (w.up) return pack_bf16(w.at(16 * p + k, 16 * c + n), w.at(16 * p + k + 1, 16 * c + n));
      return pack_bf16(w.at(16 * p + n, 16 * c + k), w.at(16 * p + n, 16 * c + k + 1));
    };
    slabs[c * stride * size + i % size] = {pair(g, 2 * t), pair(g, 2 * t + 8), pair(g + 8, 2 * t),
                                           pair(g + 8, 2 * t + 8)};
  }
}

// The same weights in float, 64 hidden units at a time, `stride` floats apart: down as [64 hidden][D], up as
// [D][64 hidden].
__global__ void __launch_bounds__(kBlock)
    pack_floats_kernel(PackedWeights w, int D, int hidden_chunks, int64_t stride, float* out) {
  const int64_t size = int64_t{64} * D;
  for (int64_t i = grid_thread(); i < hidden_chunks * size; i += grid_threads()) {
    const int64_t chunk = i / size, j = i % size;
    out[chunk * stride + j] = w.up ? w.at(j / 64, chunk * 64 + j % 64) : w.at(j % D, chunk * 64 + j / D);
  }
}

// Probe number blockIdx.x as a vector of the chunk, and its pair; u = W_up,1 r.
__global__ void __launch_bounds__(kBlock) probe_kernel(CandidateChunk c, const float* z_table, const float* w_up) {
  __shared__ float r[kLargestWidth];
  const int64_t i = blockIdx.x;
  const margin::Probe probe = margin::probe(i, c.K);
  for (int j = threadIdx.x; j < c.D; j += kBlock) {
    const float x =
        j < c.d ? probe.scale * (z_table[probe.first * c.d + j] - z_table[probe.second * c.d + (j + probe.shift) % c.d])
                : 0.0f;
    r[j] = x;
    c.row[i * c.D + j] = x;
  }
  __syncthreads();
  float squares = 0;
  for (int j = threadIdx.x / kWarp; j < c.H; j += kWarps) {
    float sum = 0;
    for (int k = lane(); j < c.h && k < c.d; k += kWarp) sum += w_up[int64_t{j} * c.d + k] * r[k];
    sum = warp_sum(sum);
    if (lane() == 0) c.up_row[i * c.H + j] = sum;
    if (lane() == 0) squares += sum * sum;
  }
  for (int j = threadIdx.x; j < c.D; j += kBlock) squares += r[j] * r[j];
  squares = block_sum(squares);
  if (threadIdx.x > 0) return;
  c.vector_norms[i] = sqrtf(squares);
  c.pairs[i] = static_cast<uint32_t>(i * c.K + probe.candidate);
  if (i == 0) c.counts[0] = static_cast<int>(gridDim.x);
}

// The bound: with its own z as target, a candidate's screened distance is its squared error. One warp.
__global__ void bound_kernel(CandidateChunk c, const float* candidate_norms, float* bound) {
  float largest = 0;
  for (int i = lane(); i < c.n; i += kWarp) {
    const int64_t k = margin::probe(i, c.K).candidate;
    const float size = candidate_norms[k] + c.vector_norms[i];
    if (size == 0) continue;
    const float ratio = sqrtf(c.distances[int64_t{i} * c.K + k]) / size;
    if (!(ratio <= largest)) largest = ratio < INFINITY ? ratio : INFINITY;
  }
  largest = -warp_fold(-largest, Minimum{});
  if (lane() == 0) *bound = margin::kSafety * largest;
}

}  // namespace qinco::kernels::cuda
