// Softmax, log-softmax and the losses of classification.
#include <algorithm>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

using kernels::Context;

// A copy of the targets as a list on the CPU, which stays when the caller fills theirs again, checked against
// log-probabilities or logits [n,C].
Tensor checked_targets(const char* op, const Tensor& scores, const Tensor& targets) {
  check(scores.dim() == 2 && targets.dim() == 1 && targets.dtype() == DType::i32 && targets.size(0) == scores.size(0),
        "{}: scores {} and targets {} {}: expected [n,C] and i32 [n]", op, scores.shape(), name(targets.dtype()),
        targets.shape());
  check(targets.numel() > 0, "{}: no rows", op);
  const Tensor list = targets.clone(Device{});
  const int32_t* const data = list.data<int32_t>();
  const int64_t classes = scores.size(1);
  const auto* const bad = std::find_if(data, data + list.numel(), [&](int32_t t) { return t < 0 || t >= classes; });
  check(bad == data + list.numel(), "{}: target {} at position {}, expected 0..{}", op, *bad, bad - data, classes - 1);
  return list;
}

// mean_i -log_probabilities[i, targets[i]], picked by the CPU: one of C values a row.
Tensor mean_negative_pick(const Tensor& log_probabilities, const Tensor& targets) {
  const int64_t n = log_probabilities.size(0), classes = log_probabilities.size(1);
  const Tensor scores = log_probabilities.contiguous().to(Device{});
  return floating_dtype("nll_loss", scores.dtype(), [&]<class T>() {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total -= double{scores.data<T>()[i * classes + targets.data<int32_t>()[i]]};
    return scalar(total / static_cast<double>(n), scores.dtype(), log_probabilities.device());
  });
}

// x[i, targets[i]] += value
void add_at_targets(const Tensor& x, const Tensor& targets, double value) {
  const int64_t classes = x.size(1);
  if (x.device().type != DeviceType::cpu) {
    const Tensor added = zeros(x.shape(), x.dtype());
    add_at_targets(added, targets, value);
    return axpby(1, added.to(x.device()), 1, x);
  }
  floating_dtype("nll_loss", x.dtype(), [&]<class T>() {
    for (int64_t i = 0; i < x.size(0); ++i)
      x.data<T>()[i * classes + targets.data<int32_t>()[i]] += static_cast<T>(value);
  });
}

// y = op(x), whose gradient the kernel that pick(table) is computes from y.
template <class Pick>
Variable of_result(const char* op, const Variable& x, const Tensor& y, Pick pick) {
  return record(op, y, {x}, [op, y, pick](const Tensor& g, InputGradients& into) {
    const Tensor dy = g.contiguous(), dx = Tensor::empty(y.shape(), y.dtype(), y.device());
    const Context& context = Context::of(y.device());
    floating_dtype(op, y.dtype(), [&]<class T>() {
      const auto backward = pick(kernels::table<T>(context.device));
      backward(context, y.numel() / y.size(-1), y.size(-1), y.data<T>(), dy.data<T>(), dx.data<T>());
    });
    into.set(0, dx);
  });
}

}  // namespace

Variable softmax(const Variable& x) {
  return of_result("softmax", x, qinco::softmax(x.value()), [](const auto& table) { return table.softmax_backward; });
}

Variable log_softmax(const Variable& x) {
  return of_result("log_softmax", x, qinco::log_softmax(x.value()),
                   [](const auto& table) { return table.log_softmax_backward; });
}

Variable nll_loss(const Variable& log_probabilities, const Tensor& targets) {
  const Tensor list = checked_targets("nll_loss", log_probabilities.value(), targets);
  return record("nll_loss", mean_negative_pick(log_probabilities.value(), list), {log_probabilities},
                [list, shape = log_probabilities.shape()](const Tensor& g, InputGradients& into) {
                  const Tensor dx = zeros(shape, g.dtype(), g.device());
                  add_at_targets(dx, list, -g.item<double>() / static_cast<double>(shape[0]));
                  into.set(0, dx);
                });
}

Variable cross_entropy(const Variable& logits, const Tensor& targets, double label_smoothing) {
  const double s = label_smoothing;
  check(s >= 0 && s <= 1, "cross_entropy: expected a label smoothing from 0 to 1, found {}", s);
  const Tensor list = checked_targets("cross_entropy", logits.value(), targets);
  const Tensor log_probabilities = qinco::log_softmax(logits.value());
  const Tensor loss = mean_negative_pick(log_probabilities, list);
  if (s > 0) axpby(-s, qinco::mean(log_probabilities), 1 - s, loss);
  return record("cross_entropy", loss, {logits}, [list, log_probabilities, s](const Tensor& g, InputGradients& into) {
    // (softmax - (1-s) one_hot - s/C) / n
    const double weight = g.item<double>() / static_cast<double>(log_probabilities.size(0));
    const Tensor dx = scale(qinco::exp(log_probabilities), weight);
    add_at_targets(dx, list, -weight * (1 - s));
    into.set(0, s > 0 ? dx - weight * s / static_cast<double>(dx.size(1)) : dx);
  });
}

}  // namespace qinco::autograd
