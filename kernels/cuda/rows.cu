// Row gather and scatter-add. Where there are few ids and rows, as in a training batch, each row of the output looks
// through all ids for its own. Else the scatter sorts the ids with their places, stably, so that every row of the
// output knows the places that belong to it, in order; one thread owns an element of the output and adds them one by
// one. No atomics: the bits are those of the plain loop.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
__global__ void gather_rows_kernel(int64_t n, int64_t d, const T* x, const int32_t* ids, T* out) {
  for (int64_t e = grid_thread(); e < n * d; e += grid_threads()) {
    const Place at = place(e, d);
    out[e] = x[ids[at.row] * d + at.col];
  }
}

template <class T>
void gather_rows(const Context& context, int64_t n, int64_t d, const T* x, const int32_t* ids, T* out) {
  launch(context, gather_rows_kernel<T>, blocks_for(n * d), kBlock, 0, n, d, x, ids, out);
}

constexpr int kTermsTogether = 4;  // of a sum: their loads are under way together

// total + the values of the rows `places` (bit i: row i), d apart, in order.
template <class T>
__device__ T add_places(T total, unsigned places, const T* column, int64_t d) {
  while (places != 0) {
    const int terms = __popc(places);
    T values[kTermsTogether];
#pragma unroll
    for (int j = 0; j < kTermsTogether; ++j, places &= places - 1)
      values[j] = j < terms ? column[(__ffs(static_cast<int>(places)) - 1) * d] : T(0);
#pragma unroll
    for (int j = 0; j < kTermsTogether; ++j)
      if (j < terms) total += values[j];
  }
  return total;
}

// A warp takes 32 columns of a row of the output; it looks at 8 x 32 ids at a time, whose loads are under way together.
template <class T>
__global__ void __launch_bounds__(kBlock)
    find_rows_kernel(int64_t n, int64_t d, int64_t rows, const int32_t* ids, const T* x, T* out) {
  constexpr int kTogether = 8;
  const int64_t groups = (d + kWarp - 1) / kWarp;
  for (int64_t w = grid_warp(); w < rows * groups; w += grid_warps()) {
    const Place at = place(w, groups);
    const int64_t col = at.col * kWarp + lane();
    const bool own = col < d;
    T total = own ? out[at.row * d + col] : T(0);
    bool found = false;
    for (int64_t first = 0; first < n; first += kTogether * kWarp) {
      int32_t seen[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int64_t id = first + i * kWarp + lane();
        seen[i] = id < n ? ids[id] : -1;
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const unsigned places = __ballot_sync(kFullMask, seen[i] == at.row);
        found = found || places != 0;
        if (own) total = add_places(total, places, x + (first + i * kWarp) * d + col, d);
      }
    }
    if (own && found) out[at.row * d + col] = total;
  }
}

__global__ void count_up_kernel(int64_t n, int32_t* out) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) out[i] = static_cast<int32_t>(i);
}

// begins[r] = the first place in the sorted ids that is not below r, for r <= rows
__global__ void begins_kernel(int64_t n, int64_t rows, const uint32_t* sorted, int32_t* begins) {
  for (int64_t r = grid_thread(); r <= rows; r += grid_threads()) {
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted[middle] < r)
        low = middle + 1;
      else
        high = middle;
    }
    begins[r] = static_cast<int32_t>(low);
  }
}

template <class T>
__global__ void add_rows_kernel(int64_t d, int64_t rows, const int32_t* begins, const int32_t* places, const T* x,
                                T* out) {
  for (int64_t e = grid_thread(); e < rows * d; e += grid_threads()) {
    const Place at = place(e, d);
    const int32_t begin = begins[at.row], end = begins[at.row + 1];
    if (begin == end) continue;
    T total = out[e];
    for (int32_t p = begin; p < end; p += kTermsTogether) {
      T values[kTermsTogether];
#pragma unroll
      for (int j = 0; j < kTermsTogether; ++j) values[j] = j < end - p ? x[places[p + j] * d + at.col] : T(0);
#pragma unroll
      for (int j = 0; j < kTermsTogether; ++j)
        if (j < end - p) total += values[j];
    }
    out[e] = total;
  }
}

template <class T>
void scatter_add_rows(const Context& context, int64_t n, int64_t d, int64_t rows, const int32_t* ids, const T* x,
                      T* out) {
  constexpr int64_t kFewIds = 4096, kFewRows = 1024, kFewLooks = int64_t{1} << 24;
  if (n == 0 || d == 0) return;
  const int64_t warps = rows * ((d + kWarp - 1) / kWarp);  // each of which looks at all ids
  if (n <= kFewIds && rows <= kFewRows && n * warps <= kFewLooks) {
    launch(context, find_rows_kernel<T>, blocks_for(warps, kWarps), kBlock, 0, n, d, rows, ids, x, out);
    return;
  }
  ScratchFrame frame(context);
  int32_t *const order = frame.get<int32_t>(n), *const places = frame.get<int32_t>(n);
  uint32_t* const sorted = frame.get<uint32_t>(n);
  int32_t* const begins = frame.get<int32_t>(rows + 1);
  launch(context, count_up_kernel, blocks_for(n), kBlock, 0, n, order);
  // Ids are not negative: as unsigned numbers they are in the same order.
  sort_pairs(context, n, reinterpret_cast<const uint32_t*>(ids), order, sorted, places, bits_for(rows));
  launch(context, begins_kernel, blocks_for(rows + 1), kBlock, 0, n, rows, sorted, begins);
  launch(context, add_rows_kernel<T>, blocks_for(rows * d), kBlock, 0, d, rows, begins, places, x, out);
}

}  // namespace

template <class T>
void fill_rows(Table<T>& t) {
  t.gather_rows = gather_rows<T>;
  t.scatter_add_rows = scatter_add_rows<T>;
}
template void fill_rows(Table<float>&);
template void fill_rows(Table<double>&);

}  // namespace qinco::kernels::cuda
