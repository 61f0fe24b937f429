// One object per case of a differentiable operation. It drives: f32 on every ISA against the double reference,
// gradcheck in double, the PyTorch goldens (tests/golden/make_ops_golden.py has the same labels), and the coverage
// test.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace qinco::tests {

/// How an input's values are drawn.
enum class Draw {
  plain,     // uniform in -1..1
  positive,  // uniform in 0.5..2
  off_zero,  // uniform in 0.2..1.5 with either sign: away from the kink of relu
  biased,    // alternately near +3 and -3: keeps pre-activations of small inputs away from 0
};

struct Input {
  Shape shape;
  Draw draw = Draw::plain;
};

struct OpCase {
  std::string label;  // "NAME" or "NAME: VARIANT"; NAME is the function of autograd/ops.h
  std::vector<Input> inputs;
  std::function<autograd::Variable(const std::vector<autograd::Variable>&)> function;

  std::string op() const { return label.substr(0, label.find(':')); }
  /// f64 values that are exact in f32; the same in every run.
  std::vector<Tensor> draw() const;
};

const std::vector<OpCase>& op_cases();

}  // namespace qinco::tests
