// What cuBLAS and cuBLASLt say of a call.
#pragma once

#include <cublas_v2.h>

#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

inline constexpr int kMaxDevices = 64;  // a handle is kept for each

/// Throws Error unless it is success.
void check_cublas(cublasStatus_t status);

/// The status of create(), which makes a handle, and is called once more where device `index` lacks memory for it.
template <class Create>
cublasStatus_t create_handle(int index, const Create& create) {
  const cublasStatus_t status = create();
  if (status != CUBLAS_STATUS_ALLOC_FAILED && status != CUBLAS_STATUS_NOT_INITIALIZED) return status;  // without memory
  give_back_kept(index);
  return create();
}

}  // namespace qinco::kernels::cuda
