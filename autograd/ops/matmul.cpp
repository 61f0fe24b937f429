// Matrix products and the fully connected layer with its fused forms.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

// x [..,c] as [rows,c].
Tensor as_rows(const Tensor& x) {
  return x.dim() == 2 ? x : x.reshape({x.numel() / x.size(-1), x.size(-1)});
}

// Gradients of x w^T + b for inputs 0 (x), 1 (w), 2 (b) from that of the sum, g [..,out].
void linear_backward(const Tensor& x, const Tensor& w, const Tensor& g, InputGradients& into) {
  if (g.numel() == 0 || x.numel() == 0) {
    if (into.needed(0)) into.set(0, zeros_like(x));
    if (into.needed(1)) into.set(1, zeros_like(w));
    if (into.needed(2)) into.set(2, sum_to(g, {w.size(0)}));
    return;
  }
  const Tensor rows = as_rows(g);
  if (into.needed(0)) into.set(0, qinco::matmul(rows, w).reshape(x.shape()));
  if (into.needed(1)) into.set(1, qinco::matmul(rows, as_rows(x), true, false));
  if (into.needed(2)) into.set(2, qinco::sum(rows, 0));
}

Tensor value_or_none(const Variable& v) {
  return v.defined() ? v.value() : Tensor();
}

}  // namespace

Variable matmul(const Variable& a, const Variable& b, bool trans_a, bool trans_b) {
  const Tensor x = kept_for(b, a.value()), y = kept_for(a, b.value());
  return record("matmul", qinco::matmul(a.value(), b.value(), trans_a, trans_b), {a, b},
                [x, y, trans_a, trans_b](const Tensor& g, InputGradients& into) {
                  // With A = op(a), B = op(b): dA = g B^T, dB = A^T g; a stored transposed gets the transposed product.
                  if (into.needed(0))
                    into.set(0, trans_a ? qinco::matmul(y, g, trans_b, true) : qinco::matmul(g, y, false, !trans_b));
                  if (into.needed(1))
                    into.set(1, trans_b ? qinco::matmul(g, x, true, trans_a) : qinco::matmul(x, g, !trans_a, false));
                });
}

Variable linear(const Variable& x, const Variable& w, const Variable& b) {
  const Tensor in = x.value(), weight = w.value();
  return record("linear", qinco::linear(in, weight, value_or_none(b)), {x, w, b},
                [in, weight](const Tensor& g, InputGradients& into) { linear_backward(in, weight, g, into); });
}

Variable linear_relu(const Variable& x, const Variable& w, const Variable& b) {
  const Tensor in = x.value(), weight = w.value();
  const Tensor out = qinco::linear(in, weight, value_or_none(b), {}, true);
  return record("linear_relu", out, {x, w, b}, [in, weight, out](const Tensor& g, InputGradients& into) {
    linear_backward(in, weight, qinco::unary_backward(kernels::UnaryOp::relu, {}, out, g), into);
  });
}

Variable linear_residual(const Variable& x, const Variable& w, const Variable& residual, const Variable& b) {
  const Tensor in = x.value(), weight = w.value();
  return record("linear_residual", qinco::linear(in, weight, value_or_none(b), residual.value()), {x, w, b, residual},
                [in, weight](const Tensor& g, InputGradients& into) {
                  linear_backward(in, weight, g, into);
                  if (into.needed(3)) into.set(3, g);
                });
}

}  // namespace qinco::autograd
