// Softmax and its relatives: a warp per row, exponentials in T, sums in double.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

// The largest element of a row; a NaN that comes first stays, as in the reference: then the row's results are NaN.
template <class T>
__device__ T row_maximum(int64_t cols, const T* x) {
  T maximum = x[0];
  for (int64_t j = lane(); j < cols; j += kWarp) maximum = Maximum{}(maximum, x[j]);
  return warp_fold(maximum, Maximum{});
}

// sum_j exp(x[j] - shift)
template <class T>
__device__ double sum_of_exponentials(int64_t cols, const T* x, T shift) {
  double total = 0;
  for (int64_t j = lane(); j < cols; j += kWarp) total += static_cast<double>(std::exp(x[j] - shift));
  return warp_sum(total);
}

template <class T>
__global__ void log_sum_exp_kernel(int64_t rows, int64_t cols, const T* x, T* out) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    const T maximum = row_maximum(cols, x + i * cols), shift = std::isinf(maximum) ? T(0) : maximum;
    const double total = sum_of_exponentials(cols, x + i * cols, shift);
    if (lane() == 0) out[i] = static_cast<T>(static_cast<double>(shift) + std::log(total));
  }
}

template <class T>
void log_sum_exp(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  launch(context, log_sum_exp_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, out);
}

template <class T>
__global__ void softmax_kernel(int64_t rows, int64_t cols, const T* x, T* y) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    const T shift = row_maximum(cols, x + i * cols);
    const T total = static_cast<T>(sum_of_exponentials(cols, x + i * cols, shift));
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp) y[j] = std::exp(x[j] - shift) / total;
  }
}

template <class T>
void softmax(const Context& context, int64_t rows, int64_t cols, const T* x, T* y) {
  launch(context, softmax_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, y);
}

template <class T>
__global__ void log_softmax_kernel(int64_t rows, int64_t cols, const T* x, T* y) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    const T shift = row_maximum(cols, x + i * cols);
    const T log_total = static_cast<T>(std::log(sum_of_exponentials(cols, x + i * cols, shift)));
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp) y[j] = x[j] - shift - log_total;
  }
}

template <class T>
void log_softmax(const Context& context, int64_t rows, int64_t cols, const T* x, T* y) {
  launch(context, log_softmax_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, y);
}

template <class T>
__global__ void softmax_backward_kernel(int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    double dot = 0;
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp)
      dot += static_cast<double>(dy[j]) * static_cast<double>(y[j]);
    dot = warp_sum(dot);
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp)
      dx[j] = static_cast<T>(static_cast<double>(y[j]) * (static_cast<double>(dy[j]) - dot));
  }
}

template <class T>
void softmax_backward(const Context& context, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  launch(context, softmax_backward_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, y, dy, dx);
}

template <class T>
__global__ void log_softmax_backward_kernel(int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    double total = 0;
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp) total += static_cast<double>(dy[j]);
    total = warp_sum(total);
    for (int64_t j = i * cols + lane(); j < (i + 1) * cols; j += kWarp)
      dx[j] = static_cast<T>(static_cast<double>(dy[j]) - static_cast<double>(std::exp(y[j])) * total);
  }
}

template <class T>
void log_softmax_backward(const Context& context, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  launch(context, log_softmax_backward_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, y, dy, dx);
}

}  // namespace

template <class T>
void fill_softmax(Table<T>& t) {
  t.log_sum_exp = log_sum_exp<T>;
  t.softmax = softmax<T>;
  t.log_softmax = log_softmax<T>;
  t.softmax_backward = softmax_backward<T>;
  t.log_softmax_backward = log_softmax_backward<T>;
}
template void fill_softmax(Table<float>&);
template void fill_softmax(Table<double>&);

}  // namespace qinco::kernels::cuda
