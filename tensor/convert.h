// Moving elements between layouts and dtypes.
#pragma once

#include "tensor/tensor.h"

namespace qinco {

/// dst = src, both read with their strides; equal shapes and dtypes (any), on any devices. They must not overlap.
void copy_strided(const Tensor& src, const Tensor& dst);

/// True if `convert` runs on every device, not on the CPU alone: between floats of 16 bits and of more.
bool converts_on_device(DType from, DType to);

/// dst = src converted; both contiguous and on one device, equal shapes. Error for a value that an integer dst cannot
/// hold.
void convert(const Tensor& src, const Tensor& dst);

}  // namespace qinco
