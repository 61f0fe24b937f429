// From a run-time dtype to a compile-time type, and from operands to their device, each in one place.
#pragma once

#include <initializer_list>

#include "tensor/tensor.h"

namespace qinco {

/// f.operator()<T>() for T = float or double; Error naming `op` for another dtype.
template <class F>
decltype(auto) floating_dtype(const char* op, DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::f64:
      return f.template operator()<double>();
    default:
      fail("{}: expected f32 or f64, found {}", op, name(dtype));
  }
}

/// f.operator()<T>() for the C++ type of any dtype.
template <class F>
decltype(auto) any_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::f64:
      return f.template operator()<double>();
    case DType::bf16:
      return f.template operator()<BFloat16>();
    case DType::f16:
      return f.template operator()<Float16>();
    case DType::u8:
      return f.template operator()<uint8_t>();
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      break;
  }
  return f.template operator()<int64_t>();
}

/// The device that the operands of `op` share (undefined ones have none); Error if they are on different ones.
inline Device common_device(const char* op, std::initializer_list<const Tensor*> operands) {
  const Tensor* first = nullptr;
  for (const Tensor* const x : operands) {
    if (!x->defined()) continue;
    if (!first) first = x;
    check(x->device() == first->device(), "{}: operands on different devices: {} and {}", op, first->device(),
          x->device());
  }
  return first ? first->device() : Device{};
}

}  // namespace qinco
