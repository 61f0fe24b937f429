// Reductions that several families use: the least value of a warp with its place, and sums over the rows of a matrix.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

/// Device code may use the value of a constant, but not call numeric_limits.
template <class T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();

/// The least value seen and the lowest id among equals; NaN is never least.
template <class T>
struct Least {
  static constexpr int32_t kNone = 0x7fffffff;
  T value = kInfinity<T>;
  int32_t id = kNone;

  __device__ bool found() const { return id != kNone; }
  __device__ void take(T other, int32_t other_id) {
    if (other < value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
};

/// The least of all lanes, in every lane.
template <class T>
__device__ inline Least<T> warp_least(Least<T> least) {
  for (int bits = kWarp / 2; bits > 0; bits /= 2) {
    const T value = __shfl_xor_sync(kFullMask, least.value, bits);
    const int32_t id = __shfl_xor_sync(kFullMask, least.id, bits);
    least.take(value, id);
  }
  return least;
}

/// For column_sums: one value per element of a matrix.
template <class T>
struct ColumnElement {
  const T* x;
  int64_t cols;
  __device__ void operator()(int64_t i, int64_t j, double (&values)[1]) const {
    values[0] = static_cast<double>(x[i * cols + j]);
  }
};

/// For column_sums: where the sums go.
template <class T, int kSums>
struct ColumnOutputs {
  T* out[kSums];
};

// partial[s,chunk,j] = the sum over the rows i of a chunk of the s-th value at (i,j); a block does 256 columns of a
// chunk.
template <int kSums, class Value>
__global__ void column_partials_kernel(int64_t rows, int64_t cols, int64_t chunk_rows, Value value, double* partial) {
  const int64_t j = grid_thread();
  if (j >= cols) return;
  const int64_t chunk = blockIdx.y, chunks = gridDim.y, begin = chunk * chunk_rows;
  const int64_t end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  double totals[kSums] = {}, values[kSums];
  for (int64_t i = begin; i < end; ++i) {
    value(i, j, values);
    for (int s = 0; s < kSums; ++s) totals[s] += values[s];
  }
  for (int s = 0; s < kSums; ++s) partial[(s * chunks + chunk) * cols + j] = totals[s];
}

template <int kSums, class T>
__global__ void column_totals_kernel(int64_t chunks, int64_t cols, const double* partial, ColumnOutputs<T, kSums> to) {
  const int64_t j = grid_thread();
  if (j >= cols) return;
  for (int s = 0; s < kSums; ++s) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += partial[(s * chunks + chunk) * cols + j];
    to.out[s][j] = static_cast<T>(total);
  }
}

/// to.out[s][j] = sum over rows i of the s-th number of value(i, j, numbers), in double, in an order that the sizes
/// decide.
template <int kSums, class T, class Value>
void column_sums(const Context& context, int64_t rows, int64_t cols, Value value, ColumnOutputs<T, kSums> to) {
  constexpr int64_t kMaxChunks = 256, kLeastRows = 32;
  const int64_t even = (rows + kMaxChunks - 1) / kMaxChunks, chunk_rows = even > kLeastRows ? even : kLeastRows;
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  ScratchFrame frame(context);
  double* const partial = frame.get<double>(kSums * chunks * cols);
  const auto blocks = static_cast<unsigned>((cols + kBlock - 1) / kBlock);
  launch(context, column_partials_kernel<kSums, Value>, dim3(blocks, static_cast<unsigned>(chunks)), kBlock, 0, rows,
         cols, chunk_rows, value, partial);
  launch(context, column_totals_kernel<kSums, T>, blocks, kBlock, 0, chunks, cols, partial, to);
}

}  // namespace qinco::kernels::cuda
