// The distances of single (vector, candidate) pairs at the precision of float, for what the screen leaves open: few of
// many.
//
// Products on the tensor cores, a float's as three of TF32 (mma.cuh: split_tf32); the two small ones are summed apart.
// A block takes 16 or 32 pairs through the step, z [pairs][D] and 128 hidden units at a time [pairs][128] in shared
// memory, which all its warps read as operand A. The outer dimension is shared out: a warp computes 16 of the hidden
// units, then a quarter of the columns from 64 of them; the two halves of a column's sum meet in z, one after the
// other. So each weight is of use to one warp only: it comes from L2 into that warp's registers, packed in the order in
// which its lanes take them (CandidateLayout: floats), some loads ahead of its use.
//
// What k of a product is which value is free as long as both operands agree: lane t's four k of two products are 4
// neighbours, so that 16 bytes at once feed them.
//
// Floor: 2 d h (2L - 1) FLOP a pair, three times in TF32: 590 kFLOP for d = 128, h = 256, L = 2. The weights, 384 KiB
// there, are read once a block and tile: of L2, 12 KiB a pair, or 24 in tiles of 16.
#pragma once

#include "kernels/candidate_margin.h"
#include "kernels/cuda/candidate_layout.h"
#include "kernels/cuda/keys.cuh"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

// From one row to the next in shared memory: 16 bytes each of 2 rows and 4 columns lie in different banks.
template <int kColumns>
constexpr int kRescoreStride = kColumns + 16;
constexpr int kHiddenStride = kRescoreStride<kHiddenChunk>;
static_assert(kHiddenChunk == 16 * kWarps);

// Operands A, of 16 pairs each, that a block has at most, for its registers; and blocks of a multiprocessor.
template <int kTiles>
constexpr int kMostRescoreRows = kTiles <= 8 ? 2 : 1;
template <int kTiles>
constexpr int kRescoreBlocks = kTiles <= 2 ? 2 : 1;

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
  int K, d, D, H, L;
  int hidden_chunks;                   // H128/128
  int64_t matrix;                      // floats from one matrix of a wide step to the next
  const float* bound;                  // [1]
  const float* candidate_norms;        // [Kp]
  const float *z_table, *a_table;      // CandidateLayout
  const float4* weights;               // CandidateLayout: floats
  const float *row, *target, *up_row;  // [n,D], [n,D], [n,H]
  const float* vector_norms;           // [n]
  const float* distances;              // [n,K], the screen's
  const uint32_t* pairs;               // vector * K + candidate
  const int* count;                    // of the pairs
  int few;                             // up to so many are taken 16 at a time
  Key* best;                           // [n] lowered to the pairs' keys
  int* doubted;                        // [n] set where the screen is further off than is likely, or null
  float* z;                            // [n,D] if not null, takes the pairs' outputs and nothing else is written
};

// Enters the distance of one pair.
__device__ inline void enter_distance(const Rescore& s, int64_t vector, int candidate, float distance) {
  if (distance < INFINITY) atomicMin(s.best + vector, make_key(distance, candidate));
  if (!s.doubted) return;
  const float root = sqrtf(s.distances[vector * s.K + candidate]);
  const float likely = margin::shown(s.d) * *s.bound * (s.candidate_norms[candidate] + s.vector_norms[vector]);
  if (!(root == root)) return;  // NaN says nothing about the screen's other distances
  if (!(fabsf(root - sqrtf(distance)) <= likely + margin::kSumError * root)) s.doubted[vector] = 1;
}

// What a warp reads of the weights: pieces of 128 hidden units in a cycle, each in 2 kTiles loads of 16 bytes a lane,
// of which the next kAhead are on their way.
template <int kTiles>
class RescoreWeights {
 public:
  static constexpr int kPiece = 2 * kTiles;
  static constexpr int kAhead = kPiece <= 16 ? kPiece : kPiece / 2;
  static_assert(kPiece % kAhead == 0);

