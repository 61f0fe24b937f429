// The k smallest of each row: a heap of the best so far, behind a vector comparison with its worst.
#include "kernels/cpu/heap.h"
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

// The value that an element must be below to enter. Indices ascend, so an equal value never does.
float threshold(const float* row, const uint64_t* heap) {
  const float worst = row[index_of(heap[0])];
  return worst == worst ? worst : __builtin_inff();
}

// heap [k] becomes the k smallest keys of the row, ascending.
void select_row(int64_t cols, int64_t k, const float* row, uint64_t* heap) {
  for (int64_t j = 0; j < k; ++j) heap[j] = make_key(row[j], j);
  for (int64_t i = k / 2 - 1; i >= 0; --i) sift_down(heap, k, i, heap[i]);
  float limit = threshold(row, heap);
  for_lanes(k, cols, [&](int64_t j, auto lanes) {
    const Vec v = lanes.or_else(lanes.get(row + j), Vec(__builtin_inff()));
    for (uint32_t below = bits_of(v < Vec(limit)); below != 0; below &= below - 1) {
      const int64_t index = j + __builtin_ctz(below);
      if (!(row[index] < limit)) continue;  // the limit fell since the comparison
      sift_down(heap, k, 0, make_key(row[index], index));
      limit = threshold(row, heap);
    }
  });
  sort_heap(heap, k);
}

void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids, float* values) {
  if (k == 0) return;
  ScratchFrame frame(context);
  uint64_t* const heaps = frame.get<uint64_t>(context.threads * k);
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    uint64_t* const heap = heaps + worker * k;
    for (int64_t i = begin; i < end; ++i) {
      const float* const row = x + i * cols;
      select_row(cols, k, row, heap);
      for (int64_t j = 0; j < k; ++j) {
        ids[i * k + j] = static_cast<int32_t>(index_of(heap[j]));
        if (values) values[i * k + j] = row[index_of(heap[j])];
      }
    }
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_topk(Table<float>& t) {
  t.topk = topk;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
