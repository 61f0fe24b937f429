// Exhaustive search by squared L2 distance.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

/// The k nearest of base f32 [n,d] for each of queries f32 [nq,d]: ids i32 [nq,k], nearest first, the lower id first
/// among equal computed distances. Tiled over both: memory does not grow with nq * n. Throws Error unless the d's agree
/// and 1 <= k <= n.
Tensor flat_search(const kernels::Context& context, const Tensor& base, const Tensor& queries, int64_t k);

}  // namespace qinco
