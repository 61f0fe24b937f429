// Shapes, views, copies, dtypes, storage.
#include "tensor/tensor.h"

#include <bit>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/sanitizer.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

Tensor counted(const Shape& shape, DType dtype = DType::f32) {
  return arange(shape.numel(), 0, 1, dtype).reshape(shape);
}

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16, DType::u8, DType::i32, DType::i64};

}  // namespace

TEST_CASE("shape: sizes, text, overflow, limits") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{3, 0, 2}.numel() == 0);
  CHECK(Shape{2, 3, 4}.str() == "[2,3,4]");
  CHECK(Shape{}.str() == "[]");
  CHECK(!(Shape{2, 3} == Shape{2, 3, 1}));
  const Shape shape{2, 3, 4};
  CHECK(shape[2] == 4);
  CHECK(shape[-1] == 4);
  CHECK(shape[-3] == 2);
  for (const int i : {-4, 3, 100}) {
    CHECK(error_of([&] { (void)shape[i]; }) == fmt::format("shape: dimension {} of a tensor with 3", i));
    CHECK(contains(error_of([&] { Shape{2, 3, 4}[i] = 1; }), "shape: dimension"));
  }
  CHECK(contains(error_of([] { (void)Shape{int64_t{1} << 40, int64_t{1} << 40}.numel(); }), "overflows"));
  CHECK(contains(error_of([] { (void)Shape{0, int64_t{1} << 40, int64_t{1} << 40}.numel(); }), "overflows"));
  CHECK(contains(error_of([] { (void)Shape{2, -3}.numel(); }), "negative size in [2,-3]"));
  CHECK(contains(error_of([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }), "at most 8 dimensions, found 9"));
  CHECK(contains(error_of([] { Shape{1, 1, 1, 1, 1, 1, 1, 1}.push_back(1); }), "at most 8"));
  CHECK(broadcast_shapes({4, 1, 3}, {2, 1}, "op") == Shape{4, 2, 3});
  CHECK(broadcast_shapes({}, {2, 0}, "op") == Shape{2, 0});
  CHECK(broadcast_shapes({2, 0}, {1}, "op") == Shape{2, 0});
  CHECK(broadcast_shapes({2, 1}, {0}, "op") == Shape{2, 0});
  CHECK(error_of([] { broadcast_shapes({2, 3}, {2}, "op"); }) == "op: shapes [2,3] and [2] do not broadcast");
}

