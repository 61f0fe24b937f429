// Row gather and scatter-add: the definition.
#include <cstring>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void gather_rows(const Context& context, int64_t n, int64_t d, const T* x, const int32_t* ids, T* out) {
  if (d == 0) return;
  parallel_for(context, n, row_grain(d), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(out + i * d, x + ids[i] * d, sizeof(T) * static_cast<size_t>(d));
  });
}

template <class T>
void scatter_add_rows(const Context&, int64_t n, int64_t d, int64_t, const int32_t* ids, const T* x, T* out) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j) out[ids[i] * d + j] += x[i * d + j];
}

}  // namespace

template <class T>
void fill_rows(Table<T>& t) {
  t.gather_rows = gather_rows<T>;
  t.scatter_add_rows = scatter_add_rows<T>;
}
template void fill_rows(Table<float>&);
template void fill_rows(Table<double>&);

}  // namespace qinco::kernels::reference
