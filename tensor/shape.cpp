#include "tensor/shape.h"

#include <algorithm>
#include <cassert>
#include <fmt/format.h>

#include "kernels/check.h"

namespace qinco {

Shape::Shape(std::span<const int64_t> dims) {
  check(dims.size() <= static_cast<size_t>(kMaxDims), "shape: expected at most {} dimensions, found {}", kMaxDims,
        dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
  ndim_ = static_cast<int>(dims.size());
}

void Shape::push_back(int64_t dim) {
  insert(ndim_, dim);
}

void Shape::insert(int i, int64_t dim) {
  check(ndim_ < kMaxDims, "shape: expected at most {} dimensions, found {}", kMaxDims, ndim_ + 1);
  assert(0 <= i && i <= ndim_);
  std::copy_backward(dims_.begin() + i, dims_.begin() + ndim_, dims_.begin() + ndim_ + 1);
  dims_[static_cast<size_t>(i)] = dim;
  ++ndim_;
}

void Shape::erase(int i) {
  assert(0 <= i && i < ndim_);
  std::copy(dims_.begin() + i + 1, dims_.begin() + ndim_, dims_.begin() + i);
  --ndim_;
}

int64_t Shape::numel() const {
  // A size of 0 does not excuse an overflow elsewhere: strides are products of the other sizes.
  int64_t count = 1;
  bool zero = false;
  for (const int64_t dim : *this) {
    check(dim >= 0, "shape: negative size in {}", *this);
    zero = zero || dim == 0;
    count = checked_mul(count, std::max<int64_t>(dim, 1), "shape");
  }
  return zero ? 0 : count;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(begin(), end(), ","));
}

bool Shape::operator==(const Shape& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

int normalise_dim(int64_t dim, int ndim, const char* op) {
  check(-ndim <= dim && dim < ndim, "{}: dimension {} of a tensor with {}", op, dim, ndim);
  return static_cast<int>(dim < 0 ? dim + ndim : dim);
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op) {
  Shape result = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  const int shift = result.size() - shorter.size();
  for (int i = 0; i < shorter.size(); ++i) {
    int64_t& size = result[i + shift];
    check(size == shorter[i] || size == 1 || shorter[i] == 1, "{}: shapes {} and {} do not broadcast", op, a, b);
    if (size == 1) size = shorter[i];
  }
  return result;
}

bool broadcasts_to(const Shape& from, const Shape& to) {
  const int missing = to.size() - from.size();
  bool fits = missing >= 0;
  for (int i = 0; fits && i < from.size(); ++i) fits = from[i] == 1 || from[i] == to[missing + i];
  return fits;
}

}  // namespace qinco
