// To and from the 16-bit floats, by the definition: one thread per element, looping over the grid.
#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"
#include "kernels/half.h"

namespace qinco::kernels::cuda {

namespace {

struct F16 {
  __device__ static uint16_t bits(float value) { return f16_bits(value); }
  __device__ static float value(uint16_t bits) { return f16_value(bits); }
};

struct BF16 {
  __device__ static uint16_t bits(float value) { return bf16_bits(value); }
  __device__ static float value(uint16_t bits) { return bf16_value(bits); }
};

template <class Half, class T>
__global__ void to_half_kernel(int64_t n, const T* x, uint16_t* y) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) y[i] = Half::bits(static_cast<float>(x[i]));
}

template <class Half, class T>
__global__ void from_half_kernel(int64_t n, const uint16_t* x, T* y) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) y[i] = static_cast<T>(Half::value(x[i]));
}

template <class Half, class T>
void to_half(const Context& context, int64_t n, const T* x, uint16_t* y) {
  launch(context, to_half_kernel<Half, T>, blocks_for(n), kBlock, 0, n, x, y);
}

template <class Half, class T>
void from_half(const Context& context, int64_t n, const uint16_t* x, T* y) {
  launch(context, from_half_kernel<Half, T>, blocks_for(n), kBlock, 0, n, x, y);
}

}  // namespace

template <class T>
void fill_convert(Table<T>& t) {
  t.to_f16 = to_half<F16, T>;
  t.from_f16 = from_half<F16, T>;
  t.to_bf16 = to_half<BF16, T>;
  t.from_bf16 = from_half<BF16, T>;
}
template void fill_convert(Table<float>&);
template void fill_convert(Table<double>&);

}  // namespace qinco::kernels::cuda
