// Products of floats that are too small to fill the device in cuBLAS's tiles, as those of a training batch are: tiles
// of 64 x 32, and the inner dimension cut where there are fewer of them than multiprocessors. On tensor cores: a float
// is the sum of two TF32 operands, and three products of these are one of floats (split_tf32).
//
// A block of 2 x 2 warps takes 32 of the inner dimension at a time through four stages in shared memory, in the order
// in which they are stored. Blocks of the same tile leave their sums in memory; the last one adds them, in order, and
// does what follows the product.
//
// Floor, for 1024 x 256 x 128: 0.7 us for 67 MFLOP at the 100 TFLOP/s that three products in TF32 leave of an H100, and
// about 3 us to launch a kernel, to get the first bytes from L2 and to write the last.
#include <cfloat>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int kTileRows = 64, kTileColumns = 32, kDepth = 32;
constexpr int kStages = 4;
constexpr int kTileThreads = 128;
constexpr int kWarpRows = kTileRows / 2, kWarpColumns = kTileColumns / 2;
constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;
constexpr int64_t kMostTiles = 1024;
constexpr int64_t kMostProducts = int64_t{1} << 27;
constexpr int64_t kLeastDepth = 64;  // from which the error of a split product is below that of the sum

// Blocks that have left their sums, of a tile; 0 before and after a product.
__device__ uint32_t arrivals[kMostTiles];

struct TiledGemm {
  Gemm<float> g;
  float own;
  int column_tiles, slabs, splits;  // slabs: of kDepth
  float4* partial;                  // [tiles][splits][4][kTileThreads]
};

// kDepth of the inner dimension of an operand's kOuter rows. along: stored with the inner dimension together. Strides
// are such that the reads of a fragment meet in no bank.
template <int kOuter, bool along>
struct Slab {
  static constexpr int kStride = along ? kDepth + 4 : kOuter + 8;
  static constexpr int kFloats = (along ? kOuter : kDepth) * kStride;

  __device__ static int place(int row, int k) { return along ? row * kStride + k : k * kStride + row; }

  // Begins to copy rows from `row` on, of which there are `rows`; beyond them and beyond `depth` there is 0.
  __device__ static void fetch(float* to, const float* x, int64_t ld, int64_t row, int64_t rows, int64_t k,
                               int64_t depth) {
    constexpr int kLine = (along ? kDepth : kOuter) / 4, kCopies = kOuter * kDepth / 4;
#pragma unroll
    for (int i = 0; i < kCopies; i += kTileThreads) {
      const int line = (i + static_cast<int>(threadIdx.x)) / kLine,
                at = (i + static_cast<int>(threadIdx.x)) % kLine * 4;
      const int64_t r = row + (along ? line : at), q = k + (along ? at : line);
      copy_async_or_zero<16>(to + line * kStride + at, x + (along ? r * ld + q : q * ld + r), r < rows && q < depth);
    }
  }
};

// NaN is in the high part too: that decides where it is not finite, and is all there is at Precision::fast.
__device__ inline SplitTf32 split(float x) {
  const SplitTf32 parts = split_tf32(x);
  return {x == x ? parts.high : 0x7fc00000u, parts.low};
}

struct WarpSums {
  float values[kRowTiles][kColumnTiles][4];
};

// Adds the products over a slab; those with a low part to sums of their own, so that fewer wait for each other. a, b:
// the operands' slabs from this warp's first row and column on.
template <class A, class B>
__device__ void multiply(const float* a, const float* b, bool exact, WarpSums& sums, WarpSums& small) {
  const int g = lane() / 4, t = lane() % 4;
#pragma unroll
  for (int k = 0; k < kDepth; k += 8) {
    SplitTf32 rows[kRowTiles][4], columns[kColumnTiles][2];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) rows[i][e] = split(a[A::place(16 * i + g + e % 2 * 8, k + t + e / 2 * 4)]);
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) columns[j][e] = split(b[B::place(8 * j + g, k + t + 4 * e)]);
    const auto add = [&](WarpSums& to, bool low_rows, bool low_columns) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t row[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) row[e] = low_rows ? rows[i][e].low : rows[i][e].high;
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j)
          mma_tf32(to.values[i][j], row, low_columns ? columns[j][0].low : columns[j][0].high,
                   low_columns ? columns[j][1].low : columns[j][1].high);
      }
    };
    if (exact) add(small, true, false);
    add(sums, false, false);
    if (exact) add(small, false, true);
  }
}

// Leaves this block's sums; in the last block of the tile, sums become those of all, and the result is true.
__device__ bool join(const TiledGemm& w, int tile, int split_of, WarpSums& sums) {
  float4* const tile_sums = w.partial + int64_t{tile} * w.splits * (kRowTiles * kColumnTiles) * kTileThreads;
  const auto place = [&](int from, int i, int j) {
    return ((from * kRowTiles + i) * kColumnTiles + j) * kTileThreads + static_cast<int>(threadIdx.x);
  };
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      const float(&c)[4] = sums.values[i][j];
      tile_sums[place(split_of, i, j)] = make_float4(c[0], c[1], c[2], c[3]);
    }
  if (!arrive(&arrivals[tile], 1, w.splits)) return false;
  if (threadIdx.x == 0) arrivals[tile] = 0;
  sums = {};
