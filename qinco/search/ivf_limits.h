// Bounds of an index that tests lower, to meet them with few vectors.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/kernels.h"

namespace qinco::ivf_limits {

/// Distances to centroids that a flat coarse quantizer holds together.
inline int64_t coarse_floats = int64_t{1} << 22;
/// Blocks of entries in an index that is searched: the scan numbers entries by 32 bits, and the last two are no number.
inline int64_t most_blocks = (int64_t{std::numeric_limits<uint32_t>::max()} - 2) / kernels::kScanBlock;

}  // namespace qinco::ivf_limits
