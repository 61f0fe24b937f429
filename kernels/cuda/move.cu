// Writes by strides, and sums of rows picked from tables: one thread per element, which is read or written in order on
// the contiguous side. A sum's terms are added by one thread, in the order of the definition.
#include "kernels/cuda/strided_view.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
__global__ void strided_write_kernel(StridedView view, const T* x, T* y) {
  for (int64_t e = grid_thread(); e < view.elements; e += grid_threads()) y[view.offset(e)] = x[e];
}

template <class T>
void strided_write(const Context& context, int ndim, const int64_t* shape, const int64_t* strides, const T* x, T* y) {
  const StridedView view(ndim, shape, strides);
  launch(context, strided_write_kernel<T>, blocks_for(view.elements), kBlock, 0, view, x, y);
}

template <class T>
__global__ void gather_sum_kernel(GatherSum<T> g) {
  for (int64_t e = grid_thread(); e < g.n * g.d; e += grid_threads()) {
    const Place at = place(e, g.d);
    T sum = 0;
    if (g.base) sum = g.base[(g.base_ids ? g.base_ids[at.row] : at.row) * g.d + at.col];
    const int32_t* const codes = g.codes + at.row * g.codes_ld;
    for (int64_t m = 0; m < g.M; ++m) {
      const T term = g.tables[(m * g.K + codes[m]) * g.d + at.col];
      sum = g.subtract ? sum - term : sum + term;
    }
    g.out[e] = sum;
  }
}

template <class T>
void gather_sum(const Context& context, const GatherSum<T>& g) {
  launch(context, gather_sum_kernel<T>, blocks_for(g.n * g.d), kBlock, 0, g);
}

}  // namespace

template <class T>
void fill_move(Table<T>& t) {
  t.strided_write = strided_write<T>;
  t.gather_sum = gather_sum<T>;
}
template void fill_move(Table<float>&);
template void fill_move(Table<double>&);

}  // namespace qinco::kernels::cuda
