// Reductions, accumulated in double in an order that the sizes alone decide: lanes of a warp or threads of a block add
// their own elements, then each other's sums in a fixed tree. Sums over many rows have two stages, with partial sums in
// scratch memory.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kMaxPartials = 1024;

template <class T>
struct Element {
  const T* x;
  __device__ double operator()(int64_t i) const { return static_cast<double>(x[i]); }
};

template <class T>
struct SquaredDifference {
  const T *a, *b;
  __device__ double operator()(int64_t i) const {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    return difference * difference;
  }
};

// partial[block] = the sum of the block's share of value(0..n-1)
template <class Value>
__global__ void partial_sum_kernel(int64_t n, Value value, double* partial) {
  double total = 0;
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) total += value(i);
  total = block_sum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <class Value>
double total_on_host(const Context& context, int64_t n, Value value) {
  if (n == 0) return 0;
  constexpr int64_t kPerBlock = kBlock * 16;
  const int64_t wanted = (n + kPerBlock - 1) / kPerBlock, blocks = wanted < kMaxPartials ? wanted : kMaxPartials;
  ScratchFrame frame(context);
  double* const partial = frame.get<double>(blocks + 1);
  launch(context, partial_sum_kernel<Value>, static_cast<unsigned>(blocks), kBlock, 0, n, value, partial);
  launch(context, partial_sum_kernel<Element<double>>, 1, kBlock, 0, blocks, Element<double>{partial},
         partial + blocks);
  double total = 0;
  copy_bytes({}, &total, context.device, partial + blocks, sizeof total);
  return total;
}

template <class T>
double sum(const Context& context, int64_t n, const T* x) {
  return total_on_host(context, n, Element<T>{x});
}

template <class T>
double sum_squared_difference(const Context& context, int64_t n, const T* a, const T* b) {
  return total_on_host(context, n, SquaredDifference<T>{a, b});
}

// The terms of a row's sum: of element j, x.
struct Value {
  __device__ double operator()(int64_t, double x) const { return x; }
};

struct Square {
  __device__ double operator()(int64_t, double x) const { return x * x; }
};

template <class T>
struct SquaredDistanceTo {
  const T* y;
  __device__ double operator()(int64_t j, double x) const {
    const double difference = x - static_cast<double>(y[j]);
    return difference * difference;
  }
};

// A warp per row.
template <class T, class Term>
__global__ void sum_rows_kernel(int64_t rows, int64_t cols, const T* x, Term term, T* out) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    double total = 0;
    for (int64_t j = lane(); j < cols; j += kWarp) total += term(j, static_cast<double>(x[i * cols + j]));
    total = warp_sum(total);
    if (lane() == 0) out[i] = static_cast<T>(total);
  }
}

template <class T, class Term>
void sum_rows(const Context& context, int64_t rows, int64_t cols, const T* x, Term term, T* out) {
  launch(context, sum_rows_kernel<T, Term>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, term, out);
}

template <class T>
void row_sum(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  sum_rows(context, rows, cols, x, Value{}, out);
}

template <class T>
void row_squared_norm(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  sum_rows(context, rows, cols, x, Square{}, out);
}

template <class T>
void row_squared_distance(const Context& context, int64_t rows, int64_t cols, const T* x, const T* y, T* out) {
  sum_rows(context, rows, cols, x, SquaredDistanceTo<T>{y}, out);
}

template <class T>
void column_sum(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  column_sums<1>(context, rows, cols, ColumnElement<T>{x, cols}, ColumnOutputs<T, 1>{{out}});
}

// A warp per row. Of equal values the lowest column wins; infinity too, unless all are NaN.
template <class T>
__global__ void row_argmin_kernel(int64_t rows, int64_t cols, const T* x, int32_t* ids) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    Least<T> least;
    for (int64_t j = lane(); j < cols; j += kWarp) least.take(x[i * cols + j], static_cast<int32_t>(j));
    least = warp_least(least);
    if (lane() == 0) ids[i] = least.found() ? least.id : 0;
  }
}

template <class T>
void row_argmin(const Context& context, int64_t rows, int64_t cols, const T* x, int32_t* ids) {
  launch(context, row_argmin_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, ids);
}

}  // namespace

template <class T>
void fill_reduce(Table<T>& t) {
  t.sum = sum<T>;
  t.sum_squared_difference = sum_squared_difference<T>;
  t.row_sum = row_sum<T>;
  t.column_sum = column_sum<T>;
  t.row_squared_norm = row_squared_norm<T>;
  t.row_squared_distance = row_squared_distance<T>;
  t.row_argmin = row_argmin<T>;
}
template void fill_reduce(Table<float>&);
template void fill_reduce(Table<double>&);

}  // namespace qinco::kernels::cuda
