// Packs a step of the candidate search (CandidateLayout), and makes the probes that measure the screen's rounding.
#pragma once

#include "kernels/cuda/candidate_decide.cuh"
#include "kernels/cuda/candidate_pieces.h"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

// A row of a table [K,columns], padded to [Kp,padded], in fragments C unless the step is wide; returns the sum of its
// squares. A warp takes a row.
__device__ inline float pack_table_row(const CandidateLayout& p, const float* from, int64_t k, int columns, int padded,
                                       float* to) {
  float squares = 0;
  for (int j = lane(); j < padded; j += kWarp) {
    const float x = k < p.K && j < columns ? from[k * columns + j] : 0.0f;
    to[p.wide() ? k * padded + j : fragment_index(k, j, padded)] = x;
    squares += x * x;
  }
  return squares;
}

__global__ void __launch_bounds__(kBlock)
    pack_tables_kernel(CandidateLayout p, const float* z_table, const float* a_table, float* packed) {
  const int d = static_cast<int>(p.d), h = static_cast<int>(p.h);
  const int D = static_cast<int>(p.D()), H = static_cast<int>(p.H());
  // A bound that rules nothing out, until there is a measured one.
  if (grid_thread() < kPackHeader) packed[grid_thread()] = grid_thread() == 0 ? INFINITY : 0.0f;
  for (int64_t k = grid_warp(); k < p.Kp(); k += grid_warps()) {
    float squares = pack_table_row(p, z_table, k, d, D, packed + p.z_table());
    squares += pack_table_row(p, a_table, k, h, H, packed + p.a_table());
    squares = warp_sum(squares);
    if (lane() == 0) packed[p.norms() + k] = sqrtf(squares);
  }
}

// A weight matrix of the step between hidden units and d: W_down [d,h], or W_up [h,d] with `up`.
struct PackedWeights {
  const float* w;
  bool up;
  int64_t slabs, floats;  // where its first pieces of 16 and of 128 hidden units are in the pack
  int stride;             // pieces from one to the next: up and down of a block alternate
  int64_t pieces;         // where those of its block of the step are, if the step takes_pieces
};

constexpr int kMatrices = 8;

// The matrices that a launch packs.
struct PackedMatrices {
  bool in_pieces;  // rather than slabs
  PackedWeights matrix[kMatrices];
};

// Zero beyond d and h.
__device__ inline float weight(const CandidateLayout& p, const PackedWeights& w, int64_t column, int64_t hidden) {
  if (column >= p.d || hidden >= p.h) return 0;
  return w.up ? w.w[hidden * p.d + column] : w.w[column * p.h + hidden];
}

// Fragments B of 16 hidden units at a time: register b of a lane holds two neighbours of the inner dimension, which is
// d for up and the hidden units for down.
__device__ inline void pack_slabs(const CandidateLayout& p, const PackedWeights& w, float* packed) {
  uint4* const slabs = reinterpret_cast<uint4*>(packed + w.slabs);
  const int64_t size = p.D() / 16 * kWarp;
  for (int64_t i = grid_thread(); i < p.H() / kMmaTile * size; i += grid_threads()) {
    const int64_t c = i / size, tile = i % size / kWarp, g = i % kWarp / 4, t = i % 4;
    const auto pair = [&](int64_t n, int64_t k) {  // outer index n, inner k and k + 1, of 16 each
      if (w.up) return pack_bf16(weight(p, w, 16 * tile + k, 16 * c + n), weight(p, w, 16 * tile + k + 1, 16 * c + n));
      return pack_bf16(weight(p, w, 16 * tile + n, 16 * c + k), weight(p, w, 16 * tile + n, 16 * c + k + 1));
    };
    slabs[c * w.stride * size + i % size] = {pair(g, 2 * t), pair(g, 2 * t + 8), pair(g + 8, 2 * t),
                                             pair(g + 8, 2 * t + 8)};
  }
}

// Pieces of 64 hidden units for Hopper's screen. A thread packs 8 neighbours of the inner dimension, which is d for up
// and the hidden units for down.
__device__ inline void pack_pieces(const CandidateLayout& p, const PackedWeights& w, float* packed) {
  unsigned char* const pieces = reinterpret_cast<unsigned char*>(packed + w.pieces);
  const int chunks = static_cast<int>(p.h) / kPieceHidden, units = kPieceBytes / 16;
  const int N = w.up ? kPieceHidden : kPieceWidth, inner = (w.up ? kPieceWidth : kPieceHidden) / 8;
  for (int64_t i = grid_thread(); i < int64_t{chunks} * units; i += grid_threads()) {
    const int c = static_cast<int>(i / units), unit = static_cast<int>(i % units);
    const int n = unit / inner, k = unit % inner * 8;
    const auto pair = [&](int j) {  // inner k + j and k + j + 1
      const int column = w.up ? k + j : n, hidden = c * kPieceHidden + (w.up ? n : k + j);
      return pack_bf16(weight(p, w, column, hidden), weight(p, w, column + w.up, hidden + !w.up));
    };
    const int64_t at = int64_t{piece_place(w.stride == 1, w.up, c, chunks)} * kPieceBytes;
    *reinterpret_cast<uint4*>(pieces + at + SwizzledOperand::offset(N, n, k)) = {pair(0), pair(2), pair(4), pair(6)};
  }
}

