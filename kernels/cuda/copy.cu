// Strided copy: one thread per element of y, which is written in order; x is read by strides. A matrix whose columns
// are contiguous goes through shared memory, 32 x 32 elements at a time, so that both sides are read and written in
// order.
#include "kernels/cuda/strided_view.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
__global__ void strided_copy_kernel(StridedView view, const T* x, T* y) {
  for (int64_t e = grid_thread(); e < view.elements; e += grid_threads()) y[e] = x[view.offset(e)];
}

constexpr int kTransposed = 32;

// y [rows,cols] = x, whose element (r, c) lies at r + c * stride.
template <class T>
__global__ void __launch_bounds__(kBlock)
    transpose_kernel(int64_t rows, int64_t cols, int64_t stride, const T* x, T* y) {
  __shared__ T tile[kTransposed][kTransposed + 1];
  const int low = threadIdx.x % kTransposed, high = threadIdx.x / kTransposed;
  const int64_t across = (cols + kTransposed - 1) / kTransposed, down = (rows + kTransposed - 1) / kTransposed;
  for (int64_t t = blockIdx.x; t < across * down; t += gridDim.x) {
    const Place at = place(t, across);
    const int64_t row = at.row * kTransposed, col = at.col * kTransposed;
    for (int c = high; c < kTransposed; c += kBlock / kTransposed)
      if (row + low < rows && col + c < cols) tile[c][low] = x[row + low + (col + c) * stride];
    __syncthreads();
    for (int r = high; r < kTransposed; r += kBlock / kTransposed)
      if (row + r < rows && col + low < cols) y[(row + r) * cols + col + low] = tile[low][r];
    __syncthreads();
  }
}

template <class T>
void strided_copy(const Context& context, int ndim, const int64_t* shape, const int64_t* strides, const T* x, T* y) {
  const StridedView view(ndim, shape, strides);
  constexpr int64_t kFewRows = 8;  // of a tile: then most of it would be idle
  if (view.ndim == 2 && view.strides[0] == 1 && view.strides[1] > 1 && view.shape[0] >= kFewRows) {
    const int64_t tiles = ((view.shape[0] - 1) / kTransposed + 1) * ((view.shape[1] - 1) / kTransposed + 1);
    launch(context, transpose_kernel<T>, blocks_for(tiles, 1), kBlock, 0, view.shape[0], view.shape[1], view.strides[1],
           x, y);
  } else {
    launch(context, strided_copy_kernel<T>, blocks_for(view.elements), kBlock, 0, view, x, y);
  }
}

}  // namespace

template <class T>
void fill_copy(Table<T>& t) {
  t.strided_copy = strided_copy<T>;
}
template void fill_copy(Table<float>&);
template void fill_copy(Table<double>&);

}  // namespace qinco::kernels::cuda