TEST_CASE("tensor: memory is aligned and counted") {
  const int64_t before = memory_stats().live;
  {
    const Tensor x = Tensor::empty({1000});
    CHECK(reinterpret_cast<uintptr_t>(x.bytes()) % 64 == 0);
    CHECK(memory_stats().live >= before + 4000);
    CHECK(memory_stats().live <= before + 5000);
    const Tensor view = x.slice(0, 0, 10);
    CHECK(memory_stats().live <= before + 5000);
  }
  CHECK(memory_stats().live == before);
  reset_memory_peak();
  { const Tensor x = Tensor::empty({1 << 20}); }
  CHECK(memory_stats().peak >= before + (4 << 20));
  for (const int64_t n : {1, 16, 17, 262'143, 262'144, 262'145, 1'000'000, 1 << 20}) {
    CAPTURE(n);
    const int64_t live = memory_stats().live;
    const Tensor x = ones({n});
    CHECK(memory_stats().live - live >= 4 * n);
    CHECK(memory_stats().live - live <= 5 * n + 64);
  }
  if (!kAddressSanitizer) CHECK(memory_stats().cached >= 4 << 20);
  release_cached_memory();
  CHECK(memory_stats().cached == 0);
  { const Tensor large = Tensor::empty({48 << 20}); }
  CHECK(memory_stats().cached == 0);  // a few of these would leave no room for others
}

TEST_CASE("tensor: allocation from many threads") {
  const int64_t before = memory_stats().live;
  std::vector<std::thread> threads;
  std::vector<int> bad(4, 0);
  for (size_t t = 0; t < bad.size(); ++t)
    threads.emplace_back([t, &bad] {
      for (int i = 0; i < 2000; ++i) {
        const Tensor x = full({1 + i % 700}, static_cast<double>(t));
        const Tensor y = x.clone();
        if (y.row(i % 700).item<float>() != static_cast<float>(t)) ++bad[t];
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(bad == std::vector<int>(4, 0));
  CHECK(memory_stats().live == before);
}

TEST_CASE("tensor: a device that is not there is an error that says so") {
  CHECK(contains(error_of([] { Tensor::empty({2}, DType::f32, Device::parse("cuda:99")); }), "device cuda:99"));
  CHECK(contains(error_of([] { ones({2}).to(Device::parse("cuda:99")); }), "device cuda:99"));
}

TEST_CASE("tensor: views share memory and know their layout") {
  const Tensor x = counted({4, 6});
  const Tensor view = x.slice(1, 2, 5).slice(0, 1, 3);
  CHECK(view.shape() == Shape{2, 3});
  CHECK(view.shares_storage(x));
  CHECK(!view.is_contiguous());
  CHECK(same_bits(view, from_vector<float>({8, 9, 10, 14, 15, 16}, {2, 3})));
  view.copy_from(zeros({2, 3}));
  CHECK(sum(x).item<double>() == 276 - 72);
  CHECK(same_bits(x.row(1), from_vector<float>({6, 7, 0, 0, 0, 11})));

  const Tensor t = counted({2, 3}).transpose(0, -1);
  CHECK(t.shape() == Shape{3, 2});
  CHECK(same_bits(t, from_vector<float>({0, 3, 1, 4, 2, 5}, {3, 2})));
  CHECK(!t.reshape({6}).shares_storage(t));
  CHECK(same_bits(t.reshape({6}), from_vector<float>({0, 3, 1, 4, 2, 5})));
  CHECK(t.transpose(0, 1).is_contiguous());
  CHECK(t.transpose(0, 1).reshape({-1}).shares_storage(t));
}

TEST_CASE("tensor: squeeze, unsqueeze, expand, row") {
  const Tensor x = counted({2, 3});
  CHECK(x.unsqueeze(0).shape() == Shape{1, 2, 3});
  CHECK(x.unsqueeze(-1).shape() == Shape{2, 3, 1});
  CHECK(same_bits(x.unsqueeze(1).squeeze(1), x));
  CHECK(x.unsqueeze(1).is_contiguous());
  const Tensor wide = x.unsqueeze(1).expand({5, 2, 4, 3});
  CHECK(wide.shares_storage(x));
  CHECK(wide.strides()[0] == 0);
  CHECK(same_bits(wide.row(3).slice(1, 2, 3).squeeze(1), x));
  CHECK(same_bits(wide.contiguous().row(4).row(1).row(3), x.row(1)));
  CHECK(scalar(3).expand({0, 2}).numel() == 0);
  CHECK(x.row(1).row(2).item<int32_t>() == 5);
}

TEST_CASE("tensor: contiguous copies of every dtype, dimension order and size") {
  for (const DType dtype : kAll) {
    CAPTURE(name(dtype));
    const Tensor x = counted({3, 5, 7}, dtype);
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < i; ++j) {
        const Tensor view = x.transpose(i, j).slice(0, 1, 3);
        const Tensor copy = view.contiguous();
        REQUIRE(copy.is_contiguous());
        for (int64_t a = 0; a < view.size(0); ++a)
          for (int64_t b = 0; b < view.size(1); ++b)
            for (int64_t c = 0; c < view.size(2); ++c) {
              const double expected = view.row(a).row(b).row(c).item<double>();
              CHECK(copy.row(a).row(b).row(c).item<double>() == expected);
            }
        const Tensor target = zeros({3, 5, 7}, dtype);
        target.transpose(i, j).slice(0, 1, 3).copy_from(copy);
        CHECK(same_bits(target.transpose(i, j).slice(0, 1, 3), copy));
        CHECK(sum(target.to(DType::f64)).item<double>() == sum(copy.to(DType::f64)).item<double>());
      }
  }
}

TEST_CASE("tensor: copy_from broadcasts") {
  const Tensor x = zeros({3, 2});
  x.copy_from(from_vector<float>({1, 2}));
  CHECK(same_bits(x, from_vector<float>({1, 2, 1, 2, 1, 2}, {3, 2})));
  x.transpose(0, 1).copy_from(from_vector<float>({5, 6}, {2, 1}));
  CHECK(same_bits(x, from_vector<float>({5, 6, 5, 6, 5, 6}, {3, 2})));
  CHECK(contains(error_of([&] { x.copy_from(ones({2, 3})); }), "expand: shape [2,3] into [3,2]"));
  CHECK(contains(error_of([&] { x.copy_from(ones({3, 2}, DType::f64)); }), "expected dtype f32, found f64"));
  const Tensor one = zeros({1}), repeated = one.unsqueeze(0).expand({1, 3});
  CHECK(error_of([&] { repeated.copy_from(arange(3)); }) ==
        "copy_from: the elements of dimension 1 of shape [1,3] are one in memory");
  CHECK(one.item<float>() == 0);
  repeated.slice(1, 0, 1).copy_from(ones({1}));
  CHECK(one.item<float>() == 1);
}

TEST_CASE("tensor: errors of views") {
  const Tensor x = counted({2, 3});
  CHECK(contains(error_of([&] { x.reshape({4, 2}); }), "6 elements of shape [2,3] into [4,2]"));
  CHECK(contains(error_of([&] { x.reshape({4, -1}); }), "6 elements of shape [2,3] into [4,-1]"));
  CHECK(contains(error_of([&] { x.reshape({-1, -1}); }), "reshape: [-1,-1] is no shape"));
  CHECK(contains(error_of([&] { x.reshape({-1, 0}); }), "reshape"));
  CHECK(contains(error_of([&] { x.slice(2, 0, 1); }), "slice: dimension 2 of a tensor with 2"));
  CHECK(contains(error_of([&] { x.slice(0, 1, 0); }), "slice: 1..0"));
  CHECK(contains(error_of([&] { x.slice(0, -1, 1); }), "slice: -1..1"));
  CHECK(contains(error_of([&] { x.squeeze(0); }), "dimension 0 of shape [2,3] is not 1"));
  CHECK(contains(error_of([&] { x.expand({3}); }), "expand: shape [2,3] into [3]"));
  CHECK(contains(error_of([&] { x.expand({2, 4}); }), "expand: shape [2,3] into [2,4]"));
  CHECK(contains(error_of([&] { x.row(2); }), "row 2 of shape [2,3]"));
  CHECK(contains(error_of([&] { (void)x.item<float>(); }), "expected one element, found shape [2,3]"));
  CHECK(error_of([] { (void)Tensor().item<float>(); }) == "item: the tensor is undefined");
  CHECK(contains(error_of([&] { (void)x.data<double>(); }), "expected dtype f64, found f32"));
  CHECK(contains(error_of([] { (void)scalar(1e30).item<int32_t>(); }), "out of range for i32"));
  CHECK(contains(error_of([] { (void)scalar(std::nan("")).item<int32_t>(); }), "out of range for i32"));
  CHECK(contains(error_of([] { Tensor().clone(); }), "clone: the tensor is undefined"));
  CHECK(contains(error_of([] { Tensor().to(DType::f64); }), "to: the tensor is undefined"));
  CHECK(contains(error_of([] { Tensor().expand({3}); }), "a view of an undefined tensor"));
  CHECK(contains(error_of([] { ones({3}).copy_from(Tensor()); }), "copy_from: one of the tensors is undefined"));
  CHECK(contains(error_of([&] { from_vector<float>({1, 2, 3}, {2}); }), "shape [2] holds 2 values, found 3"));
}

TEST_CASE("tensor: conversion between all dtypes is exact where it can be") {
  for (const DType from : kAll)
    for (const DType to : kAll) {
      CAPTURE(name(from));
      CAPTURE(name(to));
      CHECK(same_bits(counted({3, 7}, from).transpose(0, 1).to(to), counted({3, 7}, to).transpose(0, 1).contiguous()));
    }
  CHECK(same_bits(from_vector<float>({2.9f, -2.9f}).to(DType::i32), from_vector<int32_t>({2, -2})));
  CHECK(same_bits(from_vector<float>({255.9f, -0.9f}).to(DType::u8), from_vector<uint8_t>({255, 0})));
  for (const double bad : {256.0, -1.0, std::nan(""), HUGE_VAL}) {
    CAPTURE(bad);
    CHECK(contains(error_of([&] { scalar(bad, DType::f64).to(DType::u8); }), "out of range for u8"));
  }
  CHECK(contains(error_of([] { scalar(0x1p63, DType::f64).to(DType::i64); }), "out of range for i64"));
  CHECK(scalar(-0x1p63, DType::f64).to(DType::i64).item<int64_t>() == INT64_MIN);
  CHECK(contains(error_of([] { from_vector<int64_t>({int64_t{1} << 31}).to(DType::i32); }), "out of range for i32"));
  CHECK(contains(error_of([] { from_vector<int32_t>({-1}).to(DType::u8); }), "out of range for u8"));
}

namespace {

// As `to` is defined: truncated, if that is in range. No value: an error.
template <class To>
std::optional<To> truncated(double value) {
  const double whole = std::trunc(value);
  if (!(whole >= static_cast<double>(std::numeric_limits<To>::min()))) return {};
  if (!(whole < std::ldexp(1.0, std::numeric_limits<To>::digits))) return {};
  return static_cast<To>(whole);
}

template <class From, class To>
void check_truncation(From value) {
  Tensor x = full({40}, 7, dtype_of<From>());
  x.data<From>()[29] = value;
  const std::optional<To> expected = truncated<To>(static_cast<double>(value));
  CAPTURE(value);
  CAPTURE(name(dtype_of<To>()));
  if (!expected) {
    CHECK(contains(error_of([&] { x.to(dtype_of<To>()); }), "out of range"));
    return;
  }
  const Tensor y = x.to(dtype_of<To>());
  for (int64_t i = 0; i < 40; ++i) CHECK(y.data<To>()[i] == (i == 29 ? *expected : 7));
}

template <class From>
void check_truncations() {
  using Limits = std::numeric_limits<From>;
  std::vector<From> values = {Limits::quiet_NaN(), Limits::infinity(), Limits::max(), Limits::denorm_min()};
  for (const double edge : {0.0, 1.0, 255.0, 256.0, 0x1p31 - 1, 0x1p31, 0x1p31 + 1, 0x1p63})
    for (const double toward : {-1e30, 1e30}) {
      const From at = static_cast<From>(edge), next = std::nextafter(at, static_cast<From>(toward));
      values.insert(values.end(), {at, next});
    }
  for (const From value : values)
    for (const From signed_value : {value, -value}) {
      check_truncation<From, uint8_t>(signed_value);
      check_truncation<From, int32_t>(signed_value);
      check_truncation<From, int64_t>(signed_value);
    }
}

}  // namespace

TEST_CASE("tensor: floats at the edges of integers are truncated or refused, among others") {
  check_truncations<float>();
  check_truncations<double>();
}

TEST_CASE("dtype: every half converts there and back, and floats round to the nearest even") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float f = f16_value(half), b = bf16_value(half);
    if (std::isnan(f) ? !std::isnan(f16_value(f16_bits(f))) : f16_bits(f) != half) FAIL_CHECK("f16 " << bits);
    if (std::isnan(b) ? !std::isnan(bf16_value(bf16_bits(b))) : bf16_bits(b) != half) FAIL_CHECK("bf16 " << bits);
    // Halfway to the next value goes to the even one; a hair more goes up.
    if ((half & 0x7fffu) < 0x7bffu) {
      const float next = f16_value(static_cast<uint16_t>(half + 1)), middle = (f + next) / 2;
      const uint16_t even = half & 1u ? static_cast<uint16_t>(half + 1) : half;
      if (f16_bits(middle) != even) FAIL_CHECK("f16 tie " << bits);
      if (f16_bits(std::nextafter(middle, next)) != half + 1) FAIL_CHECK("f16 above the tie " << bits);
      if (f16_bits(std::nextafter(middle, f)) != half) FAIL_CHECK("f16 below the tie " << bits);
    }
    if ((half & 0x7fffu) < 0x7f7fu) {
      const float middle = std::bit_cast<float>((bits << 16) | 0x8000u);
      const uint16_t even = half & 1u ? static_cast<uint16_t>(half + 1) : half;
      if (bf16_bits(middle) != even) FAIL_CHECK("bf16 tie " << bits);
    }
  }
  CHECK(f16_value(f16_bits(65519.0f)) == 65504.0f);
  CHECK(std::isinf(f16_value(f16_bits(65520.0f))));
  CHECK(f16_bits(0x1p-25f) == 0);
  CHECK(f16_bits(-0x1.8p-25f) == 0x8001);
  CHECK(std::isinf(bf16_value(bf16_bits(3.4e38f))));
}

TEST_CASE("tensor: text for messages") {
  CHECK(counted({2, 3}).str() == "f32 [2,3] 0 1 2 3 4 5");
  CHECK(counted({20}, DType::u8).str(2) == "u8 [20] 0 1 ...");
  CHECK(scalar(1.5, DType::f16).str() == "f16 [] 1.5");
  CHECK(from_vector<int32_t>({INT32_MAX, -1}).str() == "i32 [2] 2147483647 -1");
  CHECK(from_vector<int64_t>({INT64_MIN}).str() == "i64 [1] -9223372036854775808");
  CHECK(Tensor().str() == "undefined");
}

TEST_CASE("create: wrap lies on external memory and keeps its owner") {
  auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const int64_t before = memory_stats().live;
  Tensor x = wrap(owner->data(), {2, 2}, DType::f32, owner);
  CHECK(x.is_external());
  CHECK(!x.clone().is_external());
  CHECK(memory_stats().live == before);
  CHECK(owner.use_count() == 2);
  (*owner)[3] = 7;
  CHECK(x.row(1).row(1).item<float>() == 7);
  x = Tensor();
  CHECK(owner.use_count() == 1);
}
