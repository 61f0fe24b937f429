// Value and index as one integer that orders as (value, index): least values by atomicMin, and results that do not
// depend on the order of work.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

using Key = unsigned long long;

constexpr Key kNoKey = ~Key{0};  // above every key

/// The index is below 2^32 - 1; the value is not NaN. -0 is as 0.
__device__ inline Key make_key(float value, uint32_t index) {
  const unsigned bits = __float_as_uint(value + 0.0f);
  return Key{bits >> 31 ? ~bits : bits | 0x80000000u} << 32 | index;
}

__device__ inline uint32_t index_of(Key key) {
  return static_cast<uint32_t>(key);
}

__device__ inline float value_of(Key key) {
  const auto bits = static_cast<unsigned>(key >> 32);
  return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

}  // namespace qinco::kernels::cuda
