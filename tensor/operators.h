// The operators of tensors, and of the variables of autograd/ops.h, which have the same operations; and numbers among
// the operands of operations.
#pragma once

/// Defines `name` with a number on either side, by `function` and scalar_like(number, other operand).
#define QINCO_DEFINE_WITH_NUMBERS(type, name, function) \
  inline type name(const type& a, double b) {           \
    return function(a, scalar_like(b, a));              \
  }                                                     \
  inline type name(double a, const type& b) {           \
    return function(scalar_like(a, b), b);              \
  }

/// Defines `op` on `type`, and with numbers.
#define QINCO_DEFINE_OPERATOR(type, op, function)         \
  inline type operator op(const type& a, const type& b) { \
    return function(a, b);                                \
  }                                                       \
  QINCO_DEFINE_WITH_NUMBERS(type, operator op, function)

/// X(type, operator, function) for each, in the namespace that has the functions.
#define QINCO_OPERATORS(X, type) X(type, +, add) X(type, -, sub) X(type, *, mul) X(type, /, div)
