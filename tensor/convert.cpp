#include "tensor/convert.h"

#include <atomic>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/device.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "tensor/dispatch.h"

namespace qinco {

namespace {

// Copies `count` elements of Bytes bytes.
template <size_t Bytes>
void copy_run(const std::byte* src, int64_t src_stride, std::byte* dst, int64_t dst_stride, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(dst + i * dst_stride * static_cast<int64_t>(Bytes), src + i * src_stride * static_cast<int64_t>(Bytes),
                Bytes);
}

void copy_run(size_t bytes, const std::byte* src, int64_t src_stride, std::byte* dst, int64_t dst_stride,
              int64_t count) {
  if (src_stride == 1 && dst_stride == 1)
    std::memcpy(dst, src, static_cast<size_t>(count) * bytes);
  else if (bytes == 1)
    copy_run<1>(src, src_stride, dst, dst_stride, count);
  else if (bytes == 2)
    copy_run<2>(src, src_stride, dst, dst_stride, count);
  else if (bytes == 4)
    copy_run<4>(src, src_stride, dst, dst_stride, count);
  else
    copy_run<8>(src, src_stride, dst, dst_stride, count);
}

// Any strides on both sides: rows of the last dimension, counted off in parallel.
void copy_rows(const Tensor& src, const Tensor& dst) {
  const Shape& shape = dst.shape();
  const int last = shape.size() - 1;
  const int64_t cols = last < 0 ? 1 : shape[last];
  const int64_t rows = dst.numel() / cols;
  const int64_t src_step = last < 0 ? 1 : src.stride(last), dst_step = last < 0 ? 1 : dst.stride(last);
  const size_t bytes = size_of(dst.dtype());
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / cols);
  kernels::parallel_for(kernels::Context::cpu(), rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t rest = row, src_at = 0, dst_at = 0;
      for (int i = last - 1; i >= 0; --i) {
        const int64_t index = rest % shape[i];
        rest /= shape[i];
        src_at += index * src.strides()[static_cast<size_t>(i)];
        dst_at += index * dst.strides()[static_cast<size_t>(i)];
      }
      const auto scale = static_cast<int64_t>(bytes);
      copy_run(bytes, src.bytes() + src_at * scale, src_step, dst.bytes() + dst_at * scale, dst_step, cols);
    }
  });
}

template <class T>
constexpr bool is_narrow = std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>;

// One element. For an integer target, `bad` is set when the truncated value is out of range (NaN included).
template <class From, class To>
To convert_one(From from, bool& bad) {
  if constexpr (is_narrow<From>) {
    return convert_one<float, To>(static_cast<float>(from), bad);
  } else if constexpr (is_narrow<To>) {
    return To(static_cast<float>(from));
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    // The bounds are exact in double: -2^63 and 2^63 for i64.
    constexpr double kLow = static_cast<double>(std::numeric_limits<To>::min());
    const double high = std::ldexp(1.0, std::numeric_limits<To>::digits);
    const double value = std::trunc(static_cast<double>(from));
    if (value >= kLow && value < high) return static_cast<To>(value);
    bad = true;
    return 0;
  } else if constexpr (std::is_integral_v<To>) {
    if (!std::in_range<To>(from)) bad = true;
    return static_cast<To>(from);
  } else {
    return static_cast<To>(from);
  }
}

// Strides on one side at most, on one device. T is a type of the elements' size: kernels that only move elements do not
// look at them.
template <class T>
void copy_by_kernel(const Tensor& src, const Tensor& dst) {
  const kernels::Context& context = kernels::Context::of(dst.device());
  const kernels::Table<T>& kernel = kernels::table<T>(dst.device());
  const Shape& shape = dst.shape();
  const auto* const from = reinterpret_cast<const T*>(src.bytes());
  auto* const to = reinterpret_cast<T*>(dst.bytes());
  if (dst.is_contiguous())
    kernel.strided_copy(context, shape.size(), shape.begin(), src.strides().data(), from, to);
  else
    kernel.strided_write(context, shape.size(), shape.begin(), dst.strides().data(), from, to);
}

// On one device other than the CPU, or between two.
void copy_by_device(const Tensor& src, const Tensor& dst) {
  if (src.is_contiguous() && dst.is_contiguous()) {
    kernels::copy_bytes(dst.device(), dst.bytes(), src.device(), src.bytes(),
                        static_cast<size_t>(dst.numel()) * size_of(dst.dtype()));
  } else if (src.device() != dst.device()) {
    copy_strided(dst.is_contiguous() ? src.contiguous() : src.to(dst.device()), dst);
  } else if (!src.is_contiguous() && !dst.is_contiguous()) {
    copy_strided(src.contiguous(), dst);
  } else {
    const size_t bytes = size_of(dst.dtype());
    check(bytes >= 4, "copy: strides of {} on {}: expected elements of 4 or 8 bytes", name(dst.dtype()), dst.device());
    bytes == 4 ? copy_by_kernel<float>(src, dst) : copy_by_kernel<double>(src, dst);
  }
}

}  // namespace

void copy_strided(const Tensor& src, const Tensor& dst) {
  assert(src.shape() == dst.shape() && src.dtype() == dst.dtype());
  if (dst.numel() == 0) return;
  if (src.device().type != DeviceType::cpu || dst.device().type != DeviceType::cpu) return copy_by_device(src, dst);
  const bool contiguous = dst.is_contiguous();
  if (contiguous && src.is_contiguous()) {
    const size_t bytes = static_cast<size_t>(dst.numel()) * size_of(dst.dtype());
    kernels::parallel_for(kernels::Context::cpu(), static_cast<int64_t>(bytes), int64_t{1} << 18,
                          [&](int64_t begin, int64_t end, int) {
                            std::memcpy(dst.bytes() + begin, src.bytes() + begin, static_cast<size_t>(end - begin));
                          });
  } else if ((contiguous || src.is_contiguous()) && is_floating(dst.dtype())) {
    floating_dtype("copy", dst.dtype(), [&]<class T>() { copy_by_kernel<T>(src, dst); });
  } else {
    copy_rows(src, dst);
  }
}

void convert(const Tensor& src, const Tensor& dst) {
  assert(src.shape() == dst.shape() && src.is_contiguous() && dst.is_contiguous());
  std::atomic<bool> out_of_range{false};
  any_dtype(src.dtype(), [&]<class From>() {
    any_dtype(dst.dtype(), [&]<class To>() {
      const From* const from = src.data<From>();
      To* const to = dst.data<To>();
      kernels::parallel_for(kernels::Context::cpu(), src.numel(), int64_t{1} << 15,
                            [&](int64_t begin, int64_t end, int) {
                              bool bad = false;
                              for (int64_t i = begin; i < end; ++i) to[i] = convert_one<From, To>(from[i], bad);
                              if (bad) out_of_range.store(true, std::memory_order_relaxed);
                            });
    });
  });
  check(!out_of_range, "to: a value of {} {} is out of range for {}", name(src.dtype()), src.shape(),
        name(dst.dtype()));
}

}  // namespace qinco
