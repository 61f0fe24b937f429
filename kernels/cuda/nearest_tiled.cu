// Nearest codeword in float: the tile of a matrix product, which instead of being stored goes into a running minimum of
// ||c||^2 - 2 <x,c>. Never n x K values in memory.
//
// The product is the tensor cores', of floats split into two TF32 numbers each: three products for one, with sums in
// float (mma.cuh). A block takes 128 rows of x against 128 codewords at a time, a warp 32 x 64 of that. 16 columns of
// both come to shared memory by cp.async, three stages in turn, as two slabs [row][8]: the order of columns within a
// product is free, so a lane reads two neighbouring ones by one load of 8 bytes, and half a warp 128 bytes in a row. A
// number is split when it has been read: that costs 5 clocks of the integer and float units, and a warp does 24 numbers
// for 48 products, each of which takes the tensor core 4 clocks (sm_90, of which mma.sync reaches some 60%) to 8
// (sm_80). So the tensor cores are the limit: of an H100's 494 TFLOP/s some 60%, a third of it for three products:
// about 100.
//
// As many blocks as there is room for go through all pairs of 128 rows and 128 codewords, each through its share, which
// may begin and end in the middle of the codewords of some rows. They meet in atomicMin on (score, k). Who adds the
// last codewords of 128 rows computes their distances from the differences, without the cancellation of the expanded
// form.
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/keys.cuh"
#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int kTile = 128, kStep = 16, kStages = 3, kBlocksPerProcessor = 2;
constexpr int kColumns = 8;                       // of a slab, which is one product's
constexpr int kSlab = kTile * kColumns + 16;      // apart by half the banks: cp.async writes to both at a time
constexpr int kPiece = kStep / kColumns * kSlab;  // floats of a stage, of each matrix
constexpr size_t kRingBytes = size_t{kStages} * 2 * kPiece * sizeof(float);
constexpr int kWarpRows = 32, kWarpCodes = 64;  // 4 x 2 warps

struct Operands {
  int64_t n;
  int d, K;
  const float *x, *c;

  __host__ __device__ int tiles() const { return (K + kTile - 1) / kTile; }
  __host__ __device__ int64_t row_blocks() const { return (n + kTile - 1) / kTile; }
  __device__ int rows_of(int row_block) const {
    const int64_t left = n - int64_t{row_block} * kTile;
    return left < kTile ? static_cast<int>(left) : kTile;
  }
};

struct Results {
  Key* keys;           // [n], of the least score so far
  uint32_t* arrivals;  // [row blocks]: tiles of codewords whose scores are in the keys
  int32_t* ids;
  float* distances;  // or null
};

// A pair of 128 rows and 128 codewords; pairs of the same rows follow each other.
struct Pair {
  int row_block, tile;

  __device__ void advance(int tiles) {
    if (++tile == tiles) tile = 0, ++row_block;
  }
};

// Brings a block's pairs to shared memory, 16 columns after the other. kVector: rows begin at multiples of 16 bytes.
template <bool kVector>
class Feed {
 public:
  __device__ Feed(const Operands& operands, float* ring, const Pair& first, int pairs)
      : operands_(operands), ring_(ring), pair_(first), left_(operands.d > 0 ? pairs : 0) {
    for (int s = 0; s < kStages - 1; ++s) fetch(s);
  }

  // The next stage, x's piece before c's, until the call after the next. A barrier.
  __device__ const float* take() {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    fetch(stage_ == 0 ? kStages - 1 : stage_ - 1);  // the stage before, which all have left
    const float* const stage = ring_ + stage_ * 2 * kPiece;
    stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    return stage;
  }

 private:
  __device__ void fetch(int stage) {
    if (left_ > 0) {
      float* const to = ring_ + stage * 2 * kPiece;
      const int64_t d = operands_.d;
      fetch_piece(to, operands_.x + int64_t{pair_.row_block} * kTile * d, operands_.rows_of(pair_.row_block));
      fetch_piece(to + kPiece, operands_.c + int64_t{pair_.tile} * kTile * d, operands_.K - pair_.tile * kTile);
      column_ += kStep;
      if (column_ >= operands_.d) {
        column_ = 0;
        --left_;
        pair_.advance(operands_.tiles());
      }
    }
    commit_copies();
  }

  // from: the first of 128 rows, of which `rows` exist
  __device__ void fetch_piece(float* to, const float* from, int rows) const {
    constexpr int kWidth = kVector ? 4 : 1, kPerRow = kStep / kWidth, kRows = kBlock / kPerRow;
    const int place = static_cast<int>(threadIdx.x) % kPerRow * kWidth, row = static_cast<int>(threadIdx.x) / kPerRow;
    const int column = column_ + place;
    to += place / kColumns * kSlab + place % kColumns + row * kColumns;
#pragma unroll
    for (int i = 0; i < kTile; i += kRows)
      copy_async_or_zero<kWidth * 4>(to + i * kColumns, from + (int64_t{row + i} * operands_.d + column),
                                     row + i < rows && column < operands_.d);
  }

