// What cuBLAS and cuBLASLt say of a call.
#pragma once

#include <cublas_v2.h>

namespace qinco::kernels::cuda {

inline constexpr int kMaxDevices = 64;  // a handle is kept for each

/// Throws Error unless it is success.
void check_cublas(cublasStatus_t status);

}  // namespace qinco::kernels::cuda
