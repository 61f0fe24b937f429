// Optimiser steps, each one pass over parameters, gradients and moments in the arithmetic of T; the constants of a step
// are formed in double on the host. A model's parameters are many and small: Adam takes up to 64 of them in a launch,
// whose arguments say where they are; a block updates a piece of one.
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

template <class T>
struct AdamConstants {
  T beta1, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_rate, l2, keep;

  explicit AdamConstants(const AdamStep& s)
      : beta1(static_cast<T>(s.beta1)),
        one_minus_beta1(static_cast<T>(1 - s.beta1)),
        beta2(static_cast<T>(s.beta2)),
        one_minus_beta2(static_cast<T>(1 - s.beta2)),
        root_correction2(static_cast<T>(1 / std::sqrt(1 - std::pow(s.beta2, static_cast<double>(s.step))))),
        eps(static_cast<T>(s.eps)),
        minus_rate(static_cast<T>(-s.lr / (1 - std::pow(s.beta1, static_cast<double>(s.step))))),
        l2(static_cast<T>(s.decoupled ? 0.0 : s.weight_decay)),
        keep(static_cast<T>(s.decoupled ? 1 - s.lr * s.weight_decay : 1.0)) {}
};

constexpr int kTogether = 64;           // parameters of a launch: its arguments have to stay below 4 KB
constexpr int64_t kPiece = 8 * kBlock;  // elements of a block

template <class T>
struct AdamParameters {
  AdamParameter<T> of[kTogether];
  unsigned first_block[kTogether + 1];  // of each, then the number of all
  int count;
};

template <class T>
__global__ void __launch_bounds__(kBlock) adam_kernel(AdamConstants<T> s, AdamParameters<T> all) {
  int low = 0, high = all.count - 1;  // the last one that begins at or before the block
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (all.first_block[middle] <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  const AdamParameter<T>& one = all.of[low];
  const int64_t begin = int64_t{blockIdx.x - all.first_block[low]} * kPiece;
  const int64_t end = begin + kPiece < one.n ? begin + kPiece : one.n;
  T *const p = one.p, *const m = one.m, *const v = one.v;
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) {
    const T gradient = std::fma(s.l2, p[i], one.g[i]);
    const T first = std::fma(s.beta1, m[i], s.one_minus_beta1 * gradient);
    const T second = std::fma(s.beta2, v[i], s.one_minus_beta2 * gradient * gradient);
    m[i] = first;
    v[i] = second;
    // v's correction is that of its root: v itself may be too large for it.
    const T scale = std::fma(std::sqrt(second), s.root_correction2, s.eps);
    p[i] = std::fma(s.minus_rate, first / scale, s.keep * p[i]);
  }
}

template <class T>
void adam(const Context& context, const AdamStep& s, int64_t count, const AdamParameter<T>* parameters) {
  static_assert(sizeof(AdamParameters<T>) + sizeof(AdamConstants<T>) <= 4096);
  AdamParameters<T> all{};
  const auto flush = [&] {
    launch(context, adam_kernel<T>, all.first_block[all.count], kBlock, 0, AdamConstants<T>(s), all);
    all = {};
  };
  for (int64_t i = 0; i < count; ++i) {
    if (parameters[i].n == 0) continue;
    const int64_t blocks = (parameters[i].n + kPiece - 1) / kPiece;
    all.of[all.count] = parameters[i];
    all.first_block[all.count + 1] = all.first_block[all.count] + static_cast<unsigned>(blocks);
    if (++all.count == kTogether) flush();
  }
  flush();
}

template <class T>
struct SgdConstants {
  T minus_lr, momentum, weight_decay;
  bool has_momentum, nesterov;
};

template <class T>
__global__ void sgd_kernel(SgdConstants<T> s, int64_t n, T* p, const T* g, T* buf) {
  for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
    T step = std::fma(s.weight_decay, p[i], g[i]);
    if (s.has_momentum) {
      buf[i] = std::fma(s.momentum, buf[i], step);
      step = s.nesterov ? std::fma(s.momentum, buf[i], step) : buf[i];
    }
    p[i] = std::fma(s.minus_lr, step, p[i]);
  }
}

template <class T>
void sgd(const Context& context, const SgdStep& s, int64_t n, T* p, const T* g, T* buf) {
  const SgdConstants<T> constants{static_cast<T>(-s.lr), static_cast<T>(s.momentum), static_cast<T>(s.weight_decay),
                                  s.momentum != 0, s.nesterov};
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
