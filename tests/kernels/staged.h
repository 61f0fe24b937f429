// A CUDA device's kernels behind host memory, so that the cases written for the CPU test them too.
#pragma once

#include "kernels/kernels.h"

namespace qinco::kernels::tests {

/// The kernels of a CUDA device as a table whose functions take host memory: they copy every operand to the device,
/// between guard zones and off alignment, call the kernel in Context::of(device), and copy everything back. Whatever
/// context they are given is not used. Until the next call with another device.
const Table<float>& staged_table(Device device);

}  // namespace qinco::kernels::tests
