// Moving elements between layouts and dtypes.
#pragma once

#include "tensor/tensor.h"

namespace qinco {

/// dst = src, both read with their strides; equal shapes and dtypes (any), on any devices. They must not overlap.
void copy_strided(const Tensor& src, const Tensor& dst);

/// dst = src converted; both contiguous and on the CPU, equal shapes. Error for a value that an integer dst cannot
/// hold.
void convert(const Tensor& src, const Tensor& dst);

}  // namespace qinco
