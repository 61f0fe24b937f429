// The product with packed weights in float, on tensor cores: a float is the sum of two TF32 operands, and three
// products of these are one of floats (split_tf32). Everything that follows the product is done on the way out.
//
// A warp computes 32 columns of 16 or 32 rows of y. Operands come straight from global memory or L1 in fragments, 16
// bytes a lane: as the order of the inner dimension within a product is free where both operands agree, lane (g, t)
// takes elements 4t .. 4t + 3 of 16 as its share of two products of 8. So no shared memory and no barrier is needed,
// and a row's sum does not depend on the number of rows.
//
// Floor: 2 m n k FLOP at a third of the TF32 peak that mma.sync reaches, about 100 TFLOP/s on an H100. With 2 x 4 tiles
// a warp loads 4 KiB, from L1 mostly, for 48 products of some 6.5 clocks: 52 bytes a clock and SM.
#include "kernels/cuda/candidate_layout.h"
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int kColumnTiles = 4, kColumns = 8 * kColumnTiles;  // of a warp
constexpr int kInner = 16;                                    // of a fragment
constexpr int kLinearWarps = 4;                               // of a block, 2 x 2

__device__ inline float element(const float4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Where a lane's shares of a warp's operands are. Rows beyond the last are as the last.
template <int kRowTiles>
struct LinearSource {
  const float* x[2 * kRowTiles];  // rows g, g + 8, ..
  const float4* w;
  int left;    // elements of a row from the lane's first on
  int pieces;  // of a row

  __device__ LinearSource(const Linear<float>& l, int64_t row, int64_t col)
      : left(static_cast<int>(l.k) - lane() % 4 * 4), pieces(static_cast<int>((l.k + kInner - 1) / kInner)) {
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int64_t r = row + 8 * i + lane() / 4;
      x[i] = l.x + (r < l.m ? r : l.m - 1) * l.ldx + lane() % 4 * 4;
    }
    w = reinterpret_cast<const float4*>(l.packed) + col / 8 * pieces * kWarp + lane();
  }
};

// 16 elements of the inner dimension of a warp's operands.
template <int kRowTiles>
struct LinearPiece {
  float4 x[kRowTiles][2];  // rows g and g + 8
  float4 w[kColumnTiles];

  template <bool aligned>
  __device__ void load(const LinearSource<kRowTiles>& from, int piece) {
#pragma unroll
    for (int i = 0; i < 2 * kRowTiles; ++i)
      x[i / 2][i % 2] = load_four<aligned>(from.x[i] + piece * kInner, from.left - piece * kInner);
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) w[j] = __ldg(from.w + (j * from.pieces + piece) * kWarp);
  }
};

// sum += x w^T for half a piece: each lane's elements 2 half and 2 half + 1.
template <int kRowTiles>
__device__ void multiply_half(const LinearPiece<kRowTiles>& p, int half, float (&sum)[kRowTiles][kColumnTiles][4]) {
  uint32_t x_high[kRowTiles][4], x_low[kRowTiles][4], w_high[kColumnTiles][2], w_low[kColumnTiles][2];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const SplitTf32 part = split_tf32(element(p.x[i][e % 2], 2 * half + e / 2));
      x_high[i][e] = part.high, x_low[i][e] = part.low;
    }
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const SplitTf32 part = split_tf32(element(p.w[j], 2 * half + e));
      w_high[j][e] = part.high, w_low[j][e] = part.low;
    }
  // Product by product over all tiles: the next one on the same sums is far away.
  const auto multiply = [&](const uint32_t(&x)[kRowTiles][4], const uint32_t(&w)[kColumnTiles][2]) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) mma_tf32(sum[i][j], x[i], w[j][0], w[j][1]);
  };
  multiply(x_low, w_high);
  multiply(x_high, w_low);
  multiply(x_high, w_high);
}

__device__ inline float finish_one(const Linear<float>& l, float sum, float added) {
  sum += added;
  return l.relu && sum < 0 ? 0.0f : sum;
}

// Two neighbours of a row, of which `count` exist.
template <bool aligned>
__device__ float2 load_two(const float* from, int64_t count) {
  if constexpr (aligned) return *reinterpret_cast<const float2*>(from);
  return make_float2(from[0], count > 1 ? from[1] : 0.0f);
}

template <bool aligned>
__device__ void store_two(float* to, int64_t count, float2 pair) {
  if constexpr (aligned) {
    *reinterpret_cast<float2*>(to) = pair;
  } else {
    to[0] = pair.x;
    if (count > 1) to[1] = pair.y;
  }
}

