// The kernel families. Each has one file in reference/ (float and double), one in cpu/ (compiled once per ISA; linear
// is in gemm.cpp) and one in cuda/ (float and double), and each such file ends in `fill_<family>`, which puts its
// functions into the table.
#pragma once

#include "kernels/kernels.h"

#define QINCO_KERNEL_FAMILIES(X) \
  X(gemm)                        \
  X(linear)                      \
  X(elementwise)                 \
  X(random)                      \
  X(copy) X(move) X(convert) X(reduce) X(rows) X(softmax) X(norm) X(optim) X(nearest) X(candidate) X(topk) X(scan)

// The families that have a SIMD version in cpu/. (copy and move are at memory speed in the reference already.)
#define QINCO_CPU_FAMILIES(X) \
  X(gemm)                     \
  X(linear)                   \
  X(elementwise)              \
  X(random) X(convert) X(reduce) X(rows) X(softmax) X(norm) X(optim) X(nearest) X(candidate) X(topk) X(scan)

// The families that have a version for the matrix unit in cpu/amx/.
#define QINCO_AMX_FAMILIES(X) X(gemm) X(linear) X(candidate)

namespace qinco::kernels {

#define QINCO_DECLARE_TEMPLATE(family) \
  template <class T>                   \
  void fill_##family(Table<T>& table);
namespace reference {
QINCO_KERNEL_FAMILIES(QINCO_DECLARE_TEMPLATE)
}
namespace cuda {
QINCO_KERNEL_FAMILIES(QINCO_DECLARE_TEMPLATE)
}
#undef QINCO_DECLARE_TEMPLATE

#define QINCO_DECLARE(family) void fill_##family(Table<float>& table);
namespace avx2 {
QINCO_CPU_FAMILIES(QINCO_DECLARE)
}
namespace avx512 {
QINCO_CPU_FAMILIES(QINCO_DECLARE)
}
namespace amx {
QINCO_AMX_FAMILIES(QINCO_DECLARE)
}
#undef QINCO_DECLARE

}  // namespace qinco::kernels
