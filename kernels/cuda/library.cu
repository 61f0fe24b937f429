// cuBLAS and CUB behind library.h.
#include <cstdio>
#include <cub/device/device_radix_sort.cuh>
#include <cublas_v2.h>
#include <mutex>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/library_status.h"

namespace qinco::kernels::cuda {

namespace {

// cuBLAS's state for one device. Calls of several threads take turns; all go to the device's one stream, so that its
// workspace has one user at a time and its results are the same bits in every run.
struct Handle {
  std::mutex mutex;
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;
  cudaStream_t stream = nullptr;  // what the handle is ready for
};

// What NVIDIA recommends: of our own, so that products are the same bits whether they are recorded or not.
size_t workspace_bytes(int index) {
  const int capability = compute_capability(index);
  return size_t{capability >= 90 && capability < 120 ? 32u : 4u} << 20;
}

// Makes the device's handle ready for the context's stream. Under its lock.
void prepare(const Context& context, Handle& own) {
  cudaStream_t const stream = stream_of(context);
  if (own.handle && own.stream == stream) return;
  const int index = context.device.index;
  const size_t bytes = workspace_bytes(index);
  if (!own.workspace) {
    if (is_recording(index)) check_status(cudaErrorStreamCaptureUnsupported, "the first matrix product on a device");
    own.workspace = allocate(index, bytes);
  }
  if (!own.handle) check_cublas(create_handle(index, [&own] { return cublasCreate(&own.handle); }));
  own.stream = nullptr;
  check_cublas(cublasSetStream(own.handle, stream));  // and cuBLAS's own workspace
  check_cublas(cublasSetWorkspace(own.handle, own.workspace, bytes));
  own.stream = stream;
}

Handle& handle_of(int index) {
  static auto* const handles = new Handle[kMaxDevices];  // never destroyed: the driver may be gone by then
  if (index >= kMaxDevices) check_status(cudaErrorInvalidDevice, "matrix product");
  return handles[index];
}

}  // namespace

void check_cublas(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  char words[128];
  std::snprintf(words, sizeof words, "matrix product: %s", cublasGetStatusString(status));
  const cudaError_t cause = status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown;
  check_status(cause, words);
}

// A row-major matrix is the transpose of a column-major one: C^T = op(B)^T op(A)^T, so the operands change places.
template <class T>
void matrix_product(const Context& context, const Gemm<T>& g, T beta) {
  use_device(context.device.index);
  Handle& own = handle_of(context.device.index);
  const std::lock_guard lock(own.mutex);
  prepare(context, own);
  const T one = 1;
  const cublasOperation_t op_a = g.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = g.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  if constexpr (std::is_same_v<T, float>) {
    const bool fast = g.precision == Precision::fast;
    check_cublas(cublasGemmEx_64(own.handle, op_b, op_a, g.n, g.m, g.k, &one, g.b, CUDA_R_32F, g.ldb, g.a, CUDA_R_32F,
                                 g.lda, &beta, g.c, CUDA_R_32F, g.ldc,
                                 fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  } else {
    check_cublas(
        cublasDgemm_64(own.handle, op_b, op_a, g.n, g.m, g.k, &one, g.b, g.ldb, g.a, g.lda, &beta, g.c, g.ldc));
  }
}

template <class Key>
void sort_pairs(const Context& context, int64_t n, const Key* keys, const int32_t* values, Key* sorted_keys,
                int32_t* sorted_values, int bits) {
  if (n == 0) return;
  use_device(context.device.index);
  const auto sort = [&](void* memory, size_t& bytes) {
    check_call(context.device.index, "sort", [&] {
      return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, sorted_keys, values, sorted_values, n, 0, bits,
                                             stream_of(context));
    });
  };
  size_t bytes = 0;
  sort(nullptr, bytes);
  ScratchFrame frame(context);
  sort(frame.get<char>(static_cast<int64_t>(bytes)), bytes);
}

template void matrix_product(const Context&, const Gemm<float>&, float);
template void matrix_product(const Context&, const Gemm<double>&, double);
template void sort_pairs(const Context&, int64_t, const float*, const int32_t*, float*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const double*, const int32_t*, double*, int32_t*, int);
template void sort_pairs(const Context&, int64_t, const uint32_t*, const int32_t*, uint32_t*, int32_t*, int);

}  // namespace qinco::kernels::cuda
