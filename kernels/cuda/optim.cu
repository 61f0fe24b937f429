// Optimiser steps, each one pass over parameters, gradients and moments in the arithmetic of T; the constants of a step
// are formed in double on the host.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
struct AdamConstants {
  T beta1, one_minus_beta1, beta2, one_minus_beta2, inverse_correction2, eps, minus_rate, l2, keep;

  explicit AdamConstants(const AdamStep& s)
      : beta1(static_cast<T>(s.beta1)),
        one_minus_beta1(static_cast<T>(1 - s.beta1)),
        beta2(static_cast<T>(s.beta2)),
        one_minus_beta2(static_cast<T>(1 - s.beta2)),
        inverse_correction2(static_cast<T>(1 / (1 - std::pow(s.beta2, static_cast<double>(s.step))))),
        eps(static_cast<T>(s.eps)),
        minus_rate(static_cast<T>(-s.lr / (1 - std::pow(s.beta1, static_cast<double>(s.step))))),
        l2(static_cast<T>(s.decoupled ? 0.0 : s.weight_decay)),
        keep(static_cast<T>(s.decoupled ? 1 - s.lr * s.weight_decay : 1.0)) {}
};

template <class T>
__global__ void adam_kernel(AdamConstants<T> s, int64_t n, T* p, const T* g, T* m, T* v) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
    const T gradient = std::fma(s.l2, p[i], g[i]);
    m[i] = std::fma(s.beta1, m[i], s.one_minus_beta1 * gradient);
    v[i] = std::fma(s.beta2, v[i], s.one_minus_beta2 * gradient * gradient);
    const T denominator = std::sqrt(v[i] * s.inverse_correction2) + s.eps;
    p[i] = std::fma(s.minus_rate, m[i] / denominator, s.keep * p[i]);
  }
}

template <class T>
void adam(const Context& context, const AdamStep& s, int64_t n, T* p, const T* g, T* m, T* v) {
  launch(context, adam_kernel<T>, blocks_for(n), kBlock, 0, AdamConstants<T>(s), n, p, g, m, v);
}

template <class T>
struct SgdConstants {
  T minus_lr, momentum, weight_decay;
  bool has_momentum, nesterov, first;
};

template <class T>
__global__ void sgd_kernel(SgdConstants<T> s, int64_t n, T* p, const T* g, T* buf) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
    T step = std::fma(s.weight_decay, p[i], g[i]);
    if (s.has_momentum) {
      buf[i] = s.first ? step : std::fma(s.momentum, buf[i], step);
      step = s.nesterov ? std::fma(s.momentum, buf[i], step) : buf[i];
    }
    p[i] = std::fma(s.minus_lr, step, p[i]);
  }
}

template <class T>
void sgd(const Context& context, const SgdStep& s, int64_t n, T* p, const T* g, T* buf) {
  const SgdConstants<T> constants{static_cast<T>(-s.lr),
                                  static_cast<T>(s.momentum),
                                  static_cast<T>(s.weight_decay),
                                  s.momentum != 0,
                                  s.nesterov,
                                  s.first};
  launch(context, sgd_kernel<T>, blocks_for(n), kBlock, 0, constants, n, p, g, buf);
}

}  // namespace

template <class T>
void fill_optim(Table<T>& t) {
  t.adam = adam<T>;
  t.sgd = sgd<T>;
}
template void fill_optim(Table<float>&);
template void fill_optim(Table<double>&);

}  // namespace qinco::kernels::cuda
