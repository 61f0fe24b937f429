// Gradients against finite differences.
#pragma once

#include <functional>
#include <vector>

#include "autograd/variable.h"

namespace qinco::autograd {

using Function = std::function<Variable(const std::vector<Variable>&)>;

/// Compares backward() of f with 4th-order central differences, in double, at `inputs` (f64, on one device; each gets a
/// gradient). f may return any shape: it is projected onto fixed random weights. Returns the worst relative error
/// |analytic - numeric| / max(|analytic|, |numeric|, 1% of that input's largest gradient); NaN if any is NaN.
double gradcheck(const Function& f, const std::vector<Tensor>& inputs);

}  // namespace qinco::autograd
