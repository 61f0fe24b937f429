// The operators of tensors, and of the variables of autograd/ops.h, which have the same operations.
#pragma once

/// Defines `op` on `type`, and with a number on either side, by `function` and scalar_like(number, other operand).
#define QINCO_DEFINE_OPERATOR(type, op, function)         \
  inline type operator op(const type& a, const type& b) { \
    return function(a, b);                                \
  }                                                       \
  inline type operator op(const type& a, double b) {      \
    return function(a, scalar_like(b, a));                \
  }                                                       \
  inline type operator op(double a, const type& b) {      \
    return function(scalar_like(a, b), b);                \
  }

/// X(type, operator, function) for each, in the namespace that has the functions.
#define QINCO_OPERATORS(X, type) X(type, +, add) X(type, -, sub) X(type, *, mul) X(type, /, div)