// Writes 8 rows of y, from `row` on. What is added is read for the whole row before any of it is written: y may be the
// residual, so that else each read would wait for the write before.
template <bool aligned>
__device__ void finish_row(const Linear<float>& l, int64_t row, int64_t col, const float (&first)[kColumnTiles],
                           const float (&second)[kColumnTiles]) {
  const int64_t r = row + lane() / 4, c = col + 2 * (lane() % 4);
  if (r >= l.m) return;
  float* const y = l.y + r * l.ldy;
  const float* const residual = l.residual ? l.residual + r * l.ldr : nullptr;
  float2 added[kColumnTiles] = {};
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const int64_t at = c + 8 * j, count = l.n - at;
    if (count <= 0) continue;
    if (l.accumulate) added[j] = load_two<aligned>(y + at, count);
    if (!residual) continue;
    const float2 more = load_two<aligned>(residual + at, count);
    added[j].x += more.x, added[j].y += more.y;
  }
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const int64_t at = c + 8 * j, count = l.n - at;
    const float2 pair = make_float2(finish_one(l, first[j], added[j].x), finish_one(l, second[j], added[j].y));
    if (count > 0) store_two<aligned>(y + at, count, pair);
  }
}

// aligned: rows of x for loads of 16 bytes, those of y and the residual for 8, and n is even.
template <int kRowTiles, bool aligned>
__global__ void __launch_bounds__(kLinearWarps* kWarp, 4) linear_kernel(Linear<float> l, int64_t column_blocks) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Place block = place(blockIdx.x, column_blocks);  // blocks of the same rows follow each other: x stays in L2
  const int64_t row = (block.row * 2 + warp / 2) * 16 * kRowTiles, col = (block.col * 2 + warp % 2) * kColumns;
  if (row >= l.m || col >= l.n) return;
  const LinearSource<kRowTiles> from(l, row, col);
  float sum[kRowTiles][kColumnTiles][4] = {};
  LinearPiece<kRowTiles> now, next;
  if (from.pieces > 0) now.template load<aligned>(from, 0);
  for (int piece = 0; piece < from.pieces; ++piece) {
    next.template load<aligned>(from, piece + 1 < from.pieces ? piece + 1 : piece);
    multiply_half(now, 0, sum);
    multiply_half(now, 1, sum);
    now = next;
  }
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    float first[kColumnTiles], second[kColumnTiles];
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
      first[j] = sum[i / 2][j][i % 2 * 2], second[j] = sum[i / 2][j][i % 2 * 2 + 1];
    finish_row<aligned>(l, row + 8 * i, col, first, second);
  }
}

// packed [columns/8][pieces][lane][4], zero beyond n and k.
__global__ void __launch_bounds__(kBlock)
    pack_kernel(int64_t n, int64_t k, const float* w, int64_t ldw, int64_t size, float* packed) {
  const int64_t pieces = (k + kInner - 1) / kInner;
  for (int64_t e = grid_thread(); e < size; e += grid_threads()) {
    const Place tile = place(e / (4 * kWarp), pieces);
    const int64_t of = e / 4 % kWarp, row = tile.row * 8 + of / 4, col = tile.col * kInner + of % 4 * 4 + e % 4;
    packed[e] = row < n && col < k ? w[row * ldw + col] : 0.0f;
  }
}

bool multiple_of(const void* pointer, int64_t stride, int64_t floats) {
  return reinterpret_cast<uintptr_t>(pointer) % (sizeof(float) * static_cast<size_t>(floats)) == 0 &&
         stride % floats == 0;
}

}  // namespace

int64_t tiled_linear_packed_size(int64_t n, int64_t k, Precision) {
  return round_up(n, kColumns) * round_up(k, kInner);
}

void tiled_linear_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, Precision precision,
                       float* packed) {
  const int64_t size = tiled_linear_packed_size(n, k, precision);
  launch(context, pack_kernel, blocks_for(size), kBlock, 0, n, k, w, ldw, size, packed);
}

void tiled_linear(const Context& context, const Linear<float>& l) {
  if (l.m == 0 || l.n == 0) return;
  const bool aligned = multiple_of(l.x, l.ldx, 4) && l.k % 4 == 0 && multiple_of(l.y, l.ldy, 2) && l.n % 2 == 0 &&
                       multiple_of(l.residual, l.ldr, 2);
  // Two tiles of rows a warp where that leaves some warps for each scheduler, four of an SM.
  const int64_t columns = (l.n + kColumns - 1) / kColumns;
  const bool two = (l.m + 31) / 32 * columns >= 8 * processors(context);
  const int64_t rows = two ? 64 : 32;  // of a block
  const int64_t column_blocks = (columns + 1) / 2, blocks = (l.m + rows - 1) / rows * column_blocks;
  const auto kernel = two       ? aligned ? linear_kernel<2, true> : linear_kernel<2, false>
                            : aligned ? linear_kernel<1, true>
                                : linear_kernel<1, false>;
  launch(context, kernel, static_cast<unsigned>(blocks), kLinearWarps * kWarp, 0, l, column_blocks);
}

}  // namespace qinco::kernels::cuda