  __device__ RescoreWeights(const float4* weights, int pieces)
      : weights_(weights + threadIdx.x / kWarp * kPiece * kWarp + lane()), next_(weights_), pieces_(pieces) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ahead_[i] = __ldg(weights_ + i * kWarp);
  }

  __device__ void begin_piece() {
    here_ = next_;
    piece_ = piece_ + 1 == pieces_ ? 0 : piece_ + 1;
    next_ = weights_ + int64_t{piece_} * kWarps * kPiece * kWarp;
  }

  // Load number i of the piece: 0, 1, .., kPiece - 1, known to the compiler.
  __device__ float4 take(int i) {
    const float4 taken = ahead_[i % kAhead];
    const int then = i + kAhead;
    ahead_[i % kAhead] = __ldg(then < kPiece ? here_ + then * kWarp : next_ + (then - kPiece) * kWarp);
    return taken;
  }

 private:
  const float4* weights_;
  const float4 *here_ = nullptr, *next_;
  int pieces_, piece_ = 0;
  float4 ahead_[kAhead];
};

// Operand A of two products, split: rows g and g + 8, columns 4t .. 4t + 3 of `from` [16][stride] + 16 columns.
struct RescoreOperand {
  uint32_t high[2][4], low[2][4];

  __device__ void load(const float* from, int stride) {
    const float4 top = *reinterpret_cast<const float4*>(from);
    const float4 bottom = *reinterpret_cast<const float4*>(from + 8 * stride);
    const float values[2][4] = {{top.x, bottom.x, top.y, bottom.y}, {top.z, bottom.z, top.w, bottom.w}};
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const SplitTf32 split = split_tf32(values[half][i]);
        high[half][i] = split.high, low[half][i] = split.low;
      }
  }
};

// sum += a weights^T, for the piece's inner values and 8 kOuter outer ones; a [16 kRows][stride], sum in fragments C.
template <int kTiles, int kOuter, int kRows>
__device__ void rescore_multiply(RescoreWeights<kTiles>& weights, const float* a, int stride,
                                 float (&sum)[kOuter][kRows][4]) {
  const float* const mine = a + lane() / 4 * stride + lane() % 4 * 4;
  float small[kOuter][kRows][4] = {};
  weights.begin_piece();
#pragma unroll
  for (int step = 0; step < weights.kPiece / kOuter; ++step) {
    RescoreOperand x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r].load(mine + r * 16 * stride + step * 16, stride);
#pragma unroll
    for (int j = 0; j < kOuter; ++j) {
      const float4 w = weights.take(step * kOuter + j);
      const SplitTf32 b[2][2] = {{split_tf32(w.x), split_tf32(w.y)}, {split_tf32(w.z), split_tf32(w.w)}};
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          mma_tf32(small[j][r], x[r].low[half], b[half][0].high, b[half][1].high);
          mma_tf32(sum[j][r], x[r].high[half], b[half][0].high, b[half][1].high);
          mma_tf32(small[j][r], x[r].high[half], b[half][0].low, b[half][1].low);
        }
    }
  }
#pragma unroll
  for (int j = 0; j < kOuter; ++j)
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[j][r][i] += small[j][r][i];
}

// A tile of pairs in shared memory.
template <int kTiles, int kRows>
struct RescoreTile {
  static constexpr int D = 16 * kTiles, kPairs = 16 * kRows, kStride = kRescoreStride<D>;
  static constexpr int kPerWarp = kPairs / kWarps;  // warp w looks after the pairs w, w + 8, ..
  static constexpr int kBytes = kPairs * ((kStride + 2 * kHiddenStride) * 4 + 8);
  float* z;                   // [kPairs][kStride]
  float* hidden;              // [2][kPairs][kHiddenStride]: one is read while the other is written
  int *vectors, *candidates;  // [kPairs]