  const Operands& operands_;
  float* ring_;
  Pair pair_;
  int left_;  // pairs of which not all is on its way yet
  int column_ = 0, stage_ = 0;
};

// One warp's share of a tile of products: sum[m][j] is the fragment of rows 16 m and codewords 8 j.
struct Sums {
  static constexpr int kRowTiles = kWarpRows / 16, kCodeTiles = kWarpCodes / 8;
  float values[kRowTiles][kCodeTiles][4];
};

// Two values of a lane, its operands k = t and k = t + 4 of a product.
struct SplitTwo {
  SplitTf32 low_k, high_k;
};
__device__ inline SplitTwo split_two(const float* from) {
  const float2 two = *reinterpret_cast<const float2*>(from);
  return {split_tf32(two.x), split_tf32(two.y)};
}

// Adds the products over a slab's columns. x, c: the two values of this lane in its first row and codeword. Small
// products first; the same sum comes again after three others, which hide the latency of a product.
__device__ inline void multiply(const float* x, const float* c, Sums& sums) {
  constexpr int kTogether = 2;
  uint32_t high[Sums::kRowTiles][4], low[Sums::kRowTiles][4];
#pragma unroll
  for (int i = 0; i < 2 * Sums::kRowTiles; ++i) {
    const SplitTwo a = split_two(x + i * 8 * kColumns);
    high[i / 2][i % 2] = a.low_k.high, high[i / 2][i % 2 + 2] = a.high_k.high;
    low[i / 2][i % 2] = a.low_k.low, low[i / 2][i % 2 + 2] = a.high_k.low;
  }
#pragma unroll
  for (int j = 0; j < Sums::kCodeTiles; j += kTogether) {
    SplitTwo b[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) b[i] = split_two(c + (j + i) * 8 * kColumns);
#pragma unroll
    for (int product = 0; product < 3; ++product)
#pragma unroll
      for (int i = 0; i < kTogether; ++i)
#pragma unroll
        for (int m = 0; m < Sums::kRowTiles; ++m)
          mma_tf32(sums.values[m][j + i], product == 0 ? low[m] : high[m],
                   product == 1 ? b[i].low_k.low : b[i].low_k.high, product == 1 ? b[i].high_k.low : b[i].high_k.high);
  }
}

// The least scores of this lane's rows: 8 i + g of the warp's.
class Best {
 public:
  __device__ Best() { clear(); }
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) scores_[i] = INFINITY, ids_[i] = 0;
  }

  // first: this lane's first codeword. They come in ascending order, so that the lowest of equals stays.
  __device__ void take(const Sums& sums, const float* norms, int first) {
#pragma unroll
    for (int j = 0; j < Sums::kCodeTiles; ++j) {
      const float2 two = __ldg(reinterpret_cast<const float2*>(norms + first + 8 * j));
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        take(i, two.x - 2 * sums.values[i / 2][j][i % 2 * 2], first + 8 * j);
        take(i, two.y - 2 * sums.values[i / 2][j][i % 2 * 2 + 1], first + 8 * j + 1);
      }
    }
  }

  // keys: of the warp's rows, of which `rows` exist.
  __device__ void give(Key* keys, int rows) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      Key key = scores_[i] < INFINITY ? make_key(scores_[i], static_cast<uint32_t>(ids_[i])) : kNoKey;
      for (int bits = 2; bits > 0; bits /= 2) key = Minimum{}(key, __shfl_xor_sync(kFullMask, key, bits));
      const int row = 8 * i + lane() / 4;
      if (lane() % 4 == 0 && row < rows) atomicMin(keys + row, key);
    }
  }

 private:
  static constexpr int kRows = kWarpRows / 8;

  __device__ void take(int i, float score, int id) {  // only finite scores count
    if (score < scores_[i] && score > -INFINITY) scores_[i] = score, ids_[i] = id;
  }

  float scores_[kRows];
  int ids_[kRows];
};

