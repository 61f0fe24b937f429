// What comes before and after the screen of a candidate search: inputs padded, the candidates that the screen leaves
// open collected, the nearest written. The rules are in kernels/candidate_margin.h. A warp takes a vector.
#pragma once

#include "kernels/cuda/candidate_rescore.cuh"
#include "kernels/kernels.h"

namespace qinco::kernels::cuda {

/// Scratch of a chunk of n vectors.
struct CandidateChunk {
  int n, K, d, h, D, H;
  float *row, *target, *up_row;  // [n rounded up to groups][D], [..][D], [..][H], zero beyond n, d and h
  float* vector_norms;           // [n]  ||(u, r)||
  float* distances;              // [n,K]
  Key* best;                     // [n]
  int* doubted;                  // [n]
  uint32_t* pairs;               // [n K]
  int* counts;                   // [2]  of pairs: first those that the screen leaves open, then those of the doubted
};

// One row, padded; adds to the sum of squares.
__device__ inline float pad_row(const float* from, int size, float* to, int padded) {
  float squares = 0;
  for (int j = lane(); j < padded; j += kWarp) {
    const float x = j < size ? from[j] : 0.0f;
    to[j] = x;
    squares += x * x;
  }
  return squares;
}

// rows: n rounded up to whole groups of the screen.
__global__ void __launch_bounds__(kBlock) prepare_kernel(CandidateChunk c, CandidateSearch<float> s, int rows) {
  if (grid_thread() < 2) c.counts[grid_thread()] = 0;
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    const int d = i < c.n ? c.d : 0, h = i < c.n ? c.h : 0;
    pad_row(s.target + i * c.d, d, c.target + i * c.D, c.D);
    float squares = pad_row(s.row + i * c.d, d, c.row + i * c.D, c.D);
    squares += pad_row(s.up_row + i * c.h, h, c.up_row + i * c.H, c.H);
    squares = warp_sum(squares);
    if (lane() > 0 || i >= c.n) continue;
    c.vector_norms[i] = sqrtf(squares);
    c.best[i] = kNoBest;
    c.doubted[i] = 0;
  }
}

// Precision::fast: the screen's nearest.
__global__ void __launch_bounds__(kBlock) take_screened_kernel(CandidateChunk c) {
  for (int64_t i = grid_warp(); i < c.n; i += grid_warps()) {
    Key best = kNoBest;
    for (int k = lane(); k < c.K; k += kWarp) {
      const float distance = c.distances[i * c.K + k];
      if (distance < INFINITY) best = Minimum{}(best, make_key(distance, k));
    }
    best = warp_fold(best, Minimum{});
    if (lane() == 0) c.best[i] = best;
  }
}

// Room for `count` pairs in the list, for the whole warp.
__device__ inline int reserve_pairs(int* counter, int count) {
  int at = 0;
  if (lane() == 0) at = atomicAdd(counter, count);
  return __shfl_sync(kFullMask, at, 0);
}

constexpr int kHeld = 8;  // candidates whose bounds a lane keeps

// Lists those of the candidates first + lane() + 0, 32, .. that are not all too far.
__device__ inline void list_open(const CandidateChunk& c, int64_t vector, int first, const float (&low)[kHeld],
                                 float ceiling) {
  unsigned open[kHeld];
  int count = 0;
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const bool there = first + j * kWarp + lane() < c.K;
    open[j] = __ballot_sync(kFullMask, there && !(low[j] > ceiling));  // NaN stays open
    count += __popc(open[j]);
  }
  if (count == 0) return;
  int at = reserve_pairs(c.counts, count);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) {
    const int k = first + j * kWarp + lane(), before = __popc(open[j] & ((1u << lane()) - 1));
    if (open[j] >> lane() & 1) c.pairs[at + before] = static_cast<uint32_t>(vector * c.K + k);
    at += __popc(open[j]);
  }
}

// Lists all candidates that the screen does not rule out; its best is among them.
__global__ void __launch_bounds__(kBlock)
    choose_kernel(CandidateChunk c, const float* bound, const float* candidate_norms) {
  for (int64_t i = grid_warp(); i < c.n; i += grid_warps()) {
    const float* const mine = c.distances + i * c.K;
    const float norm = c.vector_norms[i];
    float ceiling = INFINITY, low[kHeld];
    const auto bounds = [&](int first) {  // of the candidates first + lane() + 0, 32, ..
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int k = first + j * kWarp + lane();
        if (k >= c.K) continue;
        const float root = sqrtf(mine[k]);
        const float error = *bound * (candidate_norms[k] + norm) + margin::kSumError * root;  // of sqrt(D'), at most
        low[j] = root - error;
        if (root + error < ceiling) ceiling = root + error;  // never NaN
      }
    };
    for (int first = 0; first < c.K; first += kHeld * kWarp) bounds(first);
    ceiling = warp_fold(ceiling, Minimum{});
    for (int first = 0; first < c.K; first += kHeld * kWarp) {
      if (c.K > kHeld * kWarp) bounds(first);
      list_open(c, i, first, low, ceiling);
    }
  }
}

// Lists all candidates of the doubted vectors, whose search begins again.
__global__ void __launch_bounds__(kBlock) widen_kernel(CandidateChunk c) {
  for (int64_t i = grid_warp(); i < c.n; i += grid_warps()) {
    if (!c.doubted[i]) continue;
    const int at = reserve_pairs(c.counts + 1, c.K);
    for (int k = lane(); k < c.K; k += kWarp) c.pairs[at + k] = static_cast<uint32_t>(i * c.K + k);
    if (lane() == 0) c.best[i] = kNoBest;
  }
}

__global__ void __launch_bounds__(kBlock) finish_kernel(int n, const Key* best, int32_t* codes, float* distances) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
    codes[i] = static_cast<int32_t>(index_of(best[i]));
    if (distances) distances[i] = value_of(best[i]);
  }
}

}  // namespace qinco::kernels::cuda
