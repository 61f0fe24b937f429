// To and from the 16-bit floats, by the definition.
#include "kernels/cuda/packet.cuh"
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

template <class Half>
struct ToHalf {
  template <class T>
  __device__ uint16_t operator()(T x) const {
    return Half::bits(static_cast<float>(x));
  }
};

template <class Half, class T>
struct FromHalf {
  __device__ T operator()(uint16_t x) const { return static_cast<T>(Half::value(x)); }
};

template <class Half, class T>
void to_half(const Context& context, int64_t n, const T* x, uint16_t* y) {
  map(context, n, ToHalf<Half>{}, y, x);
}

template <class Half, class T>
void from_half(const Context& context, int64_t n, const uint16_t* x, T* y) {
  map(context, n, FromHalf<Half, T>{}, y, x);
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
