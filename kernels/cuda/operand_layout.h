// How an operand of Hopper's warpgroup products lies in shared memory (wgmma.cuh). Plain C++: weights are packed so.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace qinco::kernels::cuda {

/// An operand B [N][K] of bfloat16, K the inner dimension, in the PTX ISA's "128-byte swizzle": 64 k (128 bytes) a row,
/// rows along n, then the next 64 k. The 16-byte units of row n are permuted by exclusive or with n % 8, so that 8
/// rows' units of the same k lie in 8 different parts of the banks. It begins at a multiple of 1024 bytes; N is one
/// of 8.
struct SwizzledOperand {
  /// Bytes from the beginning to element (n, k).
  QINCO_HOST_DEVICE static constexpr int offset(int N, int n, int k) {
    return k / 64 * 128 * N + n * 128 + ((k / 8 % 8) ^ (n % 8)) * 16 + k % 8 * 2;
  }
  /// Bytes from the beginning to what the descriptor of product number s, over 16 k, points to.
  QINCO_HOST_DEVICE static constexpr int step(int N, int s) { return s / 4 * 128 * N + s % 4 * 32; }
  /// The descriptor but for the address, which goes into its low 14 bits, in units of 16 bytes: from bit 16 the leading
  /// offset, which this layout does not use, from 32 the bytes from 8 rows to the next 8, both in such units; at 62 the
  /// layout.
  static constexpr uint64_t kDescriptor = uint64_t{1} << 16 | uint64_t{1024 / 16} << 32 | uint64_t{1} << 62;
};

}  // namespace qinco::kernels::cuda
