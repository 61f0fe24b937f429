// The product with packed weights. In double the pack is a plain copy and the product gemm's; float has kernels of its
// own (linear_tiled.cu).
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

int64_t linear_packed_size(int64_t n, int64_t k, Precision) {
  return n * k;
}

void linear_pack(const Context& context, int64_t n, int64_t k, const double* w, int64_t ldw, Precision,
                 double* packed) {
  const int64_t shape[] = {n, k}, strides[] = {ldw, 1};
  table<double>(context.device).strided_copy(context, 2, shape, strides, w, packed);
}

void linear(const Context& context, const Linear<double>& l) {
  Gemm<double> g;
  g.m = l.m, g.n = l.n, g.k = l.k;
  g.a = l.x, g.lda = l.ldx;
  g.b = l.packed, g.ldb = l.k, g.trans_b = true;
  g.c = l.y, g.ldc = l.ldy;
  g.accumulate = l.accumulate;
  g.residual = l.residual, g.ldr = l.ldr;
  g.relu = l.relu;
  table<double>(context.device).gemm(context, g);
}

}  // namespace

template <>
void fill_linear(Table<float>& t) {
  t.linear_packed_size = tiled_linear_packed_size;
  t.linear_pack = tiled_linear_pack;
  t.linear = tiled_linear;
}

template <>
void fill_linear(Table<double>& t) {
  t.linear_packed_size = linear_packed_size;
  t.linear_pack = linear_pack;
  t.linear = linear;
}

}  // namespace qinco::kernels::cuda
