// The device's ceiling for products of bfloat16 operands.
#pragma once

#include "kernels/context.h"

namespace qinco::bench {

/// FLOP/s of cuBLAS in a product of bfloat16 matrices [8192,8192], summed in float: the median of nine; 0 in builds
/// without cuBLAS (the emulator's).
double tensor_peak(const kernels::Context& context);

}  // namespace qinco::bench
