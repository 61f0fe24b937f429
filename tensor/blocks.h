// Going through a large tensor piece by piece.
#pragma once

#include <functional>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace qinco {

/// Calls body(block) for all elements of x in row-major order; a block is contiguous and has 1 to 2^20 of them. Blocks
/// of a contiguous x lie on its memory, others are copies. What of them lies on `file` (may be null) leaves this
/// process's memory after each call, so that this needs some MB, however large x is.
void for_blocks(const Tensor& x, const MappedFile* file, const std::function<void(const Tensor& block)>& body);

}  // namespace qinco
