// What is taken from NVIDIA's libraries: the matrix product from cuBLAS, that with what follows it from cuBLASLt, the
// sort from CUB. Implemented in library.cu and library_fused.cu; the emulator has plain loops instead.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace qinco::kernels::cuda {

/// C = op(A) op(B) + beta C, of a Gemm's operands and precision; its epilogue is not done. C is not read where beta is
/// 0. m, n, k >= 1.
template <class T>
void matrix_product(const Context& context, const Gemm<T>& g, T beta);
extern template void matrix_product(const Context&, const Gemm<float>&, float);
extern template void matrix_product(const Context&, const Gemm<double>&, double);

/// C = act(own C + op(A) op(B) + bias + residual) in one kernel, or false: nothing is done where there is none for it,
/// as where two matrices are to be added. C is not read where own is 0. m, n, k >= 1.
bool fused_product(const Context& context, const Gemm<float>& g, float own);

/// C = A B^T, added to C if `accumulate`, of rows in bfloat16, A [m,k] and B [n,k], with sums in float. All lie at
/// multiples of 16 bytes; n and k are multiples of 8. m >= 1.
void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     bool accumulate, float* c);
/// C = relu(A B^T) in bfloat16, where NaN may become 0.
void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     uint16_t* c);

/// Sorts n pairs by ascending key; equal keys (0 and -0 are) keep their order. No key is NaN. The outputs do not
/// overlap the inputs. Key is float, double or uint32_t; of the latter only the lowest `bits` bits are looked at. n <
/// 2^31.
template <class Key>
void sort_pairs(const Context& context, int64_t n, const Key* keys, const int32_t* values, Key* sorted_keys,
                int32_t* sorted_values, int bits = 8 * sizeof(Key));
/// Bits that hold the numbers below n, 1 to 32.
inline int bits_for(int64_t n) {
  int bits = 1;
  while (bits < 32 && (int64_t{1} << bits) < n) ++bits;
  return bits;
}
extern template void sort_pairs(const Context&, int64_t, const float*, const int32_t*, float*, int32_t*, int);
extern template void sort_pairs(const Context&, int64_t, const double*, const int32_t*, double*, int32_t*, int);
extern template void sort_pairs(const Context&, int64_t, const uint32_t*, const int32_t*, uint32_t*, int32_t*, int);

}  // namespace qinco::kernels::cuda
