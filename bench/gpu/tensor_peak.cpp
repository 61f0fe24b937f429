#include "bench/gpu/tensor_peak.h"

#ifdef QINCO_CUBLAS

#include <algorithm>
#include <chrono>
#include <cublas_v2.h>
#include <random>
#include <vector>

#include "kernels/check.h"

namespace qinco::bench {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kSize = 8192;
constexpr int kProducts = 10, kTurns = 9;  // a turn is kProducts products

void succeed(cublasStatus_t status) {
  check(status == CUBLAS_STATUS_SUCCESS, "cuBLAS: {}", cublasGetStatusString(status));
}

// Random values of both signs: on zeros a device burns less power and clocks higher.
void fill(Device device, void* matrix) {
  std::vector<uint16_t> values(kSize * kSize);
  std::minstd_rand random(1);
  for (uint16_t& x : values) x = static_cast<uint16_t>(random() % 2 << 15 | (0x3c00 + random() % 0x0300));
  kernels::copy_bytes(device, matrix, {}, values.data(), values.size() * sizeof(uint16_t));
}

}  // namespace

double tensor_peak(const kernels::Context& context) {
  const Device device = context.device;
  constexpr size_t kBytes = kSize * kSize * sizeof(uint16_t);
  void *const a = kernels::allocate(device, kBytes), *const b = kernels::allocate(device, kBytes),
              *const c = kernels::allocate(device, kBytes);
  fill(device, a);
  fill(device, b);
  cublasHandle_t handle = nullptr;
  succeed(cublasCreate(&handle));
  succeed(cublasSetStream(handle, static_cast<cudaStream_t>(context.stream)));
  const float one = 1, zero = 0;
  std::vector<double> turns;
  for (int turn = 0; turn <= kTurns; ++turn) {  // the first one prepares
    kernels::synchronize(device);
    const auto start = Clock::now();
    for (int i = 0; i < kProducts; ++i)
      succeed(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a, CUDA_R_16BF, kSize, b,
                           CUDA_R_16BF, kSize, &zero, c, CUDA_R_16BF, kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    kernels::synchronize(device);
    if (turn > 0) turns.push_back(std::chrono::duration<double>(Clock::now() - start).count() / kProducts);
  }
  succeed(cublasDestroy(handle));
  for (void* const matrix : {a, b, c}) kernels::release(device, matrix, kBytes);
  std::sort(turns.begin(), turns.end());
  return 2.0 * kSize * kSize * kSize / turns[kTurns / 2];
}

}  // namespace qinco::bench

#else

namespace qinco::bench {

double tensor_peak(const kernels::Context&) {
  return 0;
}

}  // namespace qinco::bench

#endif
