// Every differentiable operation on inputs and seeds of every layout, and with each input a constant in turn.
#include <doctest/doctest.h>

#include "op_cases.h"
#include "tensor/create.h"
#include "tests/support.h"
#include "tests/tensor/layouts.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

/// What an operation computes in f32 of the case's inputs; each may be in another layout, and one a constant.
struct Run {
  explicit Run(const OpCase& which) : op_case(which) {
    for (const Tensor& x : op_case.draw()) inputs.push_back(x.to(DType::f32));
    const Tensor y = op_case.function({inputs.begin(), inputs.end()}).value();
    seed = arange(y.numel(), 0.5, 0.0625).reshape(y.shape());
  }

  /// The value, then the gradients of the inputs; undefined that of a constant.
  std::vector<Tensor> operator()(size_t constant = SIZE_MAX) const {
    std::vector<Variable> variables;
    for (size_t i = 0; i < inputs.size(); ++i) variables.emplace_back(inputs[i], i != constant);
    const Variable y = op_case.function(variables);
    y.backward(seed);
    std::vector<Tensor> results{y.value()};
    for (const Variable& x : variables) results.push_back(x.grad());
    return results;
  }

  const OpCase& op_case;
  std::vector<Tensor> inputs;
  Tensor seed;
};

// Sums of at most 33 terms, in another order where a view is read in place.
void check_close(const std::vector<Tensor>& found, const std::vector<Tensor>& expected) {
  for (size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    CHECK(worst_difference(found[i], expected[i]) <= 2e-6);
    if (i > 0) CHECK(found[i].is_contiguous());
  }
}

}  // namespace

TEST_CASE("layout: inputs and seeds of any give what contiguous ones do") {
  for (const OpCase& op_case : op_cases()) {
    CAPTURE(op_case.label);
    const Run plain(op_case);
    const std::vector<Tensor> expected = plain();
    for (const Layout layout : kLayouts) {
      CAPTURE(static_cast<int>(layout));
      Run inputs = plain, seed = plain;
      for (Tensor& x : inputs.inputs) x = laid_out(x, layout);
      check_close(inputs(), expected);
      seed.seed = laid_out(seed.seed, layout);
      check_close(seed(), expected);
    }
    Run whole = plain, repeated = plain;
    whole.seed = full(plain.seed.shape(), 0.5);
    repeated.seed = scalar(0.5).expand(plain.seed.shape());
    check_close(repeated(), whole());
  }
}

TEST_CASE("layout: an input that is a constant gets no gradient, and the others get theirs") {
  for (const OpCase& op_case : op_cases()) {
    if (op_case.inputs.size() < 2) continue;
    CAPTURE(op_case.label);
    const Run run(op_case);
    const std::vector<Tensor> expected = run();
    for (size_t constant = 0; constant < run.inputs.size(); ++constant) {
      const std::vector<Tensor> found = run(constant);
      for (size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK((i == constant + 1 ? !found[i].defined() : same_bits(found[i], expected[i])));
      }
    }
  }
}
