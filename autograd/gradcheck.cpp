#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "tensor/random.h"

namespace qinco::autograd {

namespace {

// sum_i weights[i] * f(inputs)[i]: any output as one number, with weights that no gradient cancels against.
class Projection {
 public:
  explicit Projection(const Function& f) : f_(f) {}

  Variable operator()(const std::vector<Variable>& inputs) {
    const Variable y = f_(inputs);
    if (!weights_.defined()) {
      weights_ = Tensor::empty(y.shape(), DType::f64, y.value().device());
      Random(0x5eed).uniform(weights_, 0.5, 1.5);
    }
    return sum(mul(y, weights_));
  }

 private:
  const Function& f_;
  Tensor weights_;
};

// The derivative by x[i], O(step^4): (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h. `values` is a copy of x on the CPU.
double numeric_derivative(Projection& project, const std::vector<Variable>& inputs, const Tensor& x,
                          const Tensor& values, int64_t i) {
  const NoGrad no_grad;
  double& moved = values.data<double>()[i];
  const double at = moved, step = 1e-3 * std::max(1.0, std::abs(at));
  const auto value = [&](double shift) {
    moved = at + shift * step;
    x.copy_from(values);
    return project(inputs).item();
  };
  const double difference = value(-2) - 8 * value(-1) + 8 * value(1) - value(2);
  moved = at;
  x.copy_from(values);
  return difference / (12 * step);
}

// NaN if either holds one.
double worst_relative_error(const std::vector<double>& analytic, const std::vector<double>& numeric) {
  double largest = 0, worst = 0;
  for (const double value : numeric) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < numeric.size(); ++i) {
    const double scale =
        std::max({std::abs(analytic[i]), std::abs(numeric[i]), 1e-2 * largest, std::numeric_limits<double>::min()});
    const double error = std::abs(analytic[i] - numeric[i]) / scale;
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

}  // namespace

double gradcheck(const Function& f, const std::vector<Tensor>& inputs) {
  std::vector<Variable> variables;
  for (const Tensor& input : inputs) {
    check(input.dtype() == DType::f64, "gradcheck: expected f64 inputs, found {}", name(input.dtype()));
    variables.emplace_back(input.clone(), true);
  }
  Projection project(f);
  project(variables).backward();
  double worst = 0;
  for (const Variable& variable : variables) {
    const Tensor& x = variable.value();
    const Tensor values = x.clone(Device{}), grad = variable.grad();
    check(grad.defined(), "gradcheck: an input of shape {} got no gradient", variable.shape());
    const int64_t n = grad.numel();
    const Tensor found = grad.to(Device{});
    std::vector<double> analytic(found.data<double>(), found.data<double>() + n), numeric;
    for (int64_t i = 0; i < n; ++i) numeric.push_back(numeric_derivative(project, variables, x, values, i));
    const double error = worst_relative_error(analytic, numeric);
    if (!(error <= worst)) worst = error;
    if (std::isnan(worst)) return worst;
  }
  return worst;
}

}  // namespace qinco::autograd
