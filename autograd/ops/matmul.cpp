// Matrix products and the fully connected layer with its fused forms.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

// x [..,c] as [rows,c].
Tensor as_rows(const Tensor& x) {
  return x.dim() == 2 ? x : x.reshape({x.shape().sub(0, x.dim() - 1).numel(), x.size(-1)});
}

/// What the gradients of x w^T + b need: each of x and w only for the other's.
struct LinearOperands {
  LinearOperands(const Variable& of_x, const Variable& of_w)
      : x(kept_for(of_w, of_x.value())), w(kept_for(of_x, of_w.value())) {}

  // For inputs 0 (x), 1 (w), 2 (b) from that of the sum, g [..,out].
  void backward(const Tensor& g, InputGradients& into) const {
    const Tensor rows = as_rows(g);
    if (into.needed(0)) {
      Shape shape = g.shape();
      shape[-1] = w.size(1);
      into.set(0, qinco::matmul(rows, w).reshape(shape));
    }
    if (into.needed(1)) into.set(1, qinco::matmul(rows, as_rows(x), true, false));
    if (into.needed(2)) into.set(2, qinco::sum(rows, 0));
  }

  Tensor x, w;
};

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
  return record("linear", qinco::linear(x.value(), w.value(), value_or_none(b)), {x, w, b},
                [kept = LinearOperands(x, w)](const Tensor& g, InputGradients& into) { kept.backward(g, into); });
}

Variable linear_relu(const Variable& x, const Variable& w, const Variable& b) {
  const Tensor out = qinco::linear(x.value(), w.value(), value_or_none(b), {}, true);
  return record("linear_relu", out, {x, w, b},
                [kept = LinearOperands(x, w), out](const Tensor& g, InputGradients& into) {
                  kept.backward(qinco::unary_backward(kernels::UnaryOp::relu, {}, out, g), into);
                });
}

Variable linear_residual(const Variable& x, const Variable& w, const Variable& residual, const Variable& b) {
  const Tensor out = qinco::linear(x.value(), w.value(), value_or_none(b), residual.value());
  return record("linear_residual", out, {x, w, b, residual},
                [kept = LinearOperands(x, w)](const Tensor& g, InputGradients& into) {
                  kept.backward(g, into);
                  if (into.needed(3)) into.set(3, g);
                });
}

}  // namespace qinco::autograd
