// Nearest codeword: argmin over k of ||c_k||^2 - 2 <x, c_k> (||x||^2 is the same for every k), with the matrix
// product's register tile, which starts from the norms, and a running minimum per row in place of its store. A block of
// the codebook is packed once for all threads and stays in L2 while the rows pass by; n x K values never exist.
#include "kernels/cpu/distance.h"
#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/pack.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

#if defined(QINCO_CPU_avx512)
constexpr int64_t kBlockFloats = 192 << 10;  // of packed codewords: 768 KB
#else
constexpr int64_t kBlockFloats = 64 << 10;
#endif
constexpr int64_t kTaskPanels = 8;        // at most this many panels of rows per task
constexpr int64_t kTasks = 16;            // aim for at least this many tasks
constexpr int64_t kPackFloats = 1 << 14;  // floats packed per task

/// Codewords [first, first + count), packed.
struct Block {
  int64_t first, count, d;
  float* packed;  // panels of kTileCols codewords, times -2
  float* norms;   // their squared norms, +infinity beyond the codebook: never nearest
};

float infinity() {
  return __builtin_inff();
}

/// The smallest value seen so far by each lane of each row, and where. A lane sees ascending ids, so < keeps the
/// lowest.
template <int kRows>
struct Running {
  Vec value[kRows];
  IntVec id[kRows];
};

template <int kRows, int kVecs>
QINCO_INLINE void visit_tile(const Block& block, int64_t column, StridedRows x, Running<kRows>& best) {
  Vec value[kRows][kVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kVecs; ++v) {
    const Vec norm = load(block.norms + column + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) value[r][v] = norm;
  }
  const Columns<kVecs> codewords{block.packed + column * block.d, kVecs * kLanes, static_cast<int>(kLanes)};
  accumulate_onto(block.d, x, codewords, value);
  const IntVec first = lane_numbers() + IntVec(static_cast<int32_t>(block.first + column));
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Vec smallest = best.value[r];
    IntVec id = best.id[r];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      const Mask nearer = value[r][v] < smallest;
      smallest = min(value[r][v], smallest);
      id = select(nearer, first + IntVec(static_cast<int32_t>(v * kLanes)), id);
    }
    best.value[r] = smallest;
    best.id[r] = id;
  }
}

/// Lowers (value, id) to the smallest value of a row's lanes, of the lowest id among equals.
QINCO_INLINE void merge(Vec values, IntVec ids, float& value, int32_t& id) {
  const float smallest = horizontal_min(values);
  if (!(smallest < value) || smallest == -infinity()) return;  // -infinity: of an infinite x, which nothing is near to
  value = smallest;
  id = lowest_id(values == Vec(smallest), ids);
}

/// One panel of rows against a block of codewords.
template <int kRows>
__attribute__((noinline)) void sweep(const Block& block, int rows, StridedRows x, float* values, int32_t* ids) {
  if constexpr (kRows > 1)
    if (rows < kRows) return sweep<kRows - 1>(block, rows, x, values, ids);
  Running<kRows> best;
  for (int r = 0; r < kRows; ++r) best.value[r] = Vec(infinity()), best.id[r] = IntVec(0);
  for (int64_t column = 0; column < block.count; column += kTileCols) {
    if (panel_vecs(column, block.count) == kTileVecs)
      visit_tile<kRows, kTileVecs>(block, column, x, best);
    else
      visit_tile<kRows, 1>(block, column, x, best);
  }
  for (int r = 0; r < kRows; ++r) merge(best.value[r], best.id[r], values[r], ids[r]);
}

void pack_block(const Context& context, const Block& block, const float* c) {
  const int64_t grain = larger(1, kPackFloats / larger(1, block.d * kTileCols)) * kTileCols;
  const int64_t padded = blocks_of(block.count, kTileCols) * kTileCols;
  parallel_for(context, padded, grain, [&](int64_t begin, int64_t end, int) {
    const float* const codewords = c + (block.first + begin) * block.d;
    const int64_t count = smaller(end, block.count) - begin;
    float* const packed = block.packed + begin * block.d;
    pack_cols_transposed(count, block.d, codewords, block.d, packed);
    const int64_t columns = blocks_of(count, kLanes) * kLanes;  // a last panel may be of one vector
    for (int64_t j = 0; j < columns * block.d; ++j) packed[j] *= -2.0f;
    for (int64_t j = begin; j < end; ++j)
      block.norms[j] = j < block.count ? squared_norm(block.d, codewords + (j - begin) * block.d) : infinity();
  });
}

void nearest(const Context& context, int64_t n, int64_t d, int64_t K, const float* x, const float* c, int32_t* ids,
             float* distances) {
  if (n <= 0) return;
  const int64_t most = larger(1, kBlockFloats / larger(1, d) / kTileCols) * kTileCols;
  const int64_t size = smaller(most, blocks_of(K, kTileCols) * kTileCols);
  ScratchFrame frame(context);
  Block block{0, 0, d, frame.get<float>(size * d), frame.get<float>(size)};
  float* const values = distances ? distances : frame.get<float>(n);
  float* const copies = rows_alias(n, d) ? frame.get<float>(copied_rows_size(d) * context.threads) : nullptr;
  const int64_t panels = blocks_of(n, kTileRows);
  const int64_t grain = larger(1, smaller(kTaskPanels, panels / kTasks)) * kTileRows;
  for (; block.first < K; block.first += size) {
    block.count = smaller(size, K - block.first);
    pack_block(context, block, c);
    parallel_for(context, n, grain, [&](int64_t begin, int64_t end, int worker) {
      if (block.first == 0)
        for (int64_t i = begin; i < end; ++i) values[i] = infinity(), ids[i] = 0;
      for (int64_t i = begin; i < end; i += kTileRows) {
        const int rows = static_cast<int>(smaller(kTileRows, end - i));
        StridedRows panel{x + i * d, d, 1};
        if (copies) panel = copy_rows(rows, d, panel, copies + worker * copied_rows_size(d));
        sweep<kTileRows>(block, rows, panel, values + i, ids + i);
      }
      if (!distances || block.first + block.count < K) return;
      // The direct form has none of the cancellation that the search's form has for near codewords.
      for (int64_t i = begin; i < end; ++i)
        if (values[i] < infinity()) distances[i] = squared_distance(d, x + i * d, c + ids[i] * d);
    });
  }
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_nearest(Table<float>& t) {
  t.nearest = nearest;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
