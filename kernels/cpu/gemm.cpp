#include "kernels/families.h"

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_gemm(Table<float>&) {}

}  // namespace qinco::kernels::QINCO_CPU_ISA
