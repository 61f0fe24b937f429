// The product with packed weights: the pack is a plain copy, the product is gemm's.
#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
int64_t linear_packed_size(int64_t n, int64_t k) {
  return n * k;
}

template <class T>
void linear_pack(const Context& context, int64_t n, int64_t k, const T* w, int64_t ldw, T* packed) {
  const int64_t shape[] = {n, k}, strides[] = {ldw, 1};
  table<T>(context.device).strided_copy(context, 2, shape, strides, w, packed);
}

template <class T>
void linear(const Context& context, const Linear<T>& l) {
  Gemm<T> g;
  g.m = l.m, g.n = l.n, g.k = l.k;
  g.a = l.x, g.lda = l.ldx;
  g.b = l.packed, g.ldb = l.k, g.trans_b = true;
  g.c = l.y, g.ldc = l.ldy;
  g.accumulate = l.accumulate;
  g.residual = l.residual, g.ldr = l.ldr;
  g.relu = l.relu;
  table<T>(context.device).gemm(context, g);
}

}  // namespace

template <class T>
void fill_linear(Table<T>& t) {
  t.linear_packed_size = linear_packed_size<T>;
  t.linear_pack = linear_pack<T>;
  t.linear = linear<T>;
}
template void fill_linear(Table<float>&);
template void fill_linear(Table<double>&);

}  // namespace qinco::kernels::cuda
