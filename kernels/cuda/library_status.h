// What cuBLAS and cuBLASLt say of a call.
#pragma once

#include <cublas_v2.h>

namespace qinco::kernels::cuda {

constexpr int kMaxDevices = 64;  // that use the libraries

/// Throws Error unless it is success.
void check_cublas(cublasStatus_t status);

}  // namespace qinco::kernels::cuda