  __device__ explicit RescoreTile(float* shared)
      : z(shared),
        hidden(z + kPairs * kStride),
        vectors(reinterpret_cast<int*>(hidden + 2 * kPairs * kHiddenStride)),
        candidates(vectors + kPairs) {}

  __device__ static int pair_of_warp(int i) { return static_cast<int>(threadIdx.x / kWarp) + i * kWarps; }
  __device__ float* hidden_of(int chunk) const { return hidden + chunk % 2 * kPairs * kHiddenStride; }

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
  }

  // z = z_table + r
  __device__ void begin_z(const Rescore& s) {
#pragma unroll
    for (int i = 0; i < kPerWarp; ++i) {
      const int p = pair_of_warp(i);
#pragma unroll
      for (int c = lane(); c < D; c += kWarp)
        z[p * kStride + c] =
            __ldg(s.z_table + fragment_index(candidates[p], c, D)) + __ldg(s.row + int64_t{vectors[p]} * D + c);
    }
  }
};

// hidden = relu(a_table + u) of 128 hidden units of the first block, fetched while those before are multiplied.
template <class Tile>
struct RescoreBegin {
  float2 a[Tile::kPerWarp][2], u[Tile::kPerWarp][2];

  __device__ void fetch(const Rescore& s, const Tile& tile, int chunk) {
#pragma unroll
    for (int i = 0; i < Tile::kPerWarp; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int p = tile.pair_of_warp(i), unit = chunk * static_cast<int>(kHiddenChunk) + half * 64 + 2 * lane();
        a[i][half] = u[i][half] = make_float2(0, 0);
        if (unit >= s.H) continue;
        a[i][half] = __ldg(reinterpret_cast<const float2*>(s.a_table + fragment_index(tile.candidates[p], unit, s.H)));
        u[i][half] = __ldg(reinterpret_cast<const float2*>(s.up_row + int64_t{tile.vectors[p]} * s.H + unit));
      }
  }
  __device__ void store(const Tile& tile, float* hidden) const {
#pragma unroll
    for (int i = 0; i < Tile::kPerWarp; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(hidden + tile.pair_of_warp(i) * kHiddenStride + half * 64 + 2 * lane()) =
            make_float2(relu_float(a[i][half].x + u[i][half].x), relu_float(a[i][half].y + u[i][half].y));
  }
};

// hidden = relu(W_up z) of the warp's 16 of 128 hidden units.
template <int kTiles, int kRows>
__device__ void rescore_up(RescoreWeights<kTiles>& weights, const RescoreTile<kTiles, kRows>& tile, float* hidden) {
  float sum[2][kRows][4] = {};
  rescore_multiply(weights, tile.z, tile.kStride, sum);
  float* const mine = hidden + lane() / 4 * kHiddenStride + threadIdx.x / kWarp * 16 + lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int i = 0; i < 2 * kRows; ++i)
      *reinterpret_cast<float2*>(mine + i * 8 * kHiddenStride + j * 8) =
          make_float2(relu_float(sum[j][i / 2][i % 2 * 2]), relu_float(sum[j][i / 2][i % 2 * 2 + 1]));
}

// z += sum, the warp's quarter of the columns in fragments C.
template <int kTiles, int kRows>
__device__ void rescore_add(const RescoreTile<kTiles, kRows>& tile, const float (&sum)[kTiles / 2][kRows][4]) {
  const int quarter = static_cast<int>(threadIdx.x / kWarp) % 4 * (tile.D / 4);
  float* const mine = tile.z + lane() / 4 * tile.kStride + quarter + lane() % 4 * 2;
#pragma unroll
  for (int j = 0; j < kTiles / 2; ++j)
#pragma unroll
    for (int i = 0; i < 2 * kRows; ++i) {
      float2* const to = reinterpret_cast<float2*>(mine + i * 8 * tile.kStride + j * 8);
      const float2 before = *to;
      *to = make_float2(before.x + sum[j][i / 2][i % 2 * 2], before.y + sum[j][i / 2][i % 2 * 2 + 1]);
    }
}

