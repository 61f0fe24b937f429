// kernels/cuda/library.h in plain loops.
#include "kernels/cuda/library.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

namespace {

// To the nearest of 10 bits of fraction.
float to_tf32(float x) {
  if (!std::isfinite(x)) return x;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x1000u) & ~0x1fffu);
}

template <class T>
void multiply(const Gemm<T>& g, T beta) {
  const cuda_emulator::DeviceWork work;
  const auto read = [&g](T x) {
    if constexpr (std::is_same_v<T, float>)
      return g.precision == Precision::fast ? to_tf32(x) : x;
    else
      return x;
  };
  const int64_t n = g.n;
  std::vector<T> rows(static_cast<size_t>(g.k * n)), sums(static_cast<size_t>(n));  // op(B); a row of the product
  for (int64_t p = 0; p < g.k; ++p)
    for (int64_t j = 0; j < n; ++j)
      rows[static_cast<size_t>(p * n + j)] = read(g.trans_b ? g.b[j * g.ldb + p] : g.b[p * g.ldb + j]);
  for (int64_t i = 0; i < g.m; ++i) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t p = 0; p < g.k; ++p) {
      const T factor = read(g.trans_a ? g.a[p * g.lda + i] : g.a[i * g.lda + p]);
      const T* const row = rows.data() + p * n;
      for (int64_t j = 0; j < n; ++j) sums[static_cast<size_t>(j)] += factor * row[j];
    }
    for (int64_t j = 0; j < n; ++j) {
      T& out = g.c[i * g.ldc + j];
      out = beta == T(0) ? sums[static_cast<size_t>(j)] : sums[static_cast<size_t>(j)] + beta * out;
    }
  }
}

void multiply_fused(const Gemm<float>& g, float own) {
  multiply(g, own);
  const cuda_emulator::DeviceWork work;
  for (int64_t i = 0; i < g.m; ++i)
    for (int64_t j = 0; j < g.n; ++j) {
      float& c = g.c[i * g.ldc + j];
      if (g.residual) c += g.residual[i * g.ldr + j];
      if (g.bias) c += g.bias[j];
      if (g.relu && c < 0) c = 0;
    }
}

float from_bf16(uint16_t x) {
  return cuda_emulator::unpack_bf16(x, 0);
}

// out(i, j, sum) for every element of A B^T.
template <class Out>
void multiply_rounded(int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b, const Out& out) {
  const cuda_emulator::DeviceWork work;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (n % 8 != 0 || k % 8 != 0 || !aligned(a) || !aligned(b)) std::abort();  // what cuBLASLt may refuse
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < m; ++i) {
    std::transform(a + i * k, a + (i + 1) * k, row.begin(), from_bf16);
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t p = 0; p < k; ++p) sum += row[static_cast<size_t>(p)] * from_bf16(b[j * k + p]);
      out(i, j, sum);
    }
  }
}

template <class Key>
void sort(int64_t n, const Key* keys, const int32_t* values, Key* sorted_keys, int32_t* sorted_values, int bits) {
  const cuda_emulator::DeviceWork work;
  const auto key = [keys, bits](int64_t i) {
    if constexpr (std::is_integral_v<Key>)
      return bits < 32 ? keys[i] & ((Key{1} << bits) - 1) : keys[i];
    else
      return keys[i];
  };
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return key(i) < key(j); });
  for (int64_t i = 0; i < n; ++i) {
    sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
    sorted_values[i] = values[order[static_cast<size_t>(i)]];
  }
}

// The work on the context's stream.
template <class Work>
void queue(const Context& context, Work work) {
  cuda_emulator::do_on(stream_of(context), [work] {
    work();
    return cudaSuccess;
  });
}

}  // namespace

template <class T>
void matrix_product(const Context& context, const Gemm<T>& g, T beta) {
  queue(context, [g, beta] { multiply(g, beta); });
}

bool fused_product(const Context& context, const Gemm<float>& g, float own) {
  if (own != 0 && g.residual) return false;
  if (g.residual && g.ldr < g.n) return false;
  queue(context, [g, own] { multiply_fused(g, own); });
  return true;
}

void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     bool accumulate, float* c) {
  queue(context, [=] {
    multiply_rounded(m, n, k, a, b,
                     [=](int64_t i, int64_t j, float sum) { c[i * n + j] = accumulate ? c[i * n + j] + sum : sum; });
  });
}

void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     uint16_t* c) {
  queue(context, [=] {
    multiply_rounded(m, n, k, a, b, [=](int64_t i, int64_t j, float sum) {
      c[i * n + j] = static_cast<uint16_t>(cuda_emulator::pack_bf16(sum < 0 ? 0 : sum, 0));
    });
  });
}

template <class Key>
void sort_pairs(const Context& context, int64_t n, const Key* keys, const int32_t* values, Key* sorted_keys,
                int32_t* sorted_values, int bits) {
  queue(context, [=] { sort(n, keys, values, sorted_keys, sorted_values, bits); });
}

template void matrix_product(const Context&, const Gemm<float>&, float);
template void matrix_product(const Context&, const Gemm<double>&, double);
template void sort_pairs(const Context&, int64_t, const float*, const int32_t*, float*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const double*, const int32_t*, double*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const uint32_t*, const int32_t*, uint32_t*, int32_t*, int);

}  // namespace qinco::kernels::cuda
