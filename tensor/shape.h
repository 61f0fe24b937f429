// The sizes of a tensor's dimensions, outermost first.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <fmt/core.h>
#include <initializer_list>
#include <span>
#include <string>

namespace qinco {

constexpr int kMaxDims = 8;

/// `dim` counted from the end when negative; throws Error naming `op` unless -ndim <= dim < ndim.
int normalise_dim(int64_t dim, int ndim, const char* op);

/// At most eight dimension sizes, held by value. The empty shape is a scalar.
class Shape {
 public:
  Shape() = default;
  /// Throws Error for more than eight dimensions. Sizes are not checked here: reshape() takes one -1.
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims);

  /// The number of dimensions.
  int size() const { return ndim_; }
  /// The size of dimension i; negative i counts from the end. Throws Error where there is none.
  int64_t operator[](int i) const { return dims_[index(i)]; }
  int64_t& operator[](int i) { return dims_[index(i)]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + ndim_; }

  void push_back(int64_t dim);
  /// Inserts a dimension before position i; removes dimension i.
  void insert(int i, int64_t dim);
  void erase(int i);
  /// Dimensions [first, last).
  Shape sub(int first, int last) const { return Shape(std::span(begin() + first, begin() + last)); }

  /// The product of the sizes (1 for a scalar); throws Error for a negative size or on overflow.
  int64_t numel() const;
  /// "[3,4]"
  std::string str() const;

  bool operator==(const Shape& other) const;

 private:
  size_t index(int i) const { return static_cast<size_t>(0 <= i && i < ndim_ ? i : normalise_dim(i, ndim_, "shape")); }

  std::array<int64_t, kMaxDims> dims_{};
  int ndim_ = 0;
};

/// The shape both broadcast to (sizes equal, or one of them 1, aligned at the last dimension); throws Error naming
/// `op`.
Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op);
/// Whether `from` broadcasts to `to` itself.
bool broadcasts_to(const Shape& from, const Shape& to);

}  // namespace qinco

/// As str(). Give messages the shape itself: that of a check is made only where it fails, and there are a dozen checks
/// in every operation.
template <>
struct fmt::formatter<qinco::Shape> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  auto format(const qinco::Shape& shape, fmt::format_context& context) const {
    const std::string text = shape.str();
    return std::copy(text.begin(), text.end(), context.out());
  }
};
