#include "tensor/tensor.h"

#include <fmt/ranges.h>

#include "tensor/convert.h"
#include "tensor/dispatch.h"

namespace qinco {

Strides contiguous_strides(const Shape& shape) {
  Strides strides{};
  int64_t step = 1;
  for (int i = shape.size() - 1; i >= 0; --i) {
    strides[static_cast<size_t>(i)] = step;
    step *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const int64_t bytes = checked_mul(shape.numel(), static_cast<int64_t>(size_of(dtype)), "tensor");
  auto storage = std::make_shared<Storage>(static_cast<size_t>(bytes), device);
  return {std::move(storage), shape, contiguous_strides(shape), 0, dtype};
}

Tensor::Tensor(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides, int64_t offset,
               DType dtype)
    : storage_(std::move(storage)),
      shape_(shape),
      strides_(strides),
      offset_(offset),
      numel_(shape.numel()),
      dtype_(dtype) {
  check(storage_ != nullptr, "tensor: a view of an undefined tensor");
}

bool Tensor::is_contiguous() const {
  if (numel_ == 0) return true;
  int64_t expected = 1;
  for (int i = dim() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[static_cast<size_t>(i)] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

template <class T>
T Tensor::item() const {
  check(defined(), "item: the tensor is undefined");
  check(numel_ == 1, "item: expected one element, found shape {}", shape_);
  return *to(Device{}).to(dtype_of<T>()).template data<T>();
}
template float Tensor::item<float>() const;
template double Tensor::item<double>() const;
template int32_t Tensor::item<int32_t>() const;
template int64_t Tensor::item<int64_t>() const;

Tensor Tensor::reshape(Shape shape) const {
  const Shape asked = shape;
  int inferred = -1;
  int64_t known = 1;
  for (int i = 0; i < shape.size(); ++i) {
    check(shape[i] >= 0 || (shape[i] == -1 && inferred < 0), "reshape: {} is no shape", asked);
    if (shape[i] < 0)
      inferred = i;
    else
      known = checked_mul(known, shape[i], "reshape");
  }
  if (inferred >= 0 && known > 0 && numel_ % known == 0) shape[inferred] = numel_ / known;
  check((inferred < 0 || shape[inferred] >= 0) && shape.numel() == numel_, "reshape: {} elements of shape {} into {}",
        numel_, shape_, asked);
  const Tensor base = contiguous();
  return {base.storage_, shape, contiguous_strides(shape), base.offset_, dtype_};
}

Tensor Tensor::slice(int64_t dim, int64_t begin, int64_t end) const {
  const int d = normalise_dim(dim, this->dim(), "slice");
  check(0 <= begin && begin <= end && end <= shape_[d], "slice: {}..{} of dimension {} of shape {}", begin, end, d,
        shape_);
  Shape shape = shape_;
  shape[d] = end - begin;
  return {storage_, shape, strides_, offset_ + begin * strides_[static_cast<size_t>(d)], dtype_};
}

Tensor Tensor::transpose(int64_t i, int64_t j) const {
  const int a = normalise_dim(i, dim(), "transpose"), b = normalise_dim(j, dim(), "transpose");
  Shape shape = shape_;
  Strides strides = strides_;
  std::swap(shape[a], shape[b]);
  std::swap(strides[static_cast<size_t>(a)], strides[static_cast<size_t>(b)]);
  return {storage_, shape, strides, offset_, dtype_};
}

Tensor Tensor::squeeze(int64_t dim) const {
  const int d = normalise_dim(dim, this->dim(), "squeeze");
  check(shape_[d] == 1, "squeeze: dimension {} of shape {} is not 1", d, shape_);
  Shape shape = shape_;
  Strides strides = strides_;
  shape.erase(d);
  std::copy(strides_.begin() + d + 1, strides_.end(), strides.begin() + d);
  return {storage_, shape, strides, offset_, dtype_};
}

Tensor Tensor::unsqueeze(int64_t dim) const {
  const int d = normalise_dim(dim, this->dim() + 1, "unsqueeze");
  Shape shape = shape_;
  shape.insert(d, 1);
  Strides strides = strides_;
  std::copy(strides_.begin() + d, strides_.end() - 1, strides.begin() + d + 1);
  strides[static_cast<size_t>(d)] = 0;
  return {storage_, shape, strides, offset_, dtype_};
}

Tensor Tensor::expand(const Shape& shape) const {
  const int shift = shape.size() - dim();
  check(broadcasts_to(shape_, shape), "expand: shape {} into {}", shape_, shape);
  Strides strides{};
  for (int i = 0; i < dim(); ++i) {
    const bool repeats = shape_[i] == 1 && shape[i + shift] != 1;
    strides[static_cast<size_t>(i + shift)] = repeats ? 0 : strides_[static_cast<size_t>(i)];
  }
  return {storage_, shape, strides, offset_, dtype_};
}

Tensor Tensor::row(int64_t i) const {
  check(dim() >= 1 && 0 <= i && i < shape_[0], "row: row {} of shape {}", i, shape_);
  return slice(0, i, i + 1).squeeze(0);
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone(Device device) const {
  check(defined(), "clone: the tensor is undefined");
  const Tensor out = empty(shape_, dtype_, device);
  copy_strided(*this, out);
  return out;
}

Tensor Tensor::to(DType dtype) const {
  check(defined(), "to: the tensor is undefined");
  if (dtype == dtype_) return *this;
  const Device where = converts_on_device(dtype_, dtype) ? device() : Device{};
  const Tensor out = empty(shape_, dtype, where);
  convert(contiguous().to(where), out);
  return out.to(device());
}

Tensor Tensor::to(Device device) const {
  return device == this->device() ? *this : clone(device);
}

void Tensor::copy_from(const Tensor& src) const {
  check(defined() && src.defined(), "copy_from: one of the tensors is undefined");
  check(src.dtype_ == dtype_, "copy_from: expected dtype {}, found {}", name(dtype_), name(src.dtype_));
  for (int i = 0; i < dim(); ++i)
    check(shape_[i] <= 1 || strides_[static_cast<size_t>(i)] != 0,
          "copy_from: the elements of dimension {} of shape {} are one in memory", i, shape_);
  copy_strided(src.expand(shape_), *this);
}

std::string Tensor::str(int64_t max_elements) const {
  if (!defined()) return "undefined";
  const Tensor values = contiguous().to(Device{});
  const int64_t shown = std::min(numel_, max_elements);
  std::string text = fmt::format("{} {}", name(dtype_), shape_);
  if (device().type != DeviceType::cpu) text += fmt::format(" on {}", device());
  const Tensor flat = values.reshape({-1});
  const bool whole = dtype_ == DType::u8 || dtype_ == DType::i32 || dtype_ == DType::i64;
  for (int64_t i = 0; i < shown; ++i) {
    const Tensor one = flat.row(i);
    text += whole ? fmt::format(" {}", one.item<int64_t>()) : fmt::format(" {:.6g}", one.item<double>());
  }
  return shown < numel_ ? text + " ..." : text;
}

}  // namespace qinco