// The results of 128 rows, whose keys are final: 8 lanes per row.
template <bool kVector>
__device__ void finish(const Operands& o, int row_block, const Results& results) {
  constexpr int kLanes = 8;
  for (int i = static_cast<int>(threadIdx.x) / kLanes; i < kTile; i += kBlock / kLanes) {
    const int64_t row = int64_t{row_block} * kTile + i;
    // other blocks' atomics are in L2, where volatile looks
    const Key key = row < o.n ? *static_cast<const volatile Key*>(results.keys + row) : kNoKey;
    const bool found = key != kNoKey;
    const int64_t k = found ? index_of(key) : 0;
    float sum = 0;
    if (found && results.distances) {
#pragma unroll 4
      for (int column = lane() % kLanes * 4; column < o.d; column += kLanes * 4) {
        const float4 x = load_four<kVector>(o.x + row * o.d + column, o.d - column);
        const float4 c = load_four<kVector>(o.c + k * o.d + column, o.d - column);
        const float differences[4] = {x.x - c.x, x.y - c.y, x.z - c.z, x.w - c.w};
        for (const float difference : differences) sum += difference * difference;
      }
    }
    for (int bits = kLanes / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(kFullMask, sum, bits);
    if (lane() % kLanes > 0 || row >= o.n) continue;
    results.ids[row] = static_cast<int32_t>(k);
    if (results.distances) results.distances[row] = found ? sum : INFINITY;
  }
}

// norms [K rounded up to tiles]: infinity beyond K.
template <bool kVector>
__global__ void __launch_bounds__(kBlock, kBlocksPerProcessor)
    nearest_kernel(Operands operands, const float* norms, Results results) {
  const int tiles = operands.tiles();
  const int64_t all = operands.row_blocks() * tiles;
  const int64_t begin = all * blockIdx.x / gridDim.x, end = all * (int64_t{blockIdx.x} + 1) / gridDim.x;
  Pair pair{static_cast<int>(begin / tiles), static_cast<int>(begin % tiles)};
  Feed<kVector> feed(operands, dynamic_shared<float>(), pair, static_cast<int>(end - begin));
  const int warp = static_cast<int>(threadIdx.x) / kWarp, g = lane() / 4, t = lane() % 4;
  const int row = warp / 2 * kWarpRows, code = warp % 2 * kWarpCodes;  // the warp's first
  const int my_x = (row + g) * kColumns + 2 * t, my_c = kPiece + (code + g) * kColumns + 2 * t;
  Best best;
  int done = 0;  // tiles of these rows
  for (int left = static_cast<int>(end - begin); left > 0; --left) {
    Sums sums{};
    for (int column = 0; column < operands.d; column += kStep) {
      const float* const stage = feed.take();
#pragma unroll
      for (int slab = 0; slab < kPiece; slab += kSlab) multiply(stage + slab + my_x, stage + slab + my_c, sums);
    }
    best.take(sums, norms, pair.tile * kTile + code + 2 * t);
    ++done;
    if (pair.tile + 1 == tiles || left == 1) {
      best.give(results.keys + int64_t{pair.row_block} * kTile + row, operands.rows_of(pair.row_block) - row);
      if (arrive(results.arrivals + pair.row_block, done, tiles)) finish<kVector>(operands, pair.row_block, results);
      best.clear();
      done = 0;
    }
    pair.advance(tiles);
  }
}

// norms, and keys and arrivals of nothing yet.
__global__ void __launch_bounds__(kBlock) prepare_kernel(Operands o, float* norms, Results results) {
  for (int64_t k = grid_warp(); k < int64_t{o.tiles()} * kTile; k += grid_warps()) {
    float squares = k < o.K ? 0 : INFINITY;
    for (int64_t j = lane(); k < o.K && j < o.d; j += kWarp) squares += o.c[k * o.d + j] * o.c[k * o.d + j];
    squares = warp_sum(squares);
    if (lane() == 0) norms[k] = squares;
  }
  for (int64_t i = grid_thread(); i < o.n; i += grid_threads()) results.keys[i] = kNoKey;
  for (int64_t i = grid_thread(); i < o.row_blocks(); i += grid_threads()) results.arrivals[i] = 0;
}

}  // namespace

void tiled_nearest(const Context& context, int64_t n, int64_t d, int64_t K, const float* x, const float* c,
                   int32_t* ids, float* distances) {
  if (n <= 0) return;
  const Operands operands{n, static_cast<int>(d), static_cast<int>(K), x, c};
  const int64_t codes = int64_t{operands.tiles()} * kTile, pairs = operands.row_blocks() * operands.tiles();
  ScratchFrame frame(context);
  float* const norms = frame.get<float>(codes);
  const Results results{frame.get<Key>(n), frame.get<uint32_t>(operands.row_blocks()), ids, distances};
  const int64_t threads = n > codes * kWarp ? n : codes * kWarp, room = kBlocksPerProcessor * processors(context);
  const bool vector = d % 4 == 0 && (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(c)) % 16 == 0;
  launch(context, prepare_kernel, blocks_for(threads), kBlock, 0, operands, norms, results);
  launch(context, vector ? nearest_kernel<true> : nearest_kernel<false>,
         static_cast<unsigned>(pairs < room ? pairs : room), kBlock, kRingBytes, operands, norms, results);
}

}  // namespace qinco::kernels::cuda
