// The k smallest of each row, by sorting all elements by value and then, stably, by row: any number of rows of any
// length keeps the device busy. In groups of rows, so that scratch memory is bounded.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kGroupElements = int64_t{1} << 24;

// NaN counts as infinity, and -0 as 0.
template <class T>
__global__ void keys_kernel(int64_t n, const T* x, T* keys, int32_t* places) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads()) {
    keys[e] = x[e] == x[e] ? x[e] + T(0) : kInfinity<T>;
    places[e] = static_cast<int32_t>(e);
  }
}

__global__ void rows_of_kernel(int64_t n, int64_t cols, const int32_t* places, uint32_t* rows) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads())
    rows[e] = static_cast<uint32_t>(place(places[e], cols).row);
}

template <class T>
__global__ void first_k_kernel(int64_t rows, int64_t cols, int64_t k, const int32_t* places, const T* x, int32_t* ids,
                               T* values) {
  for (int64_t e = grid_thread(); e < rows * k; e += grid_threads()) {
    const Place at = place(e, k);
    const int32_t from = places[at.row * cols + at.col];
    ids[e] = static_cast<int32_t>(from - at.row * cols);
    if (values) values[e] = x[from];
  }
}

template <class T>
void group_topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) {
  const int64_t n = rows * cols;
  ScratchFrame frame(context);
  T *const keys = frame.get<T>(n), *const sorted_keys = frame.get<T>(n);
  uint32_t *const row_keys = frame.get<uint32_t>(n), *const sorted_rows = frame.get<uint32_t>(n);
  int32_t *const places = frame.get<int32_t>(n), *const by_value = frame.get<int32_t>(n);
  launch(context, keys_kernel<T>, blocks_for(n), kBlock, 0, n, x, keys, places);
  sort_pairs(context, n, keys, places, sorted_keys, by_value);
  launch(context, rows_of_kernel, blocks_for(n), kBlock, 0, n, cols, by_value, row_keys);
  sort_pairs(context, n, row_keys, by_value, sorted_rows, places, bits_for(rows));
  launch(context, first_k_kernel<T>, blocks_for(rows * k), kBlock, 0, rows, cols, k, places, x, ids, values);
}

template <class T>
void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) {
  if (k == 0) return;
  const int64_t group = cols < kGroupElements ? kGroupElements / cols : 1;
  for (int64_t begin = 0; begin < rows; begin += group) {
    const int64_t count = rows - begin < group ? rows - begin : group;
    group_topk(context, count, cols, k, x + begin * cols, ids + begin * k, values ? values + begin * k : nullptr);
  }
}

}  // namespace

template <class T>
void fill_topk(Table<T>& t) {
  t.topk = topk<T>;
}
template void fill_topk(Table<float>&);
template void fill_topk(Table<double>&);

}  // namespace qinco::kernels::cuda
