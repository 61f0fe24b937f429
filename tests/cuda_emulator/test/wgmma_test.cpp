// Hopper's warpgroup products, barriers and bulk copies as the emulator has them: the layouts of the PTX ISA's manual,
// written out element by element, and what comes of everything that is touched too early.
#include "kernels/cuda/wgmma.cuh"

#include <cmath>
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <vector>

#include "kernels/check.h"
#include "kernels/context.h"
#include "tests/cuda_emulator/test/device_array.h"

using namespace qinco;
using namespace qinco::kernels;
using namespace qinco::kernels::cuda;
using namespace cuda_emulator::tests;

namespace {

constexpr unsigned kOperandBytes = 16 << 10, kBarrier = 32 << 10;
constexpr size_t kShared = kBarrier + 8;
constexpr int kThreads = 128;

uint64_t operand(unsigned address) {
  return SwizzledOperand::kDescriptor + address / 16;
}

// An operand on its way into shared memory, by thread 0; the others wait for it.
void copy_operand(const unsigned char* b) {
  if (threadIdx.x == 0) {
    barrier_init(kBarrier, 1);
    barrier_init_fence();
    barrier_expect(kBarrier, kOperandBytes);
    copy_bulk(0, b, kOperandBytes, kBarrier);
  }
  __syncthreads();
  barrier_wait(kBarrier, 0);
}

// d [64,N] = first + a [64,K] b^T, a row-major, b packed; N is 128 and K 64, or N is 64 and K 128. The manual's
// formulas: row of element i of A's register r is lane / 4, and 8 more for odd r; its column is lane % 4 * 2 + i, and 8
// more for r >= 2. Element i of D is in row lane / 4 + i / 2 % 2 * 8, column i / 4 * 8 + lane % 4 * 2 + i % 2.
template <int N>
void product_kernel(const float* a, const unsigned char* b, float* out) {
  constexpr int K = 128 * 64 / N;
  copy_operand(b);
  const int l = lane(), first = static_cast<int>(threadIdx.x) / 32 * 16;
  uint32_t registers[K / 16][4];
  for (int s = 0; s < K / 16; ++s)
    for (int r = 0; r < 4; ++r) {
      const float* const at = a + (first + l / 4 + r % 2 * 8) * K + 16 * s + l % 4 * 2 + r / 2 * 8;
      registers[s][r] = pack_bf16(at[0], at[1]);
    }
  float d[N / 8][4];
  for (auto& row : d)
    for (float& x : row) x = 1;
  pin(d);
  wgmma_fence();
  for (int s = 0; s < K / 16; ++s) {
    const uint64_t descriptor = operand(static_cast<unsigned>(SwizzledOperand::step(N, s)));
    if constexpr (N == 128)
      wgmma_add_128(d, registers[s], descriptor);
    else if (s == 0)
      wgmma_add_64<true>(d, registers[s], descriptor);
    else
      wgmma_add_64<false>(d, registers[s], descriptor);
  }
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < N / 2; ++i)
    out[(first + l / 4 + i / 2 % 2 * 8) * N + i / 4 * 8 + l % 4 * 2 + i % 2] = d[i / 4][i % 4];
}

template <int N>
void check_product() {
  constexpr size_t kN = N, K = 128 * 64 / N;
  const auto a_at = [](size_t m, size_t k) { return static_cast<float>((m * 131 + k * 7) % 9) - 4; };
  const auto b_at = [](size_t n, size_t k) { return static_cast<float>((n * 257 + k * 31) % 7) - 3; };
  std::vector<float> a(64 * K), expected(64 * kN, N == 128 ? 1.0f : 0.0f);
  std::vector<unsigned char> b(kOperandBytes);
  for (size_t i = 0; i < a.size(); ++i) a[i] = a_at(i / K, i % K);
  for (size_t n = 0; n < kN; ++n)
    for (size_t k = 0; k < K; ++k) {
      const auto bits = static_cast<uint16_t>(__float_as_uint(b_at(n, k)) >> 16);
      std::memcpy(&b[static_cast<size_t>(SwizzledOperand::offset(N, static_cast<int>(n), static_cast<int>(k)))], &bits,
                  2);
    }
  for (size_t m = 0; m < 64; ++m)
    for (size_t n = 0; n < kN; ++n)
      for (size_t k = 0; k < K; ++k) expected[m * kN + n] += a_at(m, k) * b_at(n, k);
  const Array<float> on_a(a), d(std::vector<float>(64 * kN));
  const Array<unsigned char> on_b(b);
  launch(Context::of(kDevice), product_kernel<N>, 1, kThreads, kShared, on_a.data, on_b.data, d.data);
  CHECK(d.values() == expected);
}

enum class Mistake { none, read, overwrite_a, overwrite_b, forget };

// out [128]: a value of each thread's d = a b^T, where all a and b are 1, so that it is 16; or what a mistake makes of
// it.
void early_kernel(const unsigned char* ones, float* out, Mistake mistake) {
  copy_operand(ones);
  uint32_t a[4];
  for (uint32_t& x : a) x = pack_bf16(1, 1);
  float d[8][4] = {}, early[8][4] = {};
  wgmma_fence();
  wgmma_add_64<true>(d, a, operand(0));
  wgmma_commit();
  wgmma_add_64<true>(early, a, operand(0));
  wgmma_commit();
  wgmma_wait<1>();  // d, but not `early`
  if (mistake == Mistake::overwrite_a)
    for (uint32_t& x : a) x = 0;
  if (mistake == Mistake::overwrite_b && threadIdx.x == 0) {
    barrier_expect(kBarrier, 1024);  // rows 0 to 7
    copy_bulk(0, ones, 1024, kBarrier);
  }
  __syncthreads();
  out[threadIdx.x] = (mistake == Mistake::read ? early : d)[7][3];
  if (mistake == Mistake::forget) return;
  wgmma_wait<0>();
  if (mistake == Mistake::overwrite_a || mistake == Mistake::overwrite_b) out[threadIdx.x] = early[0][0];
  __syncthreads();
  if (mistake == Mistake::overwrite_b) barrier_wait(kBarrier, 1);
}

