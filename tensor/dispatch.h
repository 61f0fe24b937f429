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

/// The context of the device that the operands of `op` share; Error if one is undefined or they are on different ones.
/// Of `optional` operands there may be undefined ones, which have no device.
inline const kernels::Context& context_of(const char* op, std::initializer_list<const Tensor*> operands,
                                          std::initializer_list<const Tensor*> optional = {}) {
  const Device device = (*operands.begin())->device();
  const auto check_device = [&](const Tensor& x) {
    check(x.device() == device, "{}: operands on different devices: {} and {}", op, device, x.device());
  };
  for (const Tensor* const x : operands) {
    check(x->defined(), "{}: an operand is undefined", op);
    check_device(*x);
  }
  for (const Tensor* const x : optional)
    if (x->defined()) check_device(*x);
  return kernels::Context::of(device);
}

}  // namespace qinco
