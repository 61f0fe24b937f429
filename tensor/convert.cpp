#include "tensor/convert.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

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

// One element. For an integer target, `bad` becomes 1 when the truncated value is out of range (NaN included). No
// branches: loops over this are vectors.
template <class From, class To>
To convert_one(From from, unsigned& bad) {
  if constexpr (is_narrow<From>) {
    return convert_one<float, To>(static_cast<float>(from), bad);
  } else if constexpr (is_narrow<To>) {
    return To(static_cast<float>(from));
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    using Limits = std::numeric_limits<To>;
    constexpr auto kLow = static_cast<From>(Limits::min()), kBelow = kLow - 1;
    constexpr auto kHigh = static_cast<From>(uint64_t{1} << (Limits::digits - 1)) * 2;
    // What lies between kBelow and kLow is truncated to kLow; where they are one, nothing does.
    const bool inside = (kBelow < kLow ? from > kBelow : from >= kLow) & (from < kHigh);
    bad |= !inside;
    using Register = std::conditional_t<(sizeof(To) < 4), int32_t, To>;  // what processors convert to
    return static_cast<To>(static_cast<Register>(inside ? from : From(0)));
  } else if constexpr (std::is_integral_v<To>) {
    bad |= !std::in_range<To>(from);
    return static_cast<To>(from);
  } else {
    return static_cast<To>(from);
  }
}

// The bits of 16-bit floats, as the kernels take them.
template <class Half>
auto bits_of(Half* halves) {
  return reinterpret_cast<std::conditional_t<std::is_const_v<Half>, const uint16_t, uint16_t>*>(halves);
}

// Converts n elements on the context's device, which is the CPU where there is no kernel for it. False if a value is
// out of range.
template <class From, class To>
bool convert_all(const kernels::Context& context, int64_t n, const From* from, To* to) {
  if constexpr (std::is_floating_point_v<From> && is_narrow<To>) {
    const kernels::Table<From>& kernel = kernels::table<From>(context.device);
    (std::is_same_v<To, Float16> ? kernel.to_f16 : kernel.to_bf16)(context, n, from, bits_of(to));
    return true;
  } else if constexpr (is_narrow<From> && std::is_floating_point_v<To>) {
    const kernels::Table<To>& kernel = kernels::table<To>(context.device);
    (std::is_same_v<From, Float16> ? kernel.from_f16 : kernel.from_bf16)(context, n, bits_of(from), to);
    return true;
  } else {
    assert(context.device.type == DeviceType::cpu);
    std::atomic<bool> inside{true};
    kernels::parallel_for(context, n, int64_t{1} << 15, [&](int64_t begin, int64_t end, int) {
      unsigned bad = 0;
      const From* const x = from;  // what the body captures, a store of bytes might change
      To* const y = to;
      for (int64_t i = begin; i < end; ++i) y[i] = convert_one<From, To>(x[i], bad);
      if (bad) inside.store(false, std::memory_order_relaxed);
    });
    return inside;
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

bool converts_on_device(DType from, DType to) {
  const auto is_half = [](DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; };
  return (is_floating(from) && is_half(to)) || (is_half(from) && is_floating(to));
}

void convert(const Tensor& src, const Tensor& dst) {
  assert(src.shape() == dst.shape() && src.is_contiguous() && dst.is_contiguous() && src.device() == dst.device());
  const kernels::Context& context = kernels::Context::of(dst.device());
  bool inside = true;
  any_dtype(src.dtype(), [&]<class From>() {
    any_dtype(dst.dtype(),
              [&]<class To>() { inside = convert_all(context, src.numel(), src.data<const From>(), dst.data<To>()); });
  });
  check(inside, "to: a value of {} {} is out of range for {}", name(src.dtype()), src.shape(), name(dst.dtype()));
}

}  // namespace qinco