#pragma unroll 4
  for (int from = 0; from < w.splits; ++from)
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        const float4 more = tile_sums[place(from, i, j)];
        float(&c)[4] = sums.values[i][j];
        c[0] += more.x, c[1] += more.y, c[2] += more.z, c[3] += more.w;
      }
  return true;
}

// What follows the product, for a warp's sums.
__device__ void finish(const TiledGemm& w, int64_t row, int64_t column, const WarpSums& sums) {
  const Gemm<float>& g = w.g;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t r = row + 16 * i + lane() / 4 + e / 2 * 8;
      if (r >= g.m) continue;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        const int64_t c = column + 8 * j + lane() % 4 * 2 + e % 2;
        if (c >= g.n) continue;
        float* const to = g.c + r * g.ldc + c;
        float sum = sums.values[i][j][e];
        if (w.own != 0) sum += w.own * *to;
        if (g.bias) sum += __ldg(g.bias + c);
        if (g.residual) sum += __ldg(g.residual + r * g.ldr + c);
        *to = g.relu && sum < 0 ? 0.0f : sum;
      }
    }
}

// along_a, along_b: whether op(A)'s rows and op(B)'s columns are stored together.
template <bool along_a, bool along_b>
__global__ void __launch_bounds__(kTileThreads) gemm_kernel(TiledGemm w) {
  using A = Slab<kTileRows, along_a>;
  using B = Slab<kTileColumns, along_b>;
  constexpr int kStage = A::kFloats + B::kFloats;
  const int tile = static_cast<int>(blockIdx.x) / w.splits, split_of = static_cast<int>(blockIdx.x) % w.splits;
  const int64_t row = int64_t{tile / w.column_tiles} * kTileRows,
                column = int64_t{tile % w.column_tiles} * kTileColumns;
  const int begin = w.slabs * split_of / w.splits, end = w.slabs * (split_of + 1) / w.splits;
  float* const ring = dynamic_shared<float>();
  const auto fetch = [&](int slab) {
    if (slab < end) {
      float* const to = ring + slab % kStages * kStage;
      A::fetch(to, w.g.a, w.g.lda, row, w.g.m, int64_t{slab} * kDepth, w.g.k);
      B::fetch(to + A::kFloats, w.g.b, w.g.ldb, column, w.g.n, int64_t{slab} * kDepth, w.g.k);
    }
    commit_copies();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(begin + s);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warp_row = warp / 2 * kWarpRows, warp_column = warp % 2 * kWarpColumns;
  WarpSums sums{}, small{};
  for (int slab = begin; slab < end; ++slab) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    fetch(slab + kStages - 1);  // into the stage before, which all have left
    const float* const stage = ring + slab % kStages * kStage;
    multiply<A, B>(stage + A::place(warp_row, 0), stage + A::kFloats + B::place(warp_column, 0),
                   w.g.precision == Precision::exact, sums, small);
  }
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& sum = sums.values[i][j][e];
        if (fabsf(sum) <= FLT_MAX) sum += small.values[i][j][e];  // else the low parts are infinity less infinity
      }
  if (w.splits > 1 && !join(w, tile, split_of, sums)) return;
  finish(w, row + warp_row, column + warp_column, sums);
}

bool in_fours(const float* x, int64_t ld, int64_t together) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && ld % 4 == 0 && together % 4 == 0;
}

template <bool along_a, bool along_b>
void run(const Context& context, const TiledGemm& w, int64_t blocks) {
  constexpr int64_t kFloats = Slab<kTileRows, along_a>::kFloats + Slab<kTileColumns, along_b>::kFloats;
  launch(context, gemm_kernel<along_a, along_b>, static_cast<unsigned>(blocks), kTileThreads,
         static_cast<size_t>(kStages * kFloats) * sizeof(float), w);
}

}  // namespace

bool tiled_gemm(const Context& context, const Gemm<float>& g, float own) {
  const int64_t column_tiles = (g.n + kTileColumns - 1) / kTileColumns;
  const int64_t tiles = (g.m + kTileRows - 1) / kTileRows * column_tiles;
  if (g.k < kLeastDepth || tiles > kMostTiles || g.m * g.n > kMostProducts / g.k || (g.trans_a && g.trans_b) ||
      !in_fours(g.a, g.lda, g.trans_a ? g.m : g.k) || !in_fours(g.b, g.ldb, g.trans_b ? g.k : g.n))
    return false;
  // As many blocks as multiprocessors, but each with enough to do for four stages.
  const int64_t slabs = (g.k + kDepth - 1) / kDepth, most = slabs / kStages < 1 ? 1 : slabs / kStages;
  const int64_t wanted = processors(context) / tiles < 1 ? 1 : processors(context) / tiles;
  const int64_t splits = wanted < most ? wanted : most;
  ScratchFrame frame(context);
  TiledGemm w{g, own, static_cast<int>(column_tiles), static_cast<int>(slabs), static_cast<int>(splits), nullptr};
  if (splits > 1) w.partial = frame.get<float4>(tiles * splits * kRowTiles * kColumnTiles * kTileThreads);
  const auto kernel = g.trans_a ? run<false, false> : g.trans_b ? run<true, true> : run<true, false>;
  kernel(context, w, tiles * splits);
  return true;
}

}  // namespace qinco::kernels::cuda
