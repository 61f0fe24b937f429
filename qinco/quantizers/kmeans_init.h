// Where k-means starts. x and the results are in the memory of the context's device, weights are the host's; draws, and
// the masses of k-means++ that they need, are the CPU's.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/context.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace qinco {

/// The rows x[ids] of x [n,d], pulled towards the mean of x: f32 [ids.size(),d].
Tensor shrunk_rows(const kernels::Context& context, int64_t n, int64_t d, const float* x,
                   const std::vector<int32_t>& ids);

/// k-means++: k rows of x [n,d] drawn one after the other, each with a probability in proportion to weight (null: 1)
/// times squared distance to the nearest one drawn before; uniformly where all distances are 0. f32 [k,d]. `poll`, if
/// set, is called for every row: it may throw.
Tensor plus_plus_rows(const kernels::Context& context, int64_t n, int64_t d, const float* x, const float* weights,
                      int64_t k, Random& random, const std::function<void()>& poll = {});

}  // namespace qinco
