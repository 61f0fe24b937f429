// Element-wise operations. Un-broadcasting of gradients is the engine's business.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "kernels/functors.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

using kernels::UnaryOp;

// Only what the derivative reads of x and y = op(x) is kept for the backward pass.
Variable apply(const char* op_name, UnaryOp op, const Variable& x) {
  const Tensor y = qinco::unary(op, x.value());
  Tensor saved_x, saved_y;
  kernels::functors::visit_unary(op, [&](auto functor) {
    if (functor.kReadsX) saved_x = x.value();
    if (functor.kReadsY) saved_y = y;
  });
  return record(op_name, y, {x}, [op, saved_x, saved_y](const Tensor& g, InputGradients& into) {
    into.set(0, qinco::unary_backward(op, saved_x, saved_y, g));
  });
}

// The larger or the smaller of two. Half of the gradient, and half of it times the sign of a - b, which is 0 for equal
// ones: together the gradient of the larger; the one without the other, that of the smaller.
Variable choice(const char* op, const Variable& a, const Variable& b, const Tensor& chosen, bool larger) {
  return record(op, chosen, {a, b}, [x = a.value(), y = b.value(), larger](const Tensor& g, InputGradients& into) {
    const Tensor half = scale(g, 0.5), tilt = qinco::unary_backward(UnaryOp::abs, qinco::sub(x, y), {}, half);
    if (into.needed(0)) into.set(0, larger ? half + tilt : half - tilt);
    if (into.needed(1)) into.set(1, larger ? half - tilt : half + tilt);
  });
}

}  // namespace

#define QINCO_DEFINE_UNARY(op)         \
  Variable op(const Variable& x) {     \
    return apply(#op, UnaryOp::op, x); \
  }
QINCO_UNARY_OPS(QINCO_DEFINE_UNARY)
#undef QINCO_DEFINE_UNARY

Variable add(const Variable& a, const Variable& b) {
  return record("add", qinco::add(a.value(), b.value()), {a, b}, [](const Tensor& g, InputGradients& into) {
    if (into.needed(0)) into.set(0, g);
    if (into.needed(1)) into.set(1, g);
  });
}

Variable sub(const Variable& a, const Variable& b) {
  return record("sub", qinco::sub(a.value(), b.value()), {a, b}, [](const Tensor& g, InputGradients& into) {
    if (into.needed(0)) into.set(0, g);
    if (into.needed(1)) into.set(1, qinco::neg(g));
  });
}

Variable mul(const Variable& a, const Variable& b) {
  const Tensor x = kept_for(b, a.value()), y = kept_for(a, b.value());
  return record("mul", qinco::mul(a.value(), b.value()), {a, b}, [x, y](const Tensor& g, InputGradients& into) {
    if (into.needed(0)) into.set(0, qinco::mul(g, y));
    if (into.needed(1)) into.set(1, qinco::mul(g, x));
  });
}

Variable div(const Variable& a, const Variable& b) {
  const Tensor y = b.value();
  const Tensor quotient = qinco::div(a.value(), y);
  return record("div", quotient, {a, b}, [y, quotient = kept_for(b, quotient)](const Tensor& g, InputGradients& into) {
    const Tensor share = qinco::div(g, y);
    if (into.needed(0)) into.set(0, share);
    if (into.needed(1)) into.set(1, qinco::neg(qinco::mul(share, quotient)));
  });
}

Variable maximum(const Variable& a, const Variable& b) {
  return choice("maximum", a, b, qinco::maximum(a.value(), b.value()), true);
}

Variable minimum(const Variable& a, const Variable& b) {
  return choice("minimum", a, b, qinco::minimum(a.value(), b.value()), false);
}

Variable clamp(const Variable& x, double lo, double hi) {
  const Tensor y = qinco::clamp(x.value(), lo, hi);
  return record("clamp", y, {x}, [y, lo, hi](const Tensor& g, InputGradients& into) {
    // As through a relu of the distance to the nearer bound.
    into.set(0, qinco::unary_backward(UnaryOp::relu, {}, qinco::minimum(y - lo, hi - y), g));
  });
}

}  // namespace qinco::autograd
