// Softmax and its relatives over rows: the definition.
#include <cmath>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

// The largest element of a row.
template <class T>
double row_maximum(int64_t cols, const T* x) {
  double maximum = x[0];
  for (int64_t j = 1; j < cols; ++j)
    if (x[j] > maximum) maximum = x[j];
  return maximum;
}

// sum_j exp(x[j] - shift)
template <class T>
double sum_of_exponentials(int64_t cols, const T* x, double shift) {
  double total = 0;
  for (int64_t j = 0; j < cols; ++j) total += std::exp(static_cast<double>(x[j]) - shift);
  return total;
}

// Infinite if an element is +inf or all are -inf; NaN if one is NaN.
template <class T>
void log_sum_exp(const Context& context, int64_t rows, int64_t cols, const T* x, T* out) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const double maximum = row_maximum(cols, x + i * cols);
      const double shift = std::isinf(maximum) ? 0.0 : maximum;
      out[i] = static_cast<T>(shift + std::log(sum_of_exponentials(cols, x + i * cols, shift)));
    }
  });
}

// A row that holds +inf or NaN, or -inf only, gives NaN, as in PyTorch; so it does in log_softmax.
template <class T>
void softmax(const Context& context, int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const double shift = row_maximum(cols, x + i * cols);
      const double total = sum_of_exponentials(cols, x + i * cols, shift);
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j)
        y[j] = static_cast<T>(std::exp(static_cast<double>(x[j]) - shift) / total);
    }
  });
}

template <class T>
void log_softmax(const Context& context, int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const double shift = row_maximum(cols, x + i * cols);
      const double log_total = std::log(sum_of_exponentials(cols, x + i * cols, shift));
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j)
        y[j] = static_cast<T>(static_cast<double>(x[j]) - shift - log_total);
    }
  });
}

template <class T>
void softmax_backward(const Context& context, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double dot = 0;
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j) dot += static_cast<double>(dy[j]) * y[j];
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j) dx[j] = static_cast<T>(y[j] * (dy[j] - dot));
    }
  });
}

template <class T>
void log_softmax_backward(const Context& context, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0;
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j) total += dy[j];
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j)
        dx[j] = static_cast<T>(dy[j] - std::exp(static_cast<double>(y[j])) * total);
    }
  });
}

}  // namespace

template <class T>
void fill_softmax(Table<T>& t) {
  t.log_sum_exp = log_sum_exp<T>;
  t.softmax = softmax<T>;
  t.log_softmax = log_softmax<T>;
  t.softmax_backward = softmax_backward<T>;
  t.log_softmax_backward = log_softmax_backward<T>;
}
template void fill_softmax(Table<float>&);
template void fill_softmax(Table<double>&);

}  // namespace qinco::kernels::reference