std::vector<float> with_mistake(Mistake mistake) {
  const uint16_t one = 0x3f80;
  std::vector<unsigned char> ones(kOperandBytes);
  for (size_t i = 0; i < ones.size(); i += 2) std::memcpy(&ones[i], &one, 2);
  const Array<unsigned char> on_ones(ones);
  const Array<float> out{std::vector<float>(kThreads)};
  launch(Context::of(kDevice), early_kernel, 1, kThreads, kShared, on_ones.data, out.data, mistake);
  return out.values();
}

bool all_nan(const std::vector<float>& x) {
  for (const float value : x)
    if (!std::isnan(value)) return false;
  return true;
}

// Thread 0 copies two pieces, 32 others take them in turn, through one stage and its two barriers.
void ring_kernel(const float* from, float* out, int alignment) {
  const unsigned full = kBarrier, free = kBarrier + 8, i = threadIdx.x;
  float* const shared = dynamic_shared<float>();
  const auto copy = [&](unsigned round) {
    barrier_expect(full, 128);
    copy_bulk(0, from + 32 * round + alignment, 128, full);
  };
  if (i == 0) {
    barrier_init(full, 1);
    barrier_init(free, 32);
    copy(0);
  }
  __syncthreads();
  if (i >= 32) out[32 + i] = shared[i - 32];  // too early
  __syncthreads();
  if (i == 0) {
    barrier_wait(free, 0);
    copy(1);
  }
  for (unsigned round = 0; i >= 32 && round < 2; ++round) {
    barrier_wait(full, round);
    out[32 * round + i - 32] = shared[i - 32];
    barrier_arrive(free);
  }
}

void barrier_kernel(int mistake) {
  if (mistake != 0) barrier_init(kBarrier, 1);
  if (mistake == 1) barrier_wait(kBarrier, 0);
  if (mistake == 2) barrier_expect(kBarrier, 16);
  barrier_arrive(kBarrier);
}

void forgotten_copy_kernel(const float* from) {
  barrier_init(kBarrier, 1);
  barrier_expect(kBarrier, 16);
  copy_bulk(0, from, 16, kBarrier);
}

}  // namespace

// The manual's canonical layout of an operand whose inner dimension is contiguous, with 128-byte swizzle: 8 rows of 128
// bytes, the next 8 `stride` bytes on; bits 4 to 6 of an address change by bits 7 to 9.
TEST_CASE("wgmma: operands are packed as their descriptors say") {
  for (const int N : {64, 128})
    for (int s = 0; s < 128 * 64 / N / 16; ++s)
      for (int n = 0; n < N; ++n)
        for (int k = 0; k < 16; ++k) {
          const int linear = SwizzledOperand::step(N, s) + n / 8 * 1024 + n % 8 * 128 + k * 2;
          REQUIRE(SwizzledOperand::offset(N, n, 16 * s + k) == (linear ^ (linear >> 7 & 7) << 4));
        }
}

TEST_CASE("wgmma: m64n128k16 and m64n64k16 take and give fragments as the manual says") {
  check_product<128>();
  check_product<64>();
}

TEST_CASE("wgmma: products are done when they are waited for, and not before") {
  CHECK(with_mistake(Mistake::none) == std::vector<float>(kThreads, 16.0f));
  CHECK(all_nan(with_mistake(Mistake::read)));
  CHECK(with_mistake(Mistake::overwrite_a) == std::vector<float>(kThreads, 0.0f));
  CHECK(all_nan(with_mistake(Mistake::overwrite_b)));
  CHECK_THROWS_WITH_AS(with_mistake(Mistake::forget), doctest::Contains("ends with products not waited for"), Error);
  CHECK(with_mistake(Mistake::none) == std::vector<float>(kThreads, 16.0f));  // and it goes on working
}

TEST_CASE("bulk copies arrive when their barrier is waited for, and a ring's stage can be filled again") {
  std::vector<float> from(65);
  for (size_t i = 0; i < 65; ++i) from[i] = static_cast<float>(i);
  const Array<float> on_from(from), out(std::vector<float>(96));
  const auto run = [&](int alignment) {
    launch(Context::of(kDevice), ring_kernel, 1, 64, kShared + 8, on_from.data, out.data, alignment);
  };
  run(0);
  const std::vector<float> found = out.values();
  for (size_t i = 0; i < 64; ++i) CHECK(found[i] == from[i]);
  CHECK(std::isnan(found[64]));
  CHECK_THROWS_WITH_AS(run(1), doctest::Contains("no multiple of 16"), Error);
  const auto forget = [&] { launch(Context::of(kDevice), forgotten_copy_kernel, 1, 1, kShared, on_from.data); };
  CHECK_THROWS_WITH_AS(forget(), doctest::Contains("ends with bulk copies not waited for"), Error);
}

TEST_CASE("barriers that are not there, do not end or are arrived at too often are found") {
  const auto run = [](int mistake) { launch(Context::of(kDevice), barrier_kernel, 1, 1, kShared, mistake); };
  CHECK_THROWS_WITH_AS(run(0), doctest::Contains("nobody has initialised"), Error);
  CHECK_THROWS_WITH_AS(run(1), doctest::Contains("phase that does not end"), Error);
  CHECK_THROWS_WITH_AS(run(2), doctest::Contains("where all have arrived"), Error);
  CHECK_NOTHROW(run(3));
}
