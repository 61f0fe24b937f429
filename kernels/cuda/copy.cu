// Strided copy: one thread per element of y, which is written in order; x is read by strides.
#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int kMaxDims = 8;

// Passed to the kernel by value.
struct View {
  int ndim;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];
};

template <class T>
__global__ void strided_copy_kernel(int64_t n, View view, const T* x, T* y) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads()) {
    int64_t rest = e, offset = 0;
    for (int i = view.ndim - 1; i >= 0; --i) {
      const Place at = place(rest, view.shape[i]);
      offset += at.col * view.strides[i];
      rest = at.row;
    }
    y[e] = x[offset];
  }
}

// Dimensions of size 1 are dropped, and neighbours merged where one continues the other: fewer divisions per element.
template <class T>
void strided_copy(const Context& context, int ndim, const int64_t* shape, const int64_t* strides, const T* x, T* y) {
  View view{};
  int64_t n = 1;
  for (int i = 0; i < ndim; ++i) {
    n *= shape[i];
    if (shape[i] == 1) continue;
    const int last = view.ndim - 1;
    if (last >= 0 && view.strides[last] == shape[i] * strides[i]) {
      view.shape[last] *= shape[i];
      view.strides[last] = strides[i];
    } else {
      view.shape[view.ndim] = shape[i];
      view.strides[view.ndim++] = strides[i];
    }
  }
  launch(context, strided_copy_kernel<T>, blocks_for(n), kBlock, 0, n, view, x, y);
}

}  // namespace

template <class T>
void fill_copy(Table<T>& t) {
  t.strided_copy = strided_copy<T>;
}
template void fill_copy(Table<float>&);
template void fill_copy(Table<double>&);

}  // namespace qinco::kernels::cuda
