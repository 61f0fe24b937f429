// The k smallest of each row: the definition, by sorting indices.
#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

/// What orders the values.
template <class T>
T rank(T value) {
  return value == value ? value : std::numeric_limits<T>::infinity();
}

template <class T>
void topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) {
  ScratchFrame frame(context);
  int32_t* const scratch = frame.get<int32_t>(context.threads * cols);
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    int32_t* const order = scratch + worker * cols;
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = x + i * cols;
      std::iota(order, order + cols, 0);
      std::partial_sort(order, order + k, order + cols, [&](int32_t a, int32_t b) {
        return rank(row[a]) < rank(row[b]) || (rank(row[a]) == rank(row[b]) && a < b);
      });
      for (int64_t j = 0; j < k; ++j) {
        ids[i * k + j] = order[j];
        if (values) values[i * k + j] = row[order[j]];
      }
    }
  });
}

template <class T>
void topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const T* x,
                int32_t first_id, int32_t* ids, T* values) {
  struct Entry {
    T value;
    int32_t id;
  };
  const int64_t kept = std::min(k, held + cols);
  ScratchFrame frame(context);
  Entry* const scratch = frame.get<Entry>(context.threads * (held + cols));
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int worker) {
    Entry* const all = scratch + worker * (held + cols);
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < held; ++j) all[j] = {values[i * k + j], ids[i * k + j]};
      for (int64_t j = 0; j < cols; ++j)
        all[held + j] = {rank(x[i * cols + j]) + T(0), first_id + static_cast<int32_t>(j)};  // -0 + 0 is 0
      std::partial_sort(all, all + kept, all + held + cols, [](const Entry& a, const Entry& b) {
        return a.value < b.value || (a.value == b.value && a.id < b.id);
      });
      for (int64_t j = 0; j < kept; ++j) values[i * k + j] = all[j].value, ids[i * k + j] = all[j].id;
    }
  });
}

}  // namespace

template <class T>
void fill_topk(Table<T>& t) {
  t.topk = topk<T>;
  t.topk_merge = topk_merge<T>;
}
template void fill_topk(Table<float>&);
template void fill_topk(Table<double>&);

}  // namespace qinco::kernels::reference
