// Sums, means, arg-min and arg-max.
#include <algorithm>

#include "kernels/kernels.h"
#include "tensor/create.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using kernels::Context;

/// x [outer,n,inner] summed over n: [outer,inner].
Tensor sum_middle(const char* op, const Tensor& x, int64_t outer, int64_t n, int64_t inner) {
  const Context& context = context_of(op, {&x});
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty({outer, inner}, x.dtype(), x.device());
  floating_dtype(op, x.dtype(), [&]<class T>() {
    const auto& table = kernels::table<T>(context.device);
    if (inner == 1) return table.row_sum(context, outer, n, in.data<T>(), out.data<T>());
    for (int64_t i = 0; i < outer; ++i)
      table.column_sum(context, n, inner, in.data<T>() + i * n * inner, out.data<T>() + i * inner);
  });
  return out;
}

int64_t product(const Shape& shape, int first, int last) {
  return shape.sub(first, last).numel();
}

double total(const char* op, const Tensor& x) {
  const Context& context = context_of(op, {&x});
  const Tensor in = x.contiguous();
  return floating_dtype(op, x.dtype(), [&]<class T>() {
    return kernels::table<T>(context.device).sum(context, in.numel(), in.data<T>());
  });
}

void check_matrix(const char* op, const Tensor& x) {
  check(x.dim() == 2, "{}: expected a matrix, found shape {}", op, x.shape());
}

// Of the smallest element of each row of x, or with `largest` of -x.
Tensor arg_rows(const char* op, const Tensor& x, bool largest) {
  const Context& context = context_of(op, {&x});
  check_matrix(op, x);
  check(x.size(1) > 0, "{}: the rows of shape {} are empty", op, x.shape());
  const Tensor out = Tensor::empty({x.size(0)}, DType::i32, x.device());
  floating_dtype(op, x.dtype(), [&]<class T>() {
    const Tensor in = largest ? neg(x) : x.contiguous();
    kernels::table<T>(context.device).row_argmin(context, in.size(0), in.size(1), in.data<T>(), out.data<int32_t>());
  });
  return out;
}

}  // namespace

Tensor sum(const Tensor& x) {
  return scalar_like(total("sum", x), x);
}

Tensor mean(const Tensor& x) {
  context_of("mean", {&x});
  check(x.numel() > 0, "mean: shape {} has no elements", x.shape());
  return scalar_like(total("mean", x) / static_cast<double>(x.numel()), x);
}

Tensor sum(const Tensor& x, int64_t dim, bool keepdim) {
  const int d = normalise_dim(dim, x.dim(), "sum");
  const Shape& shape = x.shape();
  Shape result = shape;
  result[d] = 1;
  if (!keepdim) result.erase(d);
  return sum_middle("sum", x, product(shape, 0, d), shape[d], product(shape, d + 1, shape.size())).reshape(result);
}

Tensor mean(const Tensor& x, int64_t dim, bool keepdim) {
  const int64_t n = x.size(dim);
  check(n > 0, "mean: dimension {} of shape {} is empty", dim, x.shape());
  return sum(x, dim, keepdim) / static_cast<double>(n);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  const int shift = x.dim() - shape.size();
  check(broadcasts_to(shape, x.shape()), "sum_to: shape {} does not broadcast to {}", shape, x.shape());
  const auto repeated = [&](int i) { return i < shift || (shape[i - shift] == 1 && x.shape()[i] != 1); };
  Tensor result = x;
  Shape kept = x.shape();
  // Neighbouring repeated dimensions are summed as one.
  for (int first = 0; first < x.dim();) {
    int last = first + 1;
    if (repeated(first)) {
      while (last < x.dim() && repeated(last)) ++last;
      result = sum_middle("sum_to", result, product(kept, 0, first), product(kept, first, last),
                          product(kept, last, x.dim()));
      for (int i = first; i < last; ++i) kept[i] = 1;
    }
    first = last;
  }
  return result.reshape(shape);
}

double sum_squared_difference(const Tensor& a, const Tensor& b) {
  const Context& context = context_of("sum_squared_difference", {&a, &b});
  check(a.shape() == b.shape() && a.dtype() == b.dtype(), "sum_squared_difference: {} {} and {} {} differ",
        name(a.dtype()), a.shape(), name(b.dtype()), b.shape());
  const Tensor left = a.contiguous(), right = b.contiguous();
  return floating_dtype("sum_squared_difference", a.dtype(), [&]<class T>() {
    return kernels::table<T>(context.device)
        .sum_squared_difference(context, left.numel(), left.data<T>(), right.data<T>());
  });
}

Tensor squared_error(const Tensor& a, const Tensor& b, double weight) {
  if (a.device().type == DeviceType::cpu) return scalar(weight * sum_squared_difference(a, b), a.dtype());
  // Without a number that the host would have to wait for.
  const Tensor difference = sub(a, b);
  check(difference.shape() == a.shape() && a.shape() == b.shape(), "squared_error: shapes {} and {} differ", a.shape(),
        b.shape());
  const int64_t n = a.numel(), cols = a.dim() == 0 ? 1 : std::max<int64_t>(a.size(-1), 1);
  return scale(sum(row_squared_norms(difference.reshape({n / cols, cols})), 0), weight);
}

Tensor row_squared_norms(const Tensor& x) {
  const Context& context = context_of("row_squared_norms", {&x});
  check_matrix("row_squared_norms", x);
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty({x.size(0)}, x.dtype(), x.device());
  floating_dtype("row_squared_norms", x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device).row_squared_norm(context, in.size(0), in.size(1), in.data<T>(), out.data<T>());
  });
  return out;
}

Tensor argmin_rows(const Tensor& x) {
  return arg_rows("argmin_rows", x, false);
}

Tensor argmax_rows(const Tensor& x) {
  return arg_rows("argmax_rows", x, true);
}

}  // namespace qinco
