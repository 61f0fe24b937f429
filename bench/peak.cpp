#include "bench/peak.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "kernels/parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qinco::bench {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kChains = 12;  // more than FMA latency x ports, fewer than the registers
constexpr int64_t kSteps = 200000;
constexpr double kChainFlop = 2.0 * kChains * kSteps;  // per lane
constexpr int kRuns = 15;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Each returns a value that depends on all chains, so that the compiler keeps them. The barrier keeps it from proving
// anything about the operands.
float run_scalar() {
  float chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = static_cast<float>(c);
  float a = 0.999f, b = 0.001f;
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 16
    for (float& chain : chains) chain = chain * a + b;
  }
  float sum = 0;
  for (const float chain : chains) sum += chain;
  return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float run_avx2() {
  __m256 chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = _mm256_set1_ps(static_cast<float>(c));
  __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 16
    for (__m256& chain : chains) chain = _mm256_fmadd_ps(chain, a, b);
  }
  for (int c = 1; c < kChains; ++c) chains[0] = _mm256_add_ps(chains[0], chains[c]);
  return _mm256_cvtss_f32(chains[0]);
}

__attribute__((target("avx512f"))) float run_avx512() {
  __m512 chains[kChains];
  for (int c = 0; c < kChains; ++c) chains[c] = _mm512_set1_ps(static_cast<float>(c));
  __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int64_t i = 0; i < kSteps; ++i) {
    __asm__ volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 16
    for (__m512& chain : chains) chain = _mm512_fmadd_ps(chain, a, b);
  }
  for (int c = 1; c < kChains; ++c) chains[0] = _mm512_add_ps(chains[0], chains[c]);
  return _mm512_cvtss_f32(chains[0]);
}
#endif

#if defined(__x86_64__)
constexpr int64_t kProducts = 40000;
constexpr double kProductFlop = 2.0 * 16 * 16 * 32;

// Four independent accumulators on random bfloat16 operands that stay in their registers.
float run_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, first_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } const config;
  alignas(64) uint16_t operands[512];
  std::minstd_rand random(1);
  for (uint16_t& x : operands) x = static_cast<uint16_t>(random() % 2 << 15 | (0x3c00 + random() % 0x0300));
  const int64_t stride = 64;
  __asm__ volatile(
      "ldtilecfg %0\n\ttilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
      "tileloadd (%1,%2,1), %%tmm4\n\ttileloadd (%1,%2,1), %%tmm5"
      :
      : "m"(config), "r"(operands), "r"(stride)
      : "memory");
  for (int64_t i = 0; i < kProducts; i += 4) {
    __asm__ volatile(
        "tdpbf16ps %tmm5, %tmm4, %tmm0\n\ttdpbf16ps %tmm5, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm5, %tmm4, %tmm2\n\ttdpbf16ps %tmm5, %tmm4, %tmm3");
  }
  __asm__ volatile("tilerelease");
  return 0;
}
#endif

struct Peak {
  float (*run)();
  double flop;  // of one run
};

Peak peak_of(kernels::Isa isa) {
#if defined(__x86_64__)
  if (isa >= kernels::Isa::avx512) return {run_avx512, kChainFlop * 16};
  if (isa == kernels::Isa::avx2) return {run_avx2, kChainFlop * 8};
#endif
  (void)isa;
  return {run_scalar, kChainFlop};
}

Peak product_peak_of(kernels::Isa isa) {
#if defined(__x86_64__)
  if (isa == kernels::Isa::amx && kernels::best_isa() == isa) return {run_tiles, kProductFlop * kProducts};
#endif
  return peak_of(isa);
}

kernels::Context with_threads(int threads) {
  kernels::Context context = kernels::Context::cpu();
  context.threads = threads;
  return context;
}

double measure(const Peak& peak, int threads, int runs) {
  const kernels::Context context = with_threads(threads);
  std::vector<float> sink(static_cast<size_t>(threads));
  double best = 0;
  for (int r = 0; r < runs; ++r) {
    const auto start = Clock::now();
    kernels::parallel_for(context, threads, 1,
                          [&](int64_t i, int64_t, int) { sink[static_cast<size_t>(i)] = peak.run(); });
    best = std::max(best, peak.flop * threads / seconds_since(start) * 1e-9);
  }
  return best;
}

}  // namespace

double measure_peak_gflops(kernels::Isa isa, int threads, int runs) {
  return measure(peak_of(isa), threads, runs);
}

double measure_product_peak_gflops(kernels::Isa isa, int threads, int runs) {
  return measure(product_peak_of(isa), threads, runs);
}

double peak_gflops(kernels::Isa isa, int threads) {
  static std::map<std::pair<kernels::Isa, int>, double> known;
  double& best = known[{isa, threads}];
  if (!(best > 0)) best = measure_peak_gflops(isa, threads, kRuns);
  return best;
}

double product_peak_gflops(kernels::Isa isa, int threads) {
  static std::map<std::pair<kernels::Isa, int>, double> known;
  double& best = known[{isa, threads}];
  if (!(best > 0)) best = measure_product_peak_gflops(isa, threads, kRuns);
  return best;
}

double copy_gbytes(int threads) {
  static std::map<int, double> known;
  double& best = known[threads];
  if (best > 0) return best;
  constexpr int64_t kBytes = int64_t{256} << 20, kChunk = int64_t{1} << 20;
  std::vector<char> from(kBytes, 1), to(kBytes, 2);
  const kernels::Context context = with_threads(threads);
  for (int r = 0; r < 5; ++r) {
    const auto start = Clock::now();
    kernels::parallel_for(context, kBytes, kChunk, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to.data() + begin, from.data() + begin, static_cast<size_t>(end - begin));
    });
    best = std::max(best, 2.0 * kBytes / seconds_since(start) * 1e-9);
  }
  return best;
}

}  // namespace qinco::bench
