// Layer norm: a warp per row, sums in double; the gradients of gamma and beta are sums over rows (reduce.cuh).
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
__global__ void layer_norm_kernel(int64_t rows, int64_t cols, const T* x, const T* gamma, const T* beta, double eps,
                                  T* y, T* mean, T* rstd) {
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    const T* const row = x + i * cols;
    double total = 0, squares = 0;
    for (int64_t j = lane(); j < cols; j += kWarp) total += static_cast<double>(row[j]);
    const double center = warp_sum(total) / static_cast<double>(cols);
    for (int64_t j = lane(); j < cols; j += kWarp) {
      const double difference = static_cast<double>(row[j]) - center;
      squares += difference * difference;
    }
    const double scale = 1 / std::sqrt(warp_sum(squares) / static_cast<double>(cols) + eps);
    for (int64_t j = lane(); j < cols; j += kWarp) {
      const double normalised = (static_cast<double>(row[j]) - center) * scale;
      y[i * cols + j] = static_cast<T>(normalised * static_cast<double>(gamma[j]) + static_cast<double>(beta[j]));
    }
    if (lane() == 0) {
      mean[i] = static_cast<T>(center);
      rstd[i] = static_cast<T>(scale);
    }
  }
}

template <class T>
void layer_norm(const Context& context, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* beta,
                double eps, T* y, T* mean, T* rstd) {
  launch(context, layer_norm_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, cols, x, gamma, beta, eps, y, mean,
         rstd);
}

// What the backward pass reads of the forward pass.
template <class T>
struct Normalised {
  int64_t cols;
  const T *x, *mean, *rstd, *dy;

  __device__ double at(int64_t i, int64_t j) const {
    return (static_cast<double>(x[i * cols + j]) - static_cast<double>(mean[i])) * static_cast<double>(rstd[i]);
  }
  // The terms of dgamma and dbeta, for column_sums.
  __device__ void operator()(int64_t i, int64_t j, double (&terms)[2]) const {
    terms[1] = static_cast<double>(dy[i * cols + j]);
    terms[0] = terms[1] * at(i, j);
  }
};

// With xn = (x - mean) * rstd and g = dy * gamma: dx = rstd * (g - mean_j(g) - xn * mean_j(g * xn)).
template <class T>
__global__ void input_gradient_kernel(int64_t rows, Normalised<T> xn, const T* gamma, T* dx) {
  const int64_t cols = xn.cols;
  const auto g = [&](int64_t i, int64_t j) {
    return static_cast<double>(xn.dy[i * cols + j]) * static_cast<double>(gamma[j]);
  };
  for (int64_t i = grid_warp(); i < rows; i += grid_warps()) {
    double sum_g = 0, sum_gx = 0;
    for (int64_t j = lane(); j < cols; j += kWarp) {
      sum_g += g(i, j);
      sum_gx += g(i, j) * xn.at(i, j);
    }
    sum_g = warp_sum(sum_g);
    sum_gx = warp_sum(sum_gx);
    for (int64_t j = lane(); j < cols; j += kWarp)
      dx[i * cols + j] = static_cast<T>(static_cast<double>(xn.rstd[i]) *
                                        (g(i, j) - (sum_g + xn.at(i, j) * sum_gx) / static_cast<double>(cols)));
  }
}

template <class T>
void layer_norm_backward(const Context& context, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* mean,
                         const T* rstd, const T* dy, T* dx, T* dgamma, T* dbeta) {
  const Normalised<T> xn{cols, x, mean, rstd, dy};
  launch(context, input_gradient_kernel<T>, blocks_for(rows, kWarps), kBlock, 0, rows, xn, gamma, dx);
  column_sums<2>(context, rows, cols, xn, ColumnOutputs<T, 2>{{dgamma, dbeta}});
}

}  // namespace

template <class T>
void fill_norm(Table<T>& t) {
  t.layer_norm = layer_norm<T>;
  t.layer_norm_backward = layer_norm_backward<T>;
}
template void fill_norm(Table<float>&);
template void fill_norm(Table<double>&);

}  // namespace qinco::kernels::cuda
