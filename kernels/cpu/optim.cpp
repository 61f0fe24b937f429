// Optimiser steps, each one pass over parameters, gradients and moments.
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

// beta^step by squaring: a power from the C++ library could be an inline function.
double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

// The constants of one step, formed in double, as lanes.
struct AdamVec {
  Vec beta1, one_minus_beta1, beta2, one_minus_beta2, root_correction2, eps, minus_rate, l2, keep;

  explicit AdamVec(const AdamStep& s)
      : beta1(static_cast<float>(s.beta1)),
        one_minus_beta1(static_cast<float>(1 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        one_minus_beta2(static_cast<float>(1 - s.beta2)),
        root_correction2(static_cast<float>(1 / __builtin_sqrt(1 - power(s.beta2, s.step)))),
        eps(static_cast<float>(s.eps)),
        minus_rate(static_cast<float>(-s.lr / (1 - power(s.beta1, s.step)))),
        l2(static_cast<float>(s.decoupled ? 0.0 : s.weight_decay)),
        keep(static_cast<float>(s.decoupled ? 1 - s.lr * s.weight_decay : 1.0)) {}

  void apply(Vec& p, Vec g, Vec& m, Vec& v) const {
    g = fma(l2, p, g);
    m = fma(beta1, m, one_minus_beta1 * g);
    v = fma(beta2, v, one_minus_beta2 * g * g);
    // v's correction is that of its root: v itself may be too large for it.
    p = fma(minus_rate, m / fma(sqrt(v), root_correction2, eps), keep * p);
  }
};

void adam(const Context& context, const AdamStep& s, int64_t count, const AdamParameter<float>* parameters) {
  const AdamVec step(s);
  for (int64_t j = 0; j < count; ++j) {
    const AdamParameter<float>& of = parameters[j];
    parallel_for(context, of.n, kElementGrain, [&](int64_t begin, int64_t end, int) {
      for_lanes(begin, end, [&](int64_t i, auto lanes) {
        Vec pi = lanes.get(of.p + i), mi = lanes.get(of.m + i), vi = lanes.get(of.v + i);
        step.apply(pi, lanes.get(of.g + i), mi, vi);
        lanes.put(of.p + i, pi);
        lanes.put(of.m + i, mi);
        lanes.put(of.v + i, vi);
      });
    });
  }
}

struct SgdVec {
  Vec minus_lr, momentum, weight_decay;
  bool nesterov;

  explicit SgdVec(const SgdStep& s)
      : minus_lr(static_cast<float>(-s.lr)),
        momentum(static_cast<float>(s.momentum)),
        weight_decay(static_cast<float>(s.weight_decay)),
        nesterov(s.nesterov) {}
};

template <bool has_momentum>
void sgd_span(const SgdVec& step, int64_t begin, int64_t end, float* p, const float* g, float* buf) {
  for_lanes(begin, end, [&](int64_t i, auto lanes) {
    const Vec value = lanes.get(p + i);
    Vec change = fma(step.weight_decay, value, lanes.get(g + i));
    if constexpr (has_momentum) {
      const Vec velocity = fma(step.momentum, lanes.get(buf + i), change);
      lanes.put(buf + i, velocity);
      change = step.nesterov ? fma(step.momentum, velocity, change) : velocity;
    }
    lanes.put(p + i, fma(step.minus_lr, change, value));
  });
}

void sgd(const Context& context, const SgdStep& s, int64_t n, float* p, const float* g, float* buf) {
  const SgdVec step(s);
  const auto span = s.momentum == 0 ? sgd_span<false> : sgd_span<true>;
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) { span(step, begin, end, p, g, buf); });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_optim(Table<float>& t) {
  t.adam = adam;
  t.sgd = sgd;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
