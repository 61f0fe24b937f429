// The k smallest of each row: the definition, by sorting indices.
#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) {
  ScratchFrame frame(context);
  int32_t* const scratch = frame.get<int32_t>(context.threads * cols);
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    int32_t* const order = scratch + worker * cols;
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = x + i * cols;
      const auto key = [row](int32_t j) { return row[j] == row[j] ? row[j] : std::numeric_limits<T>::infinity(); };
      std::iota(order, order + cols, 0);
      std::partial_sort(order, order + k, order + cols, [&](int32_t a, int32_t b) {
        const T key_a = key(a), key_b = key(b);
        return key_a < key_b || (key_a == key_b && a < b);
      });
      for (int64_t j = 0; j < k; ++j) {
        ids[i * k + j] = order[j];
        if (values) values[i * k + j] = row[order[j]];
      }
    }
  });
}

}  // namespace

template <class T>
void fill_topk(Table<T>& t) {
  t.topk = topk<T>;
}
template void fill_topk(Table<float>&);
template void fill_topk(Table<double>&);

}  // namespace qinco::kernels::reference
