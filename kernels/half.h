// The two 16-bit floats as their bits: what the kernels that convert them are defined by. Shared by the CPU and CUDA.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace qinco::kernels {

/// The nearest bfloat16 (ties to even; NaN stays NaN), as its bits.
QINCO_HOST_DEVICE inline uint16_t bf16_bits(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

QINCO_HOST_DEVICE inline float bf16_value(uint16_t bits) {
  return __builtin_bit_cast(float, uint32_t{bits} << 16);
}

/// The nearest IEEE half (ties to even; overflow gives infinity; NaN stays NaN), as its bits.
QINCO_HOST_DEVICE inline uint16_t f16_bits(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude >= 0x38800000u) {
    // Normal: re-bias the exponent by 127 - 15 and round 13 bits away; a carry moves into the exponent as it should.
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {
    // Subnormal: adding 0.5 aligns the last bit of the sum with 2^-24, so the addition itself rounds to even.
    const float aligned = __builtin_bit_cast(float, magnitude) + 0.5f;
    half = __builtin_bit_cast(uint32_t, aligned) - 0x3f000000u;
  }
  return static_cast<uint16_t>(sign | half);
}

QINCO_HOST_DEVICE inline float f16_value(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  uint32_t word = 0;
  if (magnitude >= 0x7c00u) {
    word = (magnitude << 13) + 0x70000000u;  // infinity, NaN: the exponent field 31 becomes 255
  } else if (magnitude >= 0x0400u) {
    word = (magnitude << 13) + 0x38000000u;
  } else {
    word = __builtin_bit_cast(uint32_t, static_cast<float>(magnitude) * 0x1p-24f);
  }
  return __builtin_bit_cast(float, sign | word);
}

}  // namespace qinco::kernels
