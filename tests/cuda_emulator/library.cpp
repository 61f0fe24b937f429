// kernels/cuda/library.h in plain loops.
#include "kernels/cuda/library.h"

#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cuda_runtime.h"

namespace qinco::kernels::cuda {

template <class T>
void matrix_product(const Context&, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const T* a,
                    int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  const cuda_emulator::DeviceWork work;
  std::vector<T> rows(static_cast<size_t>(k * n)), sums(static_cast<size_t>(n));  // op(B); a row of the product
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < n; ++j) rows[static_cast<size_t>(p * n + j)] = trans_b ? b[j * ldb + p] : b[p * ldb + j];
  for (int64_t i = 0; i < m; ++i) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t p = 0; p < k; ++p) {
      const T factor = trans_a ? a[p * lda + i] : a[i * lda + p];
      const T* const row = rows.data() + p * n;
      for (int64_t j = 0; j < n; ++j) sums[static_cast<size_t>(j)] += factor * row[j];
    }
    for (int64_t j = 0; j < n; ++j) {
      T& out = c[i * ldc + j];
      out = beta == T(0) ? sums[static_cast<size_t>(j)] : sums[static_cast<size_t>(j)] + beta * out;
    }
  }
}

template <class Key>
void sort_pairs(const Context&, int64_t n, const Key* keys, const int32_t* values, Key* sorted_keys,
                int32_t* sorted_values, int bits) {
  const cuda_emulator::DeviceWork work;
  const auto key = [keys, bits](int64_t i) {
    if constexpr (std::is_integral_v<Key>)
      return bits < 32 ? keys[i] & ((Key{1} << bits) - 1) : keys[i];
    else
      return keys[i];
  };
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return key(i) < key(j); });
  for (int64_t i = 0; i < n; ++i) {
    sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
    sorted_values[i] = values[order[static_cast<size_t>(i)]];
  }
}

template void matrix_product(const Context&, bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*,
                             int64_t, float, float*, int64_t);
template void matrix_product(const Context&, bool, bool, int64_t, int64_t, int64_t, const double*, int64_t,
                             const double*, int64_t, double, double*, int64_t);
template void sort_pairs(const Context&, int64_t, const float*, const int32_t*, float*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const double*, const int32_t*, double*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const uint32_t*, const int32_t*, uint32_t*, int32_t*, int);

}  // namespace qinco::kernels::cuda
