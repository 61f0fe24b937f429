// Writes by strides, and sums of rows picked from tables: one thread per element, which is read or written in order on
// the contiguous side. A sum's terms are added by one thread, in the order of the definition. A beam search's picks: a
// thread each.
#include "kernels/cuda/strided_view.cuh"
#include "kernels/families.h"
#include "kernels/half.h"

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
    if (g.base) sum = g.base[(g.base_ids ? g.base_ids[at.row] : at.row / g.base_times) * g.d + at.col];
    const int32_t* const codes = g.codes + at.row * g.codes_ld;
    for (int64_t m = 0; m < g.M; ++m) {
      const int64_t from = (m * g.K + codes[m]) * g.d + at.col;
      const T term = g.tables ? g.tables[from] : static_cast<T>(bf16_value(g.rounded_tables[from]));
      sum = g.subtract ? sum - term : sum + term;
    }
    g.out[e] = sum;
  }
}

template <class T>
void gather_sum(const Context& context, const GatherSum<T>& g) {
  launch(context, gather_sum_kernel<T>, blocks_for(g.n * g.d), kBlock, 0, g);
}

__global__ void extend_beams_kernel(BeamPicks b) {
  const int64_t from = b.n * b.width, to = b.n * b.kept;
  for (int64_t i = grid_thread(); i < to; i += grid_threads()) {
    const int64_t pair = i / b.kept * b.width * b.candidates + b.picks[i];
    b.pairs[i] = static_cast<int32_t>(pair);
    for (int64_t m = 0; m < b.steps; ++m) b.longer[m * to + i] = b.codes[m * from + pair / b.candidates];
    b.longer[b.steps * to + i] = b.tried[pair];
  }
}

void extend_beams(const Context& context, const BeamPicks& b) {
  launch(context, extend_beams_kernel, blocks_for(b.n * b.kept), kBlock, 0, b);
}

}  // namespace

template <class T>
void fill_move(Table<T>& t) {
  t.strided_write = strided_write<T>;
  t.gather_sum = gather_sum<T>;
  t.extend_beams = extend_beams;
}
template void fill_move(Table<float>&);
template void fill_move(Table<double>&);

}  // namespace qinco::kernels::cuda
