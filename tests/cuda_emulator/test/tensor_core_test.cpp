// The tensor core's product and asynchronous copies as the emulator has them: the layouts of the PTX ISA's manual,
// written out element by element, and copies that nobody waited for.
#include <cmath>
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <vector>

#include "kernels/check.h"
#include "kernels/context.h"
#include "kernels/cuda/mma.cuh"
#include "tests/cuda_emulator/test/device_array.h"

using namespace qinco;
using namespace qinco::kernels;
using namespace qinco::kernels::cuda;
using namespace cuda_emulator::tests;

namespace {

// c [16,8] = a [16,16] b [16,8], small whole numbers; a is row-major, b too.
void mma_kernel(const float* a, const float* b, float* c) {
  const int l = lane(), group = l >> 2, in_group = l & 3;
  // The manual's formulas: for A, the row of ai is group for i < 2 or 4 <= i < 6, else group + 8; the column of ai is
  // in_group * 2 + (i & 1), and 8 more for i >= 4. For B, the row of bi is in_group * 2 + (i & 1), and 8 more for
  // i >= 2; the column is group. For C, the row of ci is group, or group + 8 for i >= 2; the column is
  // in_group * 2 + (i & 1).
  float a_elements[8], b_elements[4];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a_elements[i] = a[row * 16 + column];
  }
  for (int i = 0; i < 4; ++i) b_elements[i] = b[(in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + group];
  uint32_t a_registers[4];
  for (int r = 0; r < 4; ++r) a_registers[r] = pack_bf16(a_elements[2 * r], a_elements[2 * r + 1]);
  float c_elements[4] = {1, 1, 1, 1};
  mma_bf16(c_elements, a_registers, pack_bf16(b_elements[0], b_elements[1]), pack_bf16(b_elements[2], b_elements[3]));
  for (int i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = c_elements[i];
}

// c [16,8] = 1 + a [16,8] b [8,8], all row-major.
void mma_tf32_kernel(const uint32_t* a, const uint32_t* b, float* c) {
  const int l = lane(), group = l >> 2, in_group = l & 3;
  // The manual's formulas: the row of ai is group for i = 0 and 2, else group + 8; its column in_group for i = 0 and 1,
  // else in_group + 4. The row of bi is in_group, or in_group + 4 for i = 1; its column is group.
  uint32_t a_registers[4];
  for (int i = 0; i < 4; ++i)
    a_registers[i] = a[(i == 0 || i == 2 ? group : group + 8) * 8 + (i < 2 ? in_group : in_group + 4)];
  float c_elements[4] = {1, 1, 1, 1};
  mma_tf32(c_elements, a_registers, b[in_group * 8 + group], b[(in_group + 4) * 8 + group]);
  for (int i = 0; i < 4; ++i) c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = c_elements[i];
}

// out [64]: 32 values read after the copy was waited for, then 32 read too early.
void copy_kernel(const uint4* from, float* out) {
  uint4* const shared = dynamic_shared<uint4>();
  copy_async(shared + threadIdx.x, from + threadIdx.x);
  commit_copies();
  copy_async(shared + 32 + threadIdx.x, from + threadIdx.x);
  commit_copies();
  wait_for_copies<1>();
  out[threadIdx.x] = reinterpret_cast<const float*>(shared + threadIdx.x)[0];
  out[32 + threadIdx.x] = reinterpret_cast<const float*>(shared + 32 + threadIdx.x)[0];
  wait_for_copies<0>();
}

// out [64]: the 32 odd ones of 64 single values, then 8 times 4 values of which the odd four do not exist.
void copy_some_kernel(const float* from, float* out) {
  float* const shared = dynamic_shared<float>();
  const unsigned i = threadIdx.x;
  copy_async_or_zero<4>(shared + i, from + 2 * i + 1, true);
  if (i < 8) copy_async_or_zero<16>(shared + 32 + 4 * i, from + 4 * i, i % 2 == 0);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  out[i] = shared[i];
  out[32 + i] = shared[32 + i];
}

}  // namespace

TEST_CASE("tensor core: m16n8k16 takes and gives fragments as the manual says") {
  std::vector<float> a(256), b(128), expected(128, 1.0f);
  for (int i = 0; i < 256; ++i) a[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 19 - 9);
  for (int i = 0; i < 128; ++i) b[static_cast<size_t>(i)] = static_cast<float>(i * 23 % 17 - 8);
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j)
      for (size_t k = 0; k < 16; ++k) expected[i * 8 + j] += a[i * 16 + k] * b[k * 8 + j];
  const Array<float> on_a(a), on_b(b), c(std::vector<float>(128));
  launch(Context::of(kDevice), mma_kernel, 1, 32, 0, on_a.data, on_b.data, c.data);
  CHECK(c.values() == expected);
}

