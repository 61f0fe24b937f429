// Element types: names, sizes, and the two 16-bit floats, which are for storage only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "kernels/half.h"

namespace qinco {

enum class DType : uint8_t { f32, f64, bf16, f16, u8, i32, i64 };

// Their bits and values.
using kernels::bf16_bits;
using kernels::bf16_value;
using kernels::f16_bits;
using kernels::f16_value;

/// A bfloat16 in memory: convert to float for arithmetic.
struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  explicit BFloat16(float value) : bits(bf16_bits(value)) {}
  explicit operator float() const { return bf16_value(bits); }
};

/// An IEEE half in memory: convert to float for arithmetic.
struct Float16 {
  uint16_t bits = 0;
  Float16() = default;
  explicit Float16(float value) : bits(f16_bits(value)) {}
  explicit operator float() const { return f16_value(bits); }
};

/// Bytes of one element.
constexpr size_t size_of(DType dtype) {
  constexpr size_t kSizes[] = {4, 8, 2, 2, 1, 4, 8};
  return kSizes[static_cast<size_t>(dtype)];
}

/// "f32", "i64", ...
constexpr std::string_view name(DType dtype) {
  constexpr std::string_view kNames[] = {"f32", "f64", "bf16", "f16", "u8", "i32", "i64"};
  return kNames[static_cast<size_t>(dtype)];
}

/// True for f32 and f64, the types that arithmetic runs in.
constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64;
}

/// The DType of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>) return DType::f32;
  if constexpr (std::is_same_v<U, double>) return DType::f64;
  if constexpr (std::is_same_v<U, BFloat16>) return DType::bf16;
  if constexpr (std::is_same_v<U, Float16>) return DType::f16;
  if constexpr (std::is_same_v<U, uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<U, int32_t>) return DType::i32;
  if constexpr (std::is_same_v<U, int64_t>) return DType::i64;
}

}  // namespace qinco
