#include "bench/peak.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
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

struct Peak {
  float (*run)();
  int lanes;
};

Peak peak_of(kernels::Isa isa) {
#if defined(__x86_64__)
  if (isa >= kernels::Isa::avx512) return {run_avx512, 16};
  if (isa == kernels::Isa::avx2) return {run_avx2, 8};
#endif
  (void)isa;
  return {run_scalar, 1};
}

kernels::Context with_threads(int threads) {
  kernels::Context context = kernels::Context::cpu();
  context.threads = threads;
  return context;
}

}  // namespace

double measure_peak_gflops(kernels::Isa isa, int threads, int runs) {
  const Peak peak = peak_of(isa);
  const kernels::Context context = with_threads(threads);
  std::vector<float> sink(static_cast<size_t>(threads));
  double best = 0;
  for (int r = 0; r < runs; ++r) {
    const auto start = Clock::now();
    kernels::parallel_for(context, threads, 1,
                          [&](int64_t i, int64_t, int) { sink[static_cast<size_t>(i)] = peak.run(); });
    best = std::max(best, 2.0 * kChains * kSteps * peak.lanes * threads / seconds_since(start) * 1e-9);
  }
  return best;
}

double peak_gflops(kernels::Isa isa, int threads) {
  static std::map<std::pair<kernels::Isa, int>, double> known;
  double& best = known[{isa, threads}];
  if (!(best > 0)) best = measure_peak_gflops(isa, threads, kRuns);
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
