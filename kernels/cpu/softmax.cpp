#include "kernels/cpu/simd.h"
#include "kernels/families.h"

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_softmax(Table<float>&) {}

}  // namespace qinco::kernels::QINCO_CPU_ISA
