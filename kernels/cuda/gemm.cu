// Matrix product: cuBLAS; with bias, residual or relu in float, cuBLASLt. Where that has nothing for them, and in
// double, one pass over C follows. A residual that is C itself needs no pass: the product adds to C.
#include <type_traits>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

// C = act(own C + bias + residual); C is not read where own is 0.
template <class T>
__global__ void epilogue_kernel(Gemm<T> g, T own) {
  for (int64_t e = grid_thread(); e < g.m * g.n; e += grid_threads()) {
    const Place at = place(e, g.n);
    T& c = g.c[at.row * g.ldc + at.col];
    T sum = own == T(0) ? T(0) : own * c;
    if (g.bias) sum += g.bias[at.col];
    if (g.residual) sum += g.residual[at.row * g.ldr + at.col];
    c = g.relu && sum < T(0) ? T(0) : sum;
  }
}

template <class T>
void gemm(const Context& context, const Gemm<T>& asked) {
  Gemm<T> g = asked;
  if (g.m == 0 || g.n == 0) return;
  T own = g.accumulate ? T(1) : T(0);
  if (g.residual == g.c && (g.ldr == g.ldc || g.m == 1)) {
    own += T(1);
    g.residual = nullptr;
  }
  if (g.k > 0) {
    const bool follows = g.bias || g.residual || g.relu;
    if constexpr (std::is_same_v<T, float>)
      if (tiled_gemm(context, g, own) || (follows && fused_product(context, g, own))) return;
    matrix_product(context, g, own);
    own = T(1);
    if (!follows) return;
  }
  launch(context, epilogue_kernel<T>, blocks_for(g.m * g.n), kBlock, 0, g, own);
}

}  // namespace

template <class T>
void fill_gemm(Table<T>& t) {
  t.gemm = gemm<T>;
}
template void fill_gemm(Table<float>&);
template void fill_gemm(Table<double>&);

}  // namespace qinco::kernels::cuda
