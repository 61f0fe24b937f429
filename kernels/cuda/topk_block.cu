// The k smallest of each row in float, a block for each: the row is read once, the best so far are in shared memory
// (block_select.cuh). Floor: the bytes of the rows.
#include "kernels/cuda/block_select.cuh"
#include "kernels/cuda/float_kernels.h"

namespace qinco::kernels::cuda {

namespace {

// Rows of x, each behind the `held` best of the pieces of it before, if any.
struct TopkWork {
  int64_t cols, held, k;
  const float* x;    // [rows,cols]
  int32_t first_id;  // of column 0
  int capacity;
  bool as_found;  // values are the elements themselves: NaN, and -0
  int32_t* ids;   // [rows,k]
  float* values;  // [rows,k], or null
};

// Offers the row's elements by their places: first those held, then x.
__device__ void offer_row(const TopkWork& w, const float* x, const float* held, BlockSelect<>& best) {
  const int64_t size = w.held + w.cols;
  for (int64_t round = 0; round < size; round += kRound) {
    float values[kRound / kBlock];
#pragma unroll
    for (int j = 0; j < kRound / kBlock; ++j) {
      const int64_t place = round + j * kBlock + threadIdx.x;
      values[j] = place >= size ? 0.0f : place < w.held ? held[place] : __ldg(x + place - w.held);
    }
#pragma unroll
    for (int j = 0; j < kRound / kBlock; ++j) {
      const int64_t place = round + j * kBlock + threadIdx.x;
      const float value = values[j] == values[j] ? values[j] : INFINITY;
      best.offer(place < size, value, static_cast<uint32_t>(place));
    }
    best.end_round();
  }
}

__global__ void __launch_bounds__(kBlock) topk_kernel(TopkWork w) {
  __shared__ BlockSelect<>::State state;
  Key* const keys = dynamic_shared<Key>();
  const int64_t row = blockIdx.x;
  const float* const x = w.x + row * w.cols;
  int32_t* const ids = w.ids + row * w.k;
  float* const values = w.values ? w.values + row * w.k : nullptr;
  BlockSelect<> best(keys, &state, w.capacity, static_cast<int>(w.k));
  offer_row(w, x, values, best);
  best.finish_sorted();
  const int64_t all = w.held + w.cols;
  const int kept = static_cast<int>(all < w.k ? all : w.k);
  // Places become ids before any is written, as those held are read where they are written.
  for (int i = threadIdx.x; i < kept; i += kBlock) {
    const uint32_t place = index_of(keys[i]);
    const int32_t id = place < w.held ? ids[place] : static_cast<int32_t>(w.first_id + (place - w.held));
    keys[i] = keys[i] >> 32 << 32 | static_cast<uint32_t>(id);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kept; i += kBlock) {
    const uint32_t id = index_of(keys[i]);
    ids[i] = static_cast<int32_t>(id);
    if (values) values[i] = w.as_found ? x[id] : value_of(keys[i]);
  }
}

void run(const Context& context, int64_t rows, TopkWork w) {
  constexpr int64_t kMostRows = int64_t{1} << 30;  // of a grid
  w.capacity = select_capacity(w.k);
  for (int64_t begin = 0; begin < rows; begin += kMostRows) {
    TopkWork part = w;
    part.x += begin * w.cols, part.ids += begin * w.k;
    if (part.values) part.values += begin * w.k;
    launch(context, topk_kernel, static_cast<unsigned>(rows - begin < kMostRows ? rows - begin : kMostRows), kBlock,
           static_cast<size_t>(w.capacity) * sizeof(Key), part);
  }
}

}  // namespace

void block_topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids,
                float* values) {
  run(context, rows, {cols, 0, k, x, 0, 0, true, ids, values});
}

void block_topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const float* x,
                      int32_t first_id, int32_t* ids, float* values) {
  run(context, rows, {cols, held, k, x, first_id, 0, false, ids, values});
}

}  // namespace qinco::kernels::cuda