// The same weights in float, 128 hidden units at a time, in the order in which the rescoring's lanes take them.
__device__ inline void pack_floats(const CandidateLayout& p, const PackedWeights& w, float* packed) {
  const int D = static_cast<int>(p.D()), size = static_cast<int>(kHiddenChunk) * D, outer = w.up ? 2 : D / 32;
  for (int64_t i = grid_thread(); i < p.H128() * D; i += grid_threads()) {
    const Place at = place(i, size);
    const int j = static_cast<int>(at.col), warp = j / (16 * D), load = j % (16 * D) / 128, lane = j % 128 / 4;
    const int outside = load % outer * 8 + lane / 4, inside = load / outer * 16 + lane % 4 * 4 + j % 4;
    const int column = w.up ? inside : warp % 4 * (D / 4) + outside;
    const int hidden = w.up ? warp * 16 + outside : warp / 4 * 64 + inside;
    packed[w.floats + at.row * w.stride * size + j] = weight(p, w, column, at.row * kHiddenChunk + hidden);
  }
}

// A wide step's matrix in bfloat16, and transposed in float.
__device__ inline void pack_wide(const CandidateLayout& p, const PackedWeights& w, float* packed) {
  uint32_t* const pairs = reinterpret_cast<uint32_t*>(packed + w.slabs);
  const int64_t outer = w.up ? p.H() : p.D(), inner = w.up ? p.D() : p.H();
  for (int64_t i = grid_thread(); i < outer * inner / 2; i += grid_threads()) {
    const int64_t o = i / (inner / 2), k = i % (inner / 2) * 2;
    const float one = w.up ? weight(p, w, k, o) : weight(p, w, o, k);
    const float two = w.up ? weight(p, w, k + 1, o) : weight(p, w, o, k + 1);
    pairs[i] = pack_bf16(one, two);
    packed[w.floats + k * outer + o] = one;
    packed[w.floats + (k + 1) * outer + o] = two;
  }
}

// blockIdx.y: the matrix.
__global__ void __launch_bounds__(kBlock) pack_weights_kernel(CandidateLayout p, PackedMatrices all, float* packed) {
  if (p.wide()) return pack_wide(p, all.matrix[blockIdx.y], packed);
  if (all.in_pieces)
    pack_pieces(p, all.matrix[blockIdx.y], packed);
  else
    pack_slabs(p, all.matrix[blockIdx.y], packed);
  pack_floats(p, all.matrix[blockIdx.y], packed);
}

constexpr int kProbeParts = 8;  // blocks that share out the hidden units of a probe

// Probe number blockIdx.x as a vector of the chunk, and its pair; u = W_up,1 r, of which a block computes every
// kProbeParts-th value. squares [probes][kProbeParts] is the blocks' part of ||(u, r)||^2.
__global__ void __launch_bounds__(kBlock)
    probe_kernel(CandidateChunk c, const float* z_table, const float* w_up, float* squares) {
  float* const r = dynamic_shared<float>();  // [D]
  const int64_t i = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y);
  const margin::Probe probe = margin::probe(i, c.K);
  float sum_of_squares = 0;
  for (int j = threadIdx.x; j < c.D; j += kBlock) {
    const float x =
        j < c.d ? probe.scale * (z_table[probe.first * c.d + j] - z_table[probe.second * c.d + (j + probe.shift) % c.d])
                : 0.0f;
    r[j] = x;
    if (part > 0) continue;
    c.row[i * c.D + j] = x;
    sum_of_squares += x * x;
  }
  __syncthreads();
  for (int j = part * kWarps + static_cast<int>(threadIdx.x / kWarp); j < c.H; j += kProbeParts * kWarps) {
    float sum = 0;
    for (int k = lane(); j < c.h && k < c.d; k += kWarp) sum += w_up[int64_t{j} * c.d + k] * r[k];
    sum = warp_sum(sum);
    if (lane() > 0) continue;
    c.up_row[i * c.H + j] = sum;
    sum_of_squares += sum * sum;
  }
  sum_of_squares = block_sum(sum_of_squares);
  if (threadIdx.x > 0) return;
  squares[i * kProbeParts + part] = sum_of_squares;
  if (part > 0) return;
  c.pairs[i] = static_cast<uint32_t>(i * c.K + probe.candidate);
  if (i == 0) c.counts[0] = static_cast<int>(gridDim.x);
}

// The bound: with its own z as target, a candidate's screened distance is its squared error. One warp.
__global__ void bound_kernel(CandidateChunk c, const float* squares, const float* candidate_norms, float* bound) {
  float largest = 0;
  for (int i = lane(); i < c.n; i += kWarp) {
    const int64_t k = margin::probe(i, c.K).candidate;
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kProbeParts; ++part) sum += squares[i * kProbeParts + part];
    const float size = candidate_norms[k] + sqrtf(sum);
    if (size == 0) continue;
    const float ratio = sqrtf(c.distances[int64_t{i} * c.K + k]) / size;
    if (!(ratio <= largest)) largest = ratio < INFINITY ? ratio : INFINITY;
  }
  largest = warp_fold(largest, Maximum{});
  if (lane() == 0) *bound = margin::kSafety * largest;
}

}  // namespace qinco::kernels::cuda
