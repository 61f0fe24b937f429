// How good a search is.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace qinco {

/// 1-recall@R: the part of the rows of ids i32 [nq,k] that hold the row's true nearest neighbour, column 0 of
/// groundtruth i32 [nq,any], among their first min(R, k). Throws Error when the row counts differ or are 0, or
/// groundtruth has no columns.
double recall_at(const Tensor& ids, const Tensor& groundtruth, int64_t R);

}  // namespace qinco
