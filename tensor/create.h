// Making tensors.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace qinco {

/// Every element `value`, converted to `dtype`.
Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = {});
Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
Tensor ones(const Shape& shape, DType dtype = DType::f32, Device device = {});
/// Zeros of the shape, dtype and device of x.
Tensor zeros_like(const Tensor& x);
/// A tensor of shape [] holding `value`.
Tensor scalar(double value, DType dtype = DType::f32, Device device = {});
Tensor scalar_like(double value, const Tensor& x);
/// [n]: start, start + step, ...
Tensor arange(int64_t n, double start = 0, double step = 1, DType dtype = DType::f32, Device device = {});

/// A copy of `values` in `shape`, on the CPU; Error if the counts differ.
template <class T>
Tensor from_span(std::span<const T> values, const Shape& shape) {
  const Tensor out = Tensor::empty(shape, dtype_of<T>());
  check(out.numel() == static_cast<int64_t>(values.size()), "from_span: shape {} holds {} values, found {}", shape,
        out.numel(), values.size());
  if (!values.empty()) std::memcpy(out.bytes(), values.data(), values.size_bytes());
  return out;
}
template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape) {
  return from_span(std::span<const T>(values), shape);
}
/// [n], a copy of `values`.
template <class T>
Tensor from_vector(const std::vector<T>& values) {
  return from_vector(values, {static_cast<int64_t>(values.size())});
}

/// A contiguous tensor over external memory (a mapped file, say), kept alive by `owner`; no copy. It is the caller's
/// business not to write to memory that is read-only.
Tensor wrap(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner);

}  // namespace qinco
