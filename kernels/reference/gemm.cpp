// Matrix product with its epilogues: the definition.
#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void gemm(const Context& context, const Gemm<T>& g) {
  parallel_for(context, g.m, row_grain(g.n * g.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < g.n; ++j) {
        double sum = g.accumulate ? static_cast<double>(g.c[i * g.ldc + j]) : 0.0;
        for (int64_t p = 0; p < g.k; ++p) {
          const double a = g.trans_a ? g.a[p * g.lda + i] : g.a[i * g.lda + p];
          const double b = g.trans_b ? g.b[j * g.ldb + p] : g.b[p * g.ldb + j];
          sum += a * b;
        }
        if (g.bias) sum += g.bias[j];
        if (g.residual) sum += g.residual[i * g.ldr + j];
        g.c[i * g.ldc + j] = static_cast<T>(g.relu && sum < 0 ? 0.0 : sum);
      }
    }
  });
}

}  // namespace

template <class T>
void fill_gemm(Table<T>& t) {
  t.gemm = gemm<T>;
}
template void fill_gemm(Table<float>&);
template void fill_gemm(Table<double>&);

}  // namespace qinco::kernels::reference
