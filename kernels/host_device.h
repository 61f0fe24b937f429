// Marks functions that the CPU's and CUDA's kernels share.
#pragma once

#ifdef __CUDACC__
#define QINCO_HOST_DEVICE __host__ __device__
#else
#define QINCO_HOST_DEVICE
#endif
