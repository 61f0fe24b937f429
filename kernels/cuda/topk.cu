// The k smallest of each row. In float a block takes a row (topk_block.cu). In double, and where rows are few and long
// or k is large, all elements are sorted by value and then, stably, by row: any number of rows of any length keeps the
// device busy. In groups of rows, so that scratch memory is bounded.
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kGroupElements = int64_t{1} << 24;

/// Rows of a matrix, each behind the `held` best of the pieces of it before, if any: those are the first of k.
template <class T>
struct Rows {
  int64_t cols, held, k;
  const T *x, *best;

  __host__ __device__ int64_t width() const { return held + cols; }
  __device__ T at(Place p) const { return p.col < held ? best[p.row * k + p.col] : x[p.row * cols + p.col - held]; }
};

// NaN counts as infinity, and -0 as 0.
template <class T>
__device__ T key_of(T value) {
  return value == value ? value + T(0) : kInfinity<T>;
}

template <class T>
__global__ void keys_kernel(int64_t n, Rows<T> rows, T* keys, int32_t* places) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads()) {
    keys[e] = key_of(rows.at(place(e, rows.width())));
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

// The same of rows behind their best so far: found_ids, found_values [rows,kept].
template <class T>
__global__ void first_kept_kernel(int64_t count, int64_t kept, const int32_t* places, Rows<T> rows, int32_t first_id,
                                  const int32_t* ids, int32_t* found_ids, T* found_values) {
  for (int64_t e = grid_thread(); e < count * kept; e += grid_threads()) {
    const Place at = place(e, kept);
    const int64_t col = places[at.row * rows.width() + at.col] - at.row * rows.width();
    found_ids[e] = col < rows.held ? ids[at.row * rows.k + col] : static_cast<int32_t>(first_id + col - rows.held);
    found_values[e] = key_of(rows.at({at.row, col}));
  }
}

template <class T>
__global__ void keep_kernel(int64_t count, int64_t kept, int64_t k, const int32_t* found_ids, const T* found_values,
                            int32_t* ids, T* values) {
  for (int64_t e = grid_thread(); e < count * kept; e += grid_threads()) {
    const Place at = place(e, kept);
    ids[at.row * k + at.col] = found_ids[e];
    values[at.row * k + at.col] = found_values[e];
  }
}

// The elements of `count` rows in order, row by row: sorted [count,width] are their places in that matrix.
template <class T>
void sort_rows(const Context& context, int64_t count, const Rows<T>& rows, int32_t* sorted) {
  const int64_t n = count * rows.width();
  ScratchFrame frame(context);
  T *const keys = frame.get<T>(n), *const sorted_keys = frame.get<T>(n);
  uint32_t *const row_keys = frame.get<uint32_t>(n), *const sorted_rows = frame.get<uint32_t>(n);
  int32_t* const by_value = frame.get<int32_t>(n);
  launch(context, keys_kernel<T>, blocks_for(n), kBlock, 0, n, rows, keys, sorted);
  sort_pairs(context, n, keys, sorted, sorted_keys, by_value);
  launch(context, rows_of_kernel, blocks_for(n), kBlock, 0, n, rows.width(), by_value, row_keys);
  sort_pairs(context, n, row_keys, by_value, sorted_rows, sorted, bits_for(count));
}

// Calls body(begin, count, room for the places of those rows) for groups of rows that bound scratch memory.
template <class Body>
void for_groups(const Context& context, int64_t rows, int64_t width, Body&& body) {
  const int64_t group = width < kGroupElements ? kGroupElements / width : 1;
  for (int64_t begin = 0; begin < rows; begin += group) {
    const int64_t count = rows - begin < group ? rows - begin : group;
    ScratchFrame frame(context);
    body(begin, count, frame.get<int32_t>(count * width));
  }
}

template <class T>
void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) {
  if (k == 0) return;
  for_groups(context, rows, cols, [&](int64_t begin, int64_t count, int32_t* places) {
    const T* const from = x + begin * cols;
    sort_rows(context, count, Rows<T>{cols, 0, k, from, nullptr}, places);
    launch(context, first_k_kernel<T>, blocks_for(count * k), kBlock, 0, count, cols, k, places, from, ids + begin * k,
           values ? values + begin * k : nullptr);
  });
}

template <class T>
void topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const T* x,
                int32_t first_id, int32_t* ids, T* values) {
  if (k == 0 || cols == 0) return;
  const int64_t kept = held + cols < k ? held + cols : k;
  for_groups(context, rows, held + cols, [&](int64_t begin, int64_t count, int32_t* places) {
    ScratchFrame frame(context);
    int32_t *const all_ids = ids + begin * k, *const found_ids = frame.get<int32_t>(count * kept);
    T *const all_values = values + begin * k, *const found_values = frame.get<T>(count * kept);
    const Rows<T> all{cols, held, k, x + begin * cols, all_values};
    sort_rows(context, count, all, places);
    launch(context, first_kept_kernel<T>, blocks_for(count * kept), kBlock, 0, count, kept, places, all, first_id,
           all_ids, found_ids, found_values);
    launch(context, keep_kernel<T>, blocks_for(count * kept), kBlock, 0, count, kept, k, found_ids, found_values,
           all_ids, all_values);
  });
}

// A block for each row: where k fits, and rows are enough to keep a device busy, or short.
bool by_blocks(int64_t rows, int64_t cols, int64_t k) {
  constexpr int64_t kFewRows = 64, kShortRow = int64_t{1} << 16;
  return k <= kLargestBlockK && (rows >= kFewRows || cols <= kShortRow);
}

void float_topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids,
                float* values) {
  if (k == 0 || rows == 0) return;
  (by_blocks(rows, cols, k) ? block_topk : topk<float>)(context, rows, cols, k, x, ids, values);
}

void float_topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const float* x,
                      int32_t first_id, int32_t* ids, float* values) {
  if (k == 0 || cols == 0 || rows == 0) return;
  (by_blocks(rows, cols, k) ? block_topk_merge : topk_merge<float>)(context, rows, cols, k, held, x, first_id, ids,
                                                                    values);
}

}  // namespace

template <>
void fill_topk(Table<float>& t) {
  t.topk = float_topk;
  t.topk_merge = float_topk_merge;
}

template <>
void fill_topk(Table<double>& t) {
  t.topk = topk<double>;
  t.topk_merge = topk_merge<double>;
}

}  // namespace qinco::kernels::cuda