TEST_CASE("tensor core: m16n8k8 in TF32 takes and gives fragments as the manual says, and ignores low bits") {
  std::vector<float> expected(128, 1.0f);
  std::vector<uint32_t> a(128), b(64);
  const auto a_at = [](size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 19) - 9); };
  const auto b_at = [](size_t i) { return static_cast<float>(static_cast<int>(i * 23 % 17) - 8); };
  for (size_t i = 0; i < 128; ++i) a[i] = __float_as_uint(a_at(i)) | 0x1fff;
  for (size_t i = 0; i < 64; ++i) b[i] = __float_as_uint(b_at(i)) | 0x1234;
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j)
      for (size_t k = 0; k < 8; ++k) expected[i * 8 + j] += a_at(i * 8 + k) * b_at(k * 8 + j);
  const Array<uint32_t> on_a(a), on_b(b);
  const Array<float> c(std::vector<float>(128));
  launch(Context::of(kDevice), mma_tf32_kernel, 1, 32, 0, on_a.data, on_b.data, c.data);
  CHECK(c.values() == expected);
}

TEST_CASE("tensor core: a float is two TF32 operands but for its last place, and NaN is not lost") {
  const auto value = [](uint32_t bits) { return __uint_as_float(bits & ~0x1fffu); };  // as the product sees it
  CHECK(value(split_tf32(1.0f + 0x1p-11f).high) == 1.0f + 0x1p-10f);                  // half way, away from 0
  CHECK(value(split_tf32(-1.0f - 0x1p-11f).high) == -1.0f - 0x1p-10f);
  CHECK(value(split_tf32(1.0f + 0x1.ffep-12f).high) == 1.0f);
  bool near = true;
  for (int i = 0; i < 10000; ++i) {
    const float x = std::ldexp(1.0f + static_cast<float>(i * 7919 % 8388608) * 0x1p-23f, i % 60 - 30);
    for (const float signed_x : {x, -x}) {
      const SplitTf32 split = split_tf32(signed_x);
      near = near && std::fabs(signed_x - value(split.high)) <= 0x1p-11f * x &&
             std::fabs(signed_x - value(split.high) - value(split.low)) <= 0x1p-23f * x;
    }
  }
  CHECK(near);
  for (const float x : {INFINITY, -INFINITY, NAN, -NAN, __uint_as_float(0x7f800001u), __uint_as_float(0xffffffffu)})
    CHECK(std::isnan(value(split_tf32(x).low)));
}

TEST_CASE("tensor core: operands are rounded to nearest even, relu keeps NaN") {
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  CHECK(low(pack_bf16(1.0f + 0x1p-8f, 0)) == 1.0f);            // half way, to even
  CHECK(low(pack_bf16(1.0f + 0x3p-8f, 0)) == 1.0f + 0x1p-6f);  // half way, to even
  CHECK(low(pack_bf16(1.0f + 0x1.1p-8f, 0)) == 1.0f + 0x1p-7f);
  CHECK(pack_bf16(0, -2.5f) == 0xc0200000u);
  CHECK(pack_relu_bf16(3, -2.5f) == 0x00004040u);
  CHECK(low(pack_bf16(3.4e38f, 0)) == INFINITY);
  CHECK(low(pack_relu_bf16(NAN, 0)) != low(pack_relu_bf16(NAN, 0)));
}

TEST_CASE("asynchronous copies arrive when they are waited for, and not before") {
  std::vector<uint4> from(32);
  for (unsigned i = 0; i < 32; ++i) from[i] = {__float_as_uint(static_cast<float>(i)), 0, 0, 0};
  const Array<uint4> on_from(from);
  const Array<float> out(std::vector<float>(64));
  launch(Context::of(kDevice), copy_kernel, 1, 32, 2 * 32 * sizeof(uint4), on_from.data, out.data);
  const std::vector<float> found = out.values();
  for (size_t i = 0; i < 32; ++i) {
    CHECK(found[i] == static_cast<float>(i));
    CHECK(found[32 + i] != found[32 + i]);
  }
}

TEST_CASE("asynchronous copies of 4 and 16 bytes, and zeros for what does not exist") {
  std::vector<float> from(64);
  for (size_t i = 0; i < 64; ++i) from[i] = static_cast<float>(i + 1);
  const Array<float> on_from(from), out(std::vector<float>(64));
  launch(Context::of(kDevice), copy_some_kernel, 1, 32, 64 * sizeof(float), on_from.data, out.data);
  const std::vector<float> found = out.values();
  for (size_t i = 0; i < 32; ++i) {
    CHECK(found[i] == from[2 * i + 1]);
    CHECK(found[32 + i] == (i / 4 % 2 == 0 ? from[i] : 0.0f));
  }
}

TEST_CASE("asynchronous copies off 16 bytes are refused") {
  const Array<float> from(std::vector<float>(4 * 33)), out(std::vector<float>(64));
  const auto run = [&](const float* at) {
    launch(Context::of(kDevice), copy_kernel, 1, 32, 2 * 32 * sizeof(uint4), reinterpret_cast<const uint4*>(at),
           out.data);
  };
  CHECK_NOTHROW(run(from.data + 4));
  CHECK_THROWS_WITH_AS(run(from.data + 1), doctest::Contains("no multiple of its 16 bytes"), Error);
}
