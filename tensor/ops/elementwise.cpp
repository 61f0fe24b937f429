// Element-wise operations: broadcasting by strides where the kernel can, by copying where it cannot.
#include <array>

#include "kernels/functors.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using kernels::BinaryOp;
using kernels::Context;
using kernels::Operand;
using kernels::UnaryOp;

constexpr const char* kUnaryNames[] = {
#define QINCO_NAME(op) #op,
    QINCO_UNARY_OPS(QINCO_NAME)};
constexpr const char* kBinaryNames[] = {QINCO_BINARY_OPS(QINCO_NAME)
#undef QINCO_NAME
};

const char* name_of(UnaryOp op) {
  return kUnaryNames[static_cast<size_t>(op)];
}
const char* name_of(BinaryOp op) {
  return kBinaryNames[static_cast<size_t>(op)];
}

/// Two operands over one output, with dimensions merged wherever both allow it.
struct Merged {
  int ndim = 0;
  std::array<int64_t, kMaxDims> sizes{};
  Strides a{}, b{};
};

// a and b are already expanded to the same shape.
Merged merge(const Tensor& a, const Tensor& b) {
  Merged m;
  for (int i = 0; i < a.dim(); ++i) {
    const int64_t size = a.shape()[i];
    if (size == 1) continue;
    const auto at = static_cast<size_t>(i), last = static_cast<size_t>(m.ndim - 1);
    const int64_t step_a = a.strides()[at], step_b = b.strides()[at];
    if (m.ndim > 0 && m.a[last] == step_a * size && m.b[last] == step_b * size) {
      m.sizes[last] *= size;
      m.a[last] = step_a;
      m.b[last] = step_b;
      continue;
    }
    const auto next = static_cast<size_t>(m.ndim++);
    m.sizes[next] = size;
    m.a[next] = step_a;
    m.b[next] = step_b;
  }
  return m;
}

bool kernel_can_read(const Merged& m, const Strides& strides) {
  const int64_t col_stride = m.ndim > 0 ? strides[static_cast<size_t>(m.ndim - 1)] : 0;
  return m.ndim <= 2 && (col_stride == 0 || col_stride == 1);
}

template <class T>
Operand<T> operand(const Tensor& x, const Merged& m, const Strides& strides) {
  return {x.data<T>(), m.ndim == 2 ? strides[0] : 0, m.ndim > 0 ? strides[static_cast<size_t>(m.ndim - 1)] : 0};
}

}  // namespace

Tensor unary(UnaryOp op, const Tensor& x) {
  const Context& context = context_of(name_of(op), {&x});
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  floating_dtype(name_of(op), x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device).unary(context, op, in.numel(), in.data<T>(), out.data<T>());
  });
  return out;
}

Tensor unary_backward(UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy) {
  const Context& context = context_of(name_of(op), {&dy}, {&x, &y});
  const auto check_operand = [&](const char* which, const Tensor& operand, bool is_read) {
    check(operand.defined() || !is_read, "{}: its derivative reads {}, which is undefined", name_of(op), which);
    check(!operand.defined() || (operand.shape() == dy.shape() && operand.dtype() == dy.dtype()),
          "{}: {} {} {} and its gradient {} {} differ", name_of(op), which, name(operand.dtype()), operand.shape(),
          name(dy.dtype()), dy.shape());
  };
  kernels::functors::visit_unary(op, [&](auto functor) {
    check_operand("x", x, functor.kReadsX);
    check_operand("y", y, functor.kReadsY);
  });
  const Tensor g = dy.contiguous();
  const Tensor in = x.defined() ? x.contiguous() : x, result = y.defined() ? y.contiguous() : y;
  const Tensor out = Tensor::empty(g.shape(), g.dtype(), g.device());
  floating_dtype(name_of(op), g.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .unary_backward(context, op, g.numel(), in.defined() ? in.data<T>() : nullptr,
                        result.defined() ? result.data<T>() : nullptr, g.data<T>(), out.data<T>());
  });
  return out;
}

Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b) {
  const Context& context = context_of(name_of(op), {&a, &b});
  check(a.dtype() == b.dtype(), "{}: dtypes {} and {} differ", name_of(op), name(a.dtype()), name(b.dtype()));
  const Shape shape = broadcast_shapes(a.shape(), b.shape(), name_of(op));
  Tensor left = a.expand(shape), right = b.expand(shape);
  Merged m = merge(left, right);
  // Too many dimensions, or a layout such as a transposed one: copy what is not in row-major order already.
  if (!kernel_can_read(m, m.a) || !kernel_can_read(m, m.b)) {
    left = left.contiguous();
    m = merge(left, right);
    if (!kernel_can_read(m, m.a) || !kernel_can_read(m, m.b)) right = right.contiguous();
    m = merge(left, right);
  }
  const Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  const int64_t rows = m.ndim == 2 ? m.sizes[0] : 1;
  const int64_t cols = m.ndim > 0 ? m.sizes[static_cast<size_t>(m.ndim - 1)] : 1;
  if (out.numel() == 0) return out;
  floating_dtype(name_of(op), a.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .binary(context, op, rows, cols, operand<T>(left, m, m.a), operand<T>(right, m, m.b), out.data<T>());
  });
  return out;
}

#define QINCO_DEFINE_UNARY(op)    \
  Tensor op(const Tensor& x) {    \
    return unary(UnaryOp::op, x); \
  }
QINCO_UNARY_OPS(QINCO_DEFINE_UNARY)
#undef QINCO_DEFINE_UNARY
#define QINCO_DEFINE_BINARY(op)                 \
  Tensor op(const Tensor& a, const Tensor& b) { \
    return binary(BinaryOp::op, a, b);          \
  }
QINCO_BINARY_OPS(QINCO_DEFINE_BINARY)
#undef QINCO_DEFINE_BINARY

Tensor clamp(const Tensor& x, double lo, double hi) {
  context_of("clamp", {&x});
  check(is_floating(x.dtype()), "clamp: expected f32 or f64, found {}", name(x.dtype()));
  return minimum(maximum(x, lo), hi);
}

void axpby(double alpha, const Tensor& x, double beta, const Tensor& y) {
  const Context& context = context_of("axpby", {&x, &y});
  check(x.shape() == y.shape() && x.dtype() == y.dtype(), "axpby: {} {} and {} {} differ", name(x.dtype()), x.shape(),
        name(y.dtype()), y.shape());
  check(y.is_contiguous(), "axpby: expected a contiguous result of shape {}", y.shape());
  const Tensor in = x.contiguous();
  floating_dtype("axpby", x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .axpby(context, in.numel(), static_cast<T>(alpha), in.data<T>(), static_cast<T>(beta), y.data<T>());
  });
}

Tensor scale(const Tensor& x, double alpha) {
  context_of("scale", {&x});
  check(is_floating(x.dtype()), "scale: expected f32 or f64, found {}", name(x.dtype()));
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  axpby(alpha, x, 0, out);
  return out;
}

}  // namespace qinco