// One block of the step. Between two barriers a warp reads one chunk's hidden units and writes the next one's.
template <bool kFirst, int kTiles, int kRows>
__device__ void rescore_block(const Rescore& s, RescoreWeights<kTiles>& weights, RescoreTile<kTiles, kRows>& tile) {
  const int half = static_cast<int>(threadIdx.x / kWarp) / 4;  // of the hidden units, in the down product
  [[maybe_unused]] RescoreBegin<RescoreTile<kTiles, kRows>> ahead;
  if constexpr (kFirst) {
    ahead.fetch(s, tile, 0);
    tile.begin_z(s);
  }
  float sum[kTiles / 2][kRows][4] = {};
  for (int chunk = 0; chunk < s.hidden_chunks; ++chunk) {
    float* const hidden = tile.hidden_of(chunk);
    if constexpr (kFirst)
      ahead.store(tile, hidden);
    else
      rescore_up(weights, tile, hidden);
    __syncthreads();
    if constexpr (kFirst) ahead.fetch(s, tile, chunk + 1);
    rescore_multiply(weights, hidden + half * 64, kHiddenStride, sum);
  }
  if (half == 0) rescore_add(tile, sum);  // nobody reads z since the last barrier
  __syncthreads();
  if (half == 1) rescore_add(tile, sum);
  __syncthreads();
}

// Enters the distances of a tile whose first `there` pairs are to be entered, or writes their outputs.
template <int kTiles, int kRows>
__device__ void rescore_end(const Rescore& s, const RescoreTile<kTiles, kRows>& tile, int there) {
  float mine = 0;  // of pair number lane() of the warp's
#pragma unroll
  for (int i = 0; i < tile.kPerWarp; ++i) {
    const int p = tile.pair_of_warp(i);
    const int64_t first = int64_t{tile.vectors[p]} * tile.D;
    float distance = 0;
#pragma unroll
    for (int c = lane(); c < tile.D; c += kWarp) {
      const float z = tile.z[p * tile.kStride + c];
      if (s.z) {
        if (p < there) s.z[first + c] = z;
      } else {
        const float difference = s.target[first + c] - z;
        distance += difference * difference;
      }
    }
    distance = warp_sum(distance);
    if (lane() == i) mine = distance;
  }
  const int p = tile.pair_of_warp(lane());
  if (!s.z && lane() < tile.kPerWarp && p < there) enter_distance(s, tile.vectors[p], tile.candidates[p], mine);
}

template <int kTiles, int kRows>
__device__ void rescore_tiles(const Rescore& s, int count) {
  RescoreTile<kTiles, kRows> tile(dynamic_shared<float>());
  const int first = static_cast<int>(blockIdx.x) * tile.kPairs, step = static_cast<int>(gridDim.x) * tile.kPairs;
  if (first >= count) return;
  RescoreWeights<kTiles> weights(s.weights, (2 * s.L - 1) * s.hidden_chunks);
  for (int at = first; at < count; at += step) {
    tile.begin(s, at, count);
    rescore_block<true>(s, weights, tile);
    for (int l = 1; l < s.L; ++l) rescore_block<false>(s, weights, tile);
    rescore_end(s, tile, count - at);
  }
}

// Few pairs in tiles of 16 keep twice as many blocks at work as in tiles of 32.
template <int kTiles>
__global__ void __launch_bounds__(kBlock, kRescoreBlocks<kTiles>) rescore_kernel(Rescore s) {
  const int count = *s.count;
  if (kMostRescoreRows<kTiles> == 1 || count <= s.few)
    rescore_tiles<kTiles, 1>(s, count);
  else
    rescore_tiles<kTiles, kMostRescoreRows<kTiles>>(s, count);
}

}  // namespace qinco::kernels::cuda
