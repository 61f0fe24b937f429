// Element-wise operations: the functors of functors.h in the arithmetic of T. All of them stream: one thread per
// element, looping over the grid.
#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"
#include "kernels/functors.h"

namespace qinco::kernels::cuda {

namespace {

template <class F, class T>
__global__ void unary_kernel(int64_t n, const T* x, T* y) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) y[i] = F::forward(x[i]);
}

template <class T>
void unary(const Context& context, UnaryOp op, int64_t n, const T* x, T* y) {
  functors::visit_unary(
      op, [&](auto f) { launch(context, unary_kernel<decltype(f), T>, blocks_for(n), kBlock, 0, n, x, y); });
}

template <class F, class T>
__global__ void unary_backward_kernel(int64_t n, const T* x, const T* y, const T* dy, T* dx) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
    const T xi = F::kReadsX ? x[i] : T(0), yi = F::kReadsY ? y[i] : T(0);
    dx[i] = F::backward(xi, yi, dy[i]);
  }
}

template <class T>
void unary_backward(const Context& context, UnaryOp op, int64_t n, const T* x, const T* y, const T* dy, T* dx) {
  functors::visit_unary(op, [&](auto f) {
    launch(context, unary_backward_kernel<decltype(f), T>, blocks_for(n), kBlock, 0, n, x, y, dy, dx);
  });
}

template <class F, class T>
__global__ void binary_kernel(int64_t rows, int64_t cols, Operand<T> a, Operand<T> b, T* out) {
  for (int64_t e = grid_thread(); e < rows * cols; e += grid_threads()) {
    const Place at = place(e, cols);
    out[e] = F::forward(a.data[at.row * a.row_stride + at.col * a.col_stride],
                        b.data[at.row * b.row_stride + at.col * b.col_stride]);
  }
}

template <class T>
void binary(const Context& context, BinaryOp op, int64_t rows, int64_t cols, Operand<T> a, Operand<T> b, T* out) {
  functors::visit_binary(op, [&](auto f) {
    launch(context, binary_kernel<decltype(f), T>, blocks_for(rows * cols), kBlock, 0, rows, cols, a, b, out);
  });
}

template <class T>
__global__ void axpby_kernel(int64_t n, T alpha, const T* x, T beta, T* y) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads())
    y[i] = beta == T(0) ? alpha * x[i] : std::fma(beta, y[i], alpha * x[i]);
}

template <class T>
void axpby(const Context& context, int64_t n, T alpha, const T* x, T beta, T* y) {
  launch(context, axpby_kernel<T>, blocks_for(n), kBlock, 0, n, alpha, x, beta, y);
}

template <class T>
__global__ void fill_kernel(int64_t n, T value, T* y) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) y[i] = value;
}

template <class T>
void fill(const Context& context, int64_t n, T value, T* y) {
  launch(context, fill_kernel<T>, blocks_for(n), kBlock, 0, n, value, y);
}

}  // namespace

template <class T>
void fill_elementwise(Table<T>& t) {
  t.unary = unary<T>;
  t.unary_backward = unary_backward<T>;
  t.binary = binary<T>;
  t.axpby = axpby<T>;
  t.fill = fill<T>;
}
template void fill_elementwise(Table<float>&);
template void fill_elementwise(Table<double>&);

}  // namespace qinco::kernels::cuda
