// The element-wise operations: one functor each, forward and backward side by side, generic in the value type. The
// reference instantiates them for double, kernels/cpu for its vectors, kernels/cuda for float and double on the device;
// the arithmetic of a value type V is found by overload: + - * / unary -, <, <=, select, abs, sqrt, exp, log, tanh, erf
// and construction from a constant.
//
// An operation's `backward(x, y, dy)` returns dy * op'(x). kReadsX and kReadsY say which of x and y = op(x) it reads:
// a caller need keep only that one.
#pragma once

#include <cmath>

#include "kernels/host_device.h"
#include "kernels/kernels.h"

namespace qinco::kernels::functors {

// Arithmetic on double and float in the vocabulary of the vectors.
QINCO_HOST_DEVICE inline double select(bool condition, double a, double b) {
  return condition ? a : b;
}
QINCO_HOST_DEVICE inline double abs(double x) {
  return std::fabs(x);
}
QINCO_HOST_DEVICE inline double sqrt(double x) {
  return std::sqrt(x);
}
QINCO_HOST_DEVICE inline double exp(double x) {
  return std::exp(x);
}
QINCO_HOST_DEVICE inline double log(double x) {
  return std::log(x);
}
QINCO_HOST_DEVICE inline double tanh(double x) {
  return std::tanh(x);
}
QINCO_HOST_DEVICE inline double erf(double x) {
  return std::erf(x);
}
QINCO_HOST_DEVICE inline float select(bool condition, float a, float b) {
  return condition ? a : b;
}
QINCO_HOST_DEVICE inline float abs(float x) {
  return std::fabs(x);
}
QINCO_HOST_DEVICE inline float sqrt(float x) {
  return std::sqrt(x);
}
QINCO_HOST_DEVICE inline float exp(float x) {
  return std::exp(x);
}
QINCO_HOST_DEVICE inline float log(float x) {
  return std::log(x);
}
QINCO_HOST_DEVICE inline float tanh(float x) {
  return std::tanh(x);
}
QINCO_HOST_DEVICE inline float erf(float x) {
  return std::erf(x);
}

struct Neg {
  static constexpr bool kReadsX = false, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return -x;
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V, V dy) {
    return -dy;
  }
};

/// max(x, 0); NaN stays NaN. The derivative at 0 is 0.
struct Relu {
  static constexpr bool kReadsX = false, kReadsY = true;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return select(x < V(0), V(0), x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V y, V dy) {
    return select(y <= V(0), V(0), dy);
  }
};

/// x * Phi(x) with the exact normal distribution function Phi (PyTorch's default, not the tanh approximation).
struct Gelu {
  static constexpr bool kReadsX = true, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V normal_cdf(V x) {
    return V(0.5) * (V(1) + erf(x * V(0.70710678118654752440)));
  }
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return x * normal_cdf(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V x, V, V dy) {
    const V density = V(0.39894228040143267794) * exp(V(-0.5) * x * x);
    return dy * (normal_cdf(x) + x * density);
  }
};

struct Tanh {
  static constexpr bool kReadsX = false, kReadsY = true;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return tanh(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V y, V dy) {
    return dy * (V(1) - y * y);
  }
};

/// 1 / (1 + exp(-x)), written with exp(-|x|) <= 1 so that neither tail overflows.
struct Sigmoid {
  static constexpr bool kReadsX = false, kReadsY = true;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    const V e = exp(-abs(x));
    return select(x < V(0), e, V(1)) / (V(1) + e);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V y, V dy) {
    return dy * y * (V(1) - y);
  }
};

struct Exp {
  static constexpr bool kReadsX = false, kReadsY = true;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return exp(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V y, V dy) {
    return dy * y;
  }
};

struct Log {
  static constexpr bool kReadsX = true, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return log(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V x, V, V dy) {
    return dy / x;
  }
};

struct Sqrt {
  static constexpr bool kReadsX = false, kReadsY = true;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return sqrt(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V, V y, V dy) {
    return V(0.5) * dy / y;
  }
};

struct Square {
  static constexpr bool kReadsX = true, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return x * x;
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V x, V, V dy) {
    return V(2) * x * dy;
  }
};

/// |x|. The derivative at 0, and at NaN, is 0.
struct Abs {
  static constexpr bool kReadsX = true, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return abs(x);
  }
  template <class V>
  QINCO_HOST_DEVICE static V backward(V x, V, V dy) {
    return select(x < V(0), -dy, select(V(0) < x, dy, V(0)));
  }
};

/// x * sigmoid(x)
struct Silu {
  static constexpr bool kReadsX = true, kReadsY = false;
  template <class V>
  QINCO_HOST_DEVICE static V forward(V x) {
    return x * Sigmoid::forward(x);
  }
  // sigmoid(x) + x * sigmoid(x) * (1 - sigmoid(x)), whose product is e / (1 + e)^2 on either side: nothing cancels.
  template <class V>
  QINCO_HOST_DEVICE static V backward(V x, V, V dy) {
    const V e = exp(-abs(x)), sum = V(1) + e;
    return dy * ((select(x < V(0), e, V(1)) + x * e / sum) / sum);
  }
};

struct Add {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return a + b;
  }
};

struct Sub {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return a - b;
  }
};

struct Mul {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return a * b;
  }
};

struct Div {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return a / b;
  }
};

/// The larger, or the smaller; NaN where either is.
struct Maximum {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return select(a < b, b, select(b <= a, a, a + b));
  }
};

struct Minimum {
  template <class V>
  QINCO_HOST_DEVICE static V forward(V a, V b) {
    return select(b < a, b, select(a <= b, a, a + b));
  }
};

/// Calls body(functor) for `op`: the choice is made once, outside the loops. `Body` is a lambda, local to its file.
template <class Body>
void visit_unary(UnaryOp op, Body&& body) {
  switch (op) {
    case UnaryOp::neg:
      return body(Neg{});
    case UnaryOp::relu:
      return body(Relu{});
    case UnaryOp::gelu:
      return body(Gelu{});
    case UnaryOp::tanh:
      return body(Tanh{});
    case UnaryOp::sigmoid:
      return body(Sigmoid{});
    case UnaryOp::exp:
      return body(Exp{});
    case UnaryOp::log:
      return body(Log{});
    case UnaryOp::sqrt:
      return body(Sqrt{});
    case UnaryOp::square:
      return body(Square{});
    case UnaryOp::abs:
      return body(Abs{});
    case UnaryOp::silu:
      return body(Silu{});
  }
}

template <class Body>
void visit_binary(BinaryOp op, Body&& body) {
  switch (op) {
    case BinaryOp::add:
      return body(Add{});
    case BinaryOp::sub:
      return body(Sub{});
    case BinaryOp::mul:
      return body(Mul{});
    case BinaryOp::div:
      return body(Div{});
    case BinaryOp::maximum:
      return body(Maximum{});
    case BinaryOp::minimum:
      return body(Minimum{});
  }
}

}  // namespace qinco::kernels::functors
