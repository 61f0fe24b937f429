// Optimiser steps: the definition (PyTorch's formulas; every value is computed in double and rounded once).
#include <cmath>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void adam_one(const Context& context, const AdamStep& s, const AdamParameter<T>& of) {
  T *const p = of.p, *const m = of.m, *const v = of.v;
  const T* const g = of.g;
  const double correction1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correction2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  parallel_for(context, of.n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double parameter = p[i], gradient = g[i];
      if (s.decoupled) parameter -= s.lr * s.weight_decay * parameter;
      if (!s.decoupled) gradient += s.weight_decay * parameter;
      const double first = s.beta1 * m[i] + (1 - s.beta1) * gradient;
      const double second = s.beta2 * v[i] + (1 - s.beta2) * gradient * gradient;
      const double denominator = std::sqrt(second / correction2) + s.eps;
      p[i] = static_cast<T>(parameter - s.lr * (first / correction1) / denominator);
      m[i] = static_cast<T>(first);
      v[i] = static_cast<T>(second);
    }
  });
}

template <class T>
void adam(const Context& context, const AdamStep& s, int64_t count, const AdamParameter<T>* parameters) {
  for (int64_t i = 0; i < count; ++i) adam_one(context, s, parameters[i]);
}

template <class T>
void sgd(const Context& context, const SgdStep& s, int64_t n, T* p, const T* g, T* buf) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double step = g[i] + s.weight_decay * p[i];
      if (s.momentum != 0) {
        const double velocity = s.momentum * buf[i] + step;
        buf[i] = static_cast<T>(velocity);
        step = s.nesterov ? step + s.momentum * velocity : velocity;
      }
      p[i] = static_cast<T>(p[i] - s.lr * step);
    }
  });
}

}  // namespace

template <class T>
void fill_optim(Table<T>& t) {
  t.adam = adam<T>;
  t.sgd = sgd<T>;
}
template void fill_optim(Table<float>&);
template void fill_optim(Table<double>&);

}  // namespace qinco::kernels::reference
