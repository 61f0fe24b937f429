// Differentiable operations. f32 and f64; shapes as in tensor/ops.h, and the same one-line errors.
//
// Forward and backward of each are one function of ops/<family>.cpp. An operand that is a Tensor is a constant; targets
// and ids are copied, so that they may be changed before backward().
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/variable.h"
#include "kernels/kernels.h"
#include "tensor/operators.h"

namespace qinco::autograd {

// Element-wise: neg relu gelu tanh sigmoid exp log sqrt square abs silu; add sub mul div maximum minimum
// (broadcasting). Of equal operands of maximum and minimum each gets half of the gradient, as in PyTorch.
#define QINCO_DECLARE_UNARY(op) Variable op(const Variable& x);
QINCO_UNARY_OPS(QINCO_DECLARE_UNARY)
#undef QINCO_DECLARE_UNARY
#define QINCO_DECLARE_BINARY(op) Variable op(const Variable& a, const Variable& b);
QINCO_BINARY_OPS(QINCO_DECLARE_BINARY)
#undef QINCO_DECLARE_BINARY

// The same as operators; a number counts as scalar_like(number, other operand).
QINCO_OPERATORS(QINCO_DEFINE_OPERATOR, Variable)
QINCO_DEFINE_WITH_NUMBERS(Variable, maximum, maximum)
QINCO_DEFINE_WITH_NUMBERS(Variable, minimum, minimum)
inline Variable operator-(const Variable& x) {
  return neg(x);
}

/// minimum(maximum(x, lo), hi), but for the gradient: that is 0 from either bound on, and whole between them.
Variable clamp(const Variable& x, double lo, double hi);

/// op(a) op(b): [m,k] x [k,n], or the same for each of equal leading dimensions.
Variable matmul(const Variable& a, const Variable& b, bool trans_a = false, bool trans_b = false);
/// x w^T + b: x [..,in], w [out,in], b [out] or undefined.
Variable linear(const Variable& x, const Variable& w, const Variable& b = {});
/// relu(x w^T + b) in one pass.
Variable linear_relu(const Variable& x, const Variable& w, const Variable& b = {});
/// x w^T + b + residual in one pass; residual [..,out].
Variable linear_residual(const Variable& x, const Variable& w, const Variable& residual, const Variable& b = {});

/// Over the last dimension.
Variable softmax(const Variable& x);
Variable log_softmax(const Variable& x);
/// mean_i -log_probabilities[i, targets[i]]: [n,C] and i32 [n]. Error for a target outside 0..C-1.
Variable nll_loss(const Variable& log_probabilities, const Tensor& targets);
/// nll_loss(log_softmax(logits), targets) in one pass. With `label_smoothing`, 0..1, that part of a row's weight goes
/// to all its C classes alike, as in PyTorch.
Variable cross_entropy(const Variable& logits, const Tensor& targets, double label_smoothing = 0);
/// Mean over all elements of (a-b)^2; equal shapes.
Variable mse_loss(const Variable& a, const Variable& b);
/// sum (a-b)^2; equal shapes.
Variable sum_squared_error(const Variable& a, const Variable& b);

/// Of all elements: shape [].
Variable sum(const Variable& x);
Variable mean(const Variable& x);
/// Over one dimension, which is removed, or kept with size 1.
Variable sum(const Variable& x, int64_t dim, bool keepdim = false);
Variable mean(const Variable& x, int64_t dim, bool keepdim = false);

Variable concat(const std::vector<Variable>& parts, int64_t dim);
/// Along a new dimension.
Variable stack(const std::vector<Variable>& parts, int64_t dim);
Variable slice(const Variable& x, int64_t dim, int64_t begin, int64_t end);
Variable reshape(const Variable& x, const Shape& shape);
Variable transpose(const Variable& x, int64_t i, int64_t j);

/// weight[ids]: weight [N,d], ids i32 of any shape: [ids.shape.., d].
Variable embedding(const Variable& weight, const Tensor& ids);
/// Over the last dimension, of size c: (x - mean) / sqrt(var + eps) * gamma + beta; gamma, beta [c].
Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps = 1e-5);

}  // namespace qinco::autograd
