// The k smallest of each row: a heap of the best so far, behind a vector comparison with its worst.
#include "kernels/cpu/heap.h"
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

void make_heap(uint64_t* heap, int64_t k) {
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, k, i, heap[i]);
}

// Columns [begin, cols) of a row enter the heap [k] of the best so far as ids first_id + column, all above those in it:
// an equal value never enters. True where one did.
bool enter(int64_t begin, int64_t cols, int64_t k, const float* row, int64_t first_id, uint64_t* heap) {
  const uint64_t worst = heap[0];
  float limit = value_of(worst);
  for_lanes(begin, cols, [&](int64_t j, auto lanes) {
    const Vec v = lanes.or_else(lanes.get(row + j), Vec(__builtin_inff()));
    for (uint32_t below = bits_of(v < Vec(limit)); below != 0; below &= below - 1) {
      const int64_t column = j + __builtin_ctz(below);
      if (!(row[column] < limit)) continue;  // the limit fell since the comparison
      sift_down(heap, k, 0, make_key(row[column], first_id + column));
      limit = value_of(heap[0]);
    }
  });
  return heap[0] != worst;
}

void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids, float* values) {
  if (k == 0) return;
  ScratchFrame frame(context);
  uint64_t* const heaps = frame.get<uint64_t>(context.threads * k);
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    uint64_t* const heap = heaps + worker * k;
    for (int64_t i = begin; i < end; ++i) {
      const float* const row = x + i * cols;
      for (int64_t j = 0; j < k; ++j) heap[j] = make_key(row[j], j);
      make_heap(heap, k);
      enter(k, cols, k, row, 0, heap);
      sort_heap(heap, k);
      for (int64_t j = 0; j < k; ++j) {
        ids[i * k + j] = static_cast<int32_t>(index_of(heap[j]));
        if (values) values[i * k + j] = row[index_of(heap[j])];
      }
    }
  });
}

void topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const float* x,
                int32_t first_id, int32_t* ids, float* values) {
  if (k == 0 || cols == 0) return;
  ScratchFrame frame(context);
  uint64_t* const heaps = frame.get<uint64_t>(context.threads * k);
  const int64_t added = k - held < cols ? k - held : cols, size = held + added;
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    uint64_t* const heap = heaps + worker * k;
    for (int64_t i = begin; i < end; ++i) {
      const float* const row = x + i * cols;
      int32_t* const row_ids = ids + i * k;
      float* const row_values = values + i * k;
      // From the worst to the best: a heap already, while nothing is added.
      for (int64_t j = 0; j < held; ++j) heap[j] = make_key(row_values[held - 1 - j], row_ids[held - 1 - j]);
      for (int64_t j = 0; j < added; ++j) heap[held + j] = make_key(row[j], first_id + j);
      if (added > 0) make_heap(heap, size);
      if (!enter(added, cols, size, row, first_id, heap) && added == 0) continue;
      sort_heap(heap, size);
      for (int64_t j = 0; j < size; ++j) {
        row_ids[j] = static_cast<int32_t>(index_of(heap[j]));
        row_values[j] = value_of(heap[j]);
      }
    }
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_topk(Table<float>& t) {
  t.topk = topk;
  t.topk_merge = topk_merge;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
