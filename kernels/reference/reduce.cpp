// Reductions: the definition.
#include <limits>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
double sum(const Context&, int64_t n, const T* x) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += x[i];
  return total;
}

template <class T>
double sum_squared_difference(const Context&, int64_t n, const T* a, const T* b) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    total += difference * difference;
  }
  return total;
}

template <class T>
void row_sum(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0;
      for (int64_t j = 0; j < cols; ++j) total += x[i * cols + j];
      out[i] = static_cast<T>(total);
    }
  });
}

template <class T>
void column_sum(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  parallel_for(context, cols, row_grain(rows), [&](int64_t begin, int64_t end, int) {
    for (int64_t j = begin; j < end; ++j) {
      double total = 0;
      for (int64_t i = 0; i < rows; ++i) total += x[i * cols + j];
      out[j] = static_cast<T>(total);
    }
  });
}

template <class T>
void row_squared_norm(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0;
      for (int64_t j = 0; j < cols; ++j) total += static_cast<double>(x[i * cols + j]) * x[i * cols + j];
      out[i] = static_cast<T>(total);
    }
  });
}

template <class T>
void row_squared_distance(const Context& context, int64_t rows, int64_t cols, const T* x, const T* y, T* out) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const double difference = static_cast<double>(x[i * cols + j]) - static_cast<double>(y[j]);
        total += difference * difference;
      }
      out[i] = static_cast<T>(total);
    }
  });
}

template <class T>
void row_argmin(const Context& context, int64_t rows, int64_t cols, const T* x, int32_t* ids) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      T best = std::numeric_limits<T>::infinity();
      ids[i] = 0;
      bool found = false;  // an infinite value is a minimum too, if only NaN came before it
      for (int64_t j = 0; j < cols; ++j) {
        const T value = x[i * cols + j];
        if (value < best || (!found && value == best)) {
          best = value;
          ids[i] = static_cast<int32_t>(j);
          found = true;
        }
      }
    }
  });
}

}  // namespace

template <class T>
void fill_reduce(Table<T>& t) {
  t.sum = sum<T>;
  t.sum_squared_difference = sum_squared_difference<T>;
  t.row_sum = row_sum<T>;
  t.column_sum = column_sum<T>;
  t.row_squared_norm = row_squared_norm<T>;
  t.row_squared_distance = row_squared_distance<T>;
  t.row_argmin = row_argmin<T>;
}
template void fill_reduce(Table<float>&);
template void fill_reduce(Table<double>&);

}  // namespace qinco::kernels::reference
