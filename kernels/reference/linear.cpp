// The product with packed weights: the definition. The pack is a plain copy.
#include <algorithm>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
int64_t linear_packed_size(int64_t n, int64_t k, Precision) {
  return n * k;
}

template <class T>
void linear_pack(const Context&, int64_t n, int64_t k, const T* w, int64_t ldw, Precision, T* packed) {
  for (int64_t j = 0; j < n; ++j) std::copy_n(w + j * ldw, k, packed + j * k);
}

template <class T>
void linear(const Context& context, const Linear<T>& l) {
  parallel_for(context, l.m, row_grain(l.n * l.k), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < l.n; ++j) {
        T& y = l.y[i * l.ldy + j];
        double sum = l.accumulate ? static_cast<double>(y) : 0.0;
        for (int64_t p = 0; p < l.k; ++p) sum += static_cast<double>(l.x[i * l.ldx + p]) * l.packed[j * l.k + p];
        if (l.residual) sum += l.residual[i * l.ldr + j];
        y = static_cast<T>(l.relu && sum < 0 ? 0 : sum);
      }
    }
  });
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

}  // namespace qinco::kernels::reference
