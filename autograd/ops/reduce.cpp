// Sums, means and squared errors.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

// weight * sum (a-b)^2. The gradient 2 * weight * (a - b) * g is computed when asked for, not kept.
Variable squared_error(const char* op, const Variable& a, const Variable& b, double weight) {
  const Tensor x = a.value(), y = b.value();
  check(x.shape() == y.shape() && x.dtype() == y.dtype(), "{}: {} {} and {} {} differ", op, name(x.dtype()), x.shape(),
        name(y.dtype()), y.shape());
  check(is_floating(x.dtype()), "{}: expected f32 or f64, found {}", op, name(x.dtype()));
  const Tensor value = qinco::squared_error(x, y, weight);
  return record(op, value, {a, b}, [x, y, weight](const Tensor& g, InputGradients& into) {
    const Tensor gradient = qinco::mul(qinco::sub(x, y), scale(g, 2 * weight));
    if (into.needed(0)) into.set(0, gradient);
    if (into.needed(1)) into.set(1, qinco::neg(gradient));
  });
}

}  // namespace

Variable sum(const Variable& x) {
  return record("sum", qinco::sum(x.value()), {x},
                [shape = x.shape()](const Tensor& g, InputGradients& into) { into.set(0, g.expand(shape)); });
}

Variable mean(const Variable& x) {
  return record("mean", qinco::mean(x.value()), {x}, [shape = x.shape()](const Tensor& g, InputGradients& into) {
    into.set(0, scale(g, 1 / static_cast<double>(shape.numel())).expand(shape));
  });
}

Variable sum(const Variable& x, int64_t dim, bool keepdim) {
  const int d = normalise_dim(dim, x.value().dim(), "sum");
  return record("sum", qinco::sum(x.value(), d, keepdim), {x},
                [d, keepdim, shape = x.shape()](const Tensor& g, InputGradients& into) {
                  into.set(0, (keepdim ? g : g.unsqueeze(d)).expand(shape));
                });
}

Variable mean(const Variable& x, int64_t dim, bool keepdim) {
  const int d = normalise_dim(dim, x.value().dim(), "mean");
  return record("mean", qinco::mean(x.value(), d, keepdim), {x},
                [d, keepdim, shape = x.shape()](const Tensor& g, InputGradients& into) {
                  const Tensor share = scale(g, 1 / static_cast<double>(shape[d]));
                  into.set(0, (keepdim ? share : share.unsqueeze(d)).expand(shape));
                });
}

Variable mse_loss(const Variable& a, const Variable& b) {
  check(a.value().numel() > 0, "mse_loss: shape {} has no elements", a.shape());
  return squared_error("mse_loss", a, b, 1 / static_cast<double>(a.value().numel()));
}

Variable sum_squared_error(const Variable& a, const Variable& b) {
  return squared_error("sum_squared_error", a, b, 1);
}

}  // namespace qinco::autograd
