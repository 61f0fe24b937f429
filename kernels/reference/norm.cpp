// Layer norm over rows: the definition.
#include <cmath>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void layer_norm(const Context& context, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* beta,
                double eps, T* y, T* mean, T* rstd) {
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const T* const row = x + i * cols;
      double total = 0, squares = 0;
      for (int64_t j = 0; j < cols; ++j) total += row[j];
      const double center = total / static_cast<double>(cols);
      for (int64_t j = 0; j < cols; ++j) squares += (row[j] - center) * (row[j] - center);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + eps);
      for (int64_t j = 0; j < cols; ++j)
        y[i * cols + j] = static_cast<T>((row[j] - center) * scale * gamma[j] + beta[j]);
      mean[i] = static_cast<T>(center);
      rstd[i] = static_cast<T>(scale);
    }
  });
}

// With xn = (x - mean) * rstd and g = dy * gamma: dx = rstd * (g - mean_j(g) - xn * mean_j(g * xn)).
template <class T>
void layer_norm_backward(const Context& context, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* mean,
                         const T* rstd, const T* dy, T* dx, T* dgamma, T* dbeta) {
  const auto normalised = [&](int64_t i, int64_t j) {
    return (static_cast<double>(x[i * cols + j]) - mean[i]) * rstd[i];
  };
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double sum_g = 0, sum_gx = 0;
      for (int64_t j = 0; j < cols; ++j) {
        const double g = static_cast<double>(dy[i * cols + j]) * gamma[j];
        sum_g += g;
        sum_gx += g * normalised(i, j);
      }
      for (int64_t j = 0; j < cols; ++j) {
        const double g = static_cast<double>(dy[i * cols + j]) * gamma[j];
        dx[i * cols + j] =
            static_cast<T>(rstd[i] * (g - (sum_g + normalised(i, j) * sum_gx) / static_cast<double>(cols)));
      }
    }
  });
  parallel_for(context, cols, row_grain(rows), [&](int64_t begin, int64_t end, int) {
    for (int64_t j = begin; j < end; ++j) {
      double sum_gamma = 0, sum_beta = 0;
      for (int64_t i = 0; i < rows; ++i) {
        sum_gamma += dy[i * cols + j] * normalised(i, j);
        sum_beta += dy[i * cols + j];
      }
      dgamma[j] = static_cast<T>(sum_gamma);
      dbeta[j] = static_cast<T>(sum_beta);
    }
  });
}

}  // namespace

template <class T>
void fill_norm(Table<T>& t) {
  t.layer_norm = layer_norm<T>;
  t.layer_norm_backward = layer_norm_backward<T>;
}
template void fill_norm(Table<float>&);
template void fill_norm(Table<double>&);

}  // namespace qinco::kernels::reference
