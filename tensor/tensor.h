// Tensor: a shape, a dtype and strides over shared storage.
//
// A Tensor is a cheap handle: copies and views (reshape, slice, transpose, ...) share memory, clone() does not. Strides
// are in elements. Functions that compute (tensor/ops.h) return new contiguous tensors.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/check.h"
#include "kernels/context.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace qinco {

using Strides = std::array<int64_t, kMaxDims>;

class Tensor {
 public:
  /// An undefined tensor: no storage; only defined() may be asked of it.
  Tensor() = default;
  /// Uninitialised elements.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  /// A tensor over storage that exists; the caller vouches that shape and strides stay inside it.
  Tensor(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides, int64_t offset, DType dtype);

  bool defined() const { return storage_ != nullptr; }
  int dim() const { return shape_.size(); }
  /// The size of dimension i; negative i counts from the end.
  int64_t size(int64_t i) const { return shape_[normalise_dim(i, dim(), "size")]; }
  int64_t numel() const { return numel_; }
  const Shape& shape() const { return shape_; }
  const Strides& strides() const { return strides_; }
  int64_t stride(int64_t i) const { return strides_[static_cast<size_t>(normalise_dim(i, dim(), "stride"))]; }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device{}; }
  /// True if elements lie in row-major order without gaps (strides of dimensions of size 1 do not matter).
  bool is_contiguous() const;
  /// True if both views lie on the same storage.
  bool shares_storage(const Tensor& other) const { return storage_ && storage_ == other.storage_; }
  /// True if no other tensor lies on this storage and the memory is our own.
  bool owns_storage_alone() const { return storage_.use_count() == 1 && !storage_->external(); }
  /// True if the elements are contiguous and all that the storage has room for: no view of some of them.
  bool spans_storage() const {
    return storage_ && is_contiguous() && static_cast<size_t>(numel_) * size_of(dtype_) == storage_->bytes();
  }
  /// True if the memory is not our own: a mapped file, say, which cannot be written to.
  bool is_external() const { return storage_ && storage_->external(); }

  /// Pointer to the first element, for tensors of T only (throws Error otherwise). Needs nothing of contiguity. Where
  /// the tensor is not on the CPU it is for kernels; the host cannot follow it.
  template <class T>
  T* data() const {
    check(dtype_ == dtype_of<T>(), "data: expected dtype {}, found {}", name(dtype_of<T>()), name(dtype_));
    return reinterpret_cast<T*>(bytes());
  }
  /// The same as raw bytes; null if undefined.
  std::byte* bytes() const { return storage_ ? storage_->data() + offset_ * element_size() : nullptr; }
  /// The value of a tensor with one element, converted to T (float, double, int32_t, int64_t) from any dtype as to()
  /// does. Waits for its device.
  template <class T>
  T item() const;

  // Views. Dimensions may be negative (from the end), positions in them may not. All throw Error for sizes that do not
  // fit.

  /// The same elements in another shape; a view if contiguous, else a copy. One size may be -1.
  Tensor reshape(Shape shape) const;
  /// Elements begin..end-1 of dimension `dim`; 0 <= begin <= end <= size.
  Tensor slice(int64_t dim, int64_t begin, int64_t end) const;
  Tensor transpose(int64_t i, int64_t j) const;
  /// Removes dimension `dim`, whose size is 1; adds one of size 1 before `dim`.
  Tensor squeeze(int64_t dim) const;
  Tensor unsqueeze(int64_t dim) const;
  /// Repeats dimensions of size 1 (and missing leading ones) to `shape` without copying: stride 0.
  Tensor expand(const Shape& shape) const;
  /// x[i], 0 <= i < size(0), with the first dimension gone.
  Tensor row(int64_t i) const;

  // Copies.

  /// This tensor if contiguous, else a contiguous copy.
  Tensor contiguous() const;
  /// A contiguous copy in new storage, on this tensor's device or on another one.
  Tensor clone() const { return clone(device()); }
  Tensor clone(Device device) const;
  /// Converted to `dtype`; this tensor if it has it already. To u8, i32, i64: truncated; Error for a value out of
  /// range. Other devices convert between floats of 16 bits and of more by themselves; the CPU does the rest for them.
  Tensor to(DType dtype) const;
  /// On `device`; this tensor if it is there already. To the CPU: waits for the values.
  Tensor to(Device device) const;
  /// Writes src's elements, from any device, into this view. Same dtype; src's shape must broadcast to this one. They
  /// must not overlap. Error for a view that expand() has repeated: where would its elements go?
  void copy_from(const Tensor& src) const;

  /// "f32 [2,3] 1 2 3 ..." with at most `max_elements` values: for messages and debugging.
  std::string str(int64_t max_elements = 8) const;

 private:
  int64_t element_size() const { return static_cast<int64_t>(size_of(dtype_)); }

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  Strides strides_{};
  int64_t offset_ = 0;  // of the first element, in elements
  int64_t numel_ = 0;
  DType dtype_ = DType::f32;
};

extern template float Tensor::item<float>() const;
extern template double Tensor::item<double>() const;
extern template int32_t Tensor::item<int32_t>() const;
extern template int64_t Tensor::item<int64_t>() const;

/// Row-major strides of `shape`.
Strides contiguous_strides(const Shape& shape);

}  // namespace qinco
