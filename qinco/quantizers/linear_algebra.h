// The decompositions that quantizers need: by Eigen, on the CPU, as they are small and want double precision.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace qinco {

/// The orthogonal A f32 [d,d] that brings the rows of X A^T nearest to those of Y, given cross = X^T Y f32 [d,d]
/// (the orthogonal Procrustes problem, solved in double). Directions in which `cross` is nearly 0, as where data vary
/// in fewer than d, are turned in any way that makes A orthogonal. Throws Error where `cross` holds NaN or infinity.
Tensor procrustes(const Tensor& cross);

/// Solves (gram + ridge I) T = right in place of `right` [n,m] by a Cholesky decomposition in double, in place of
/// `gram` [n,n], symmetric and positive semidefinite; both row-major. Throws Error when that is singular. `poll`, if
/// set, is called between their block columns, and may throw, which leaves neither of use.
void solve_ridge(int64_t n, int64_t m, double ridge, std::vector<double>& gram, std::vector<double>& right,
                 const std::function<void()>& poll = {});

}  // namespace qinco
