// The fused candidate search of one QINCo step.
#include "kernels/families.h"

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_candidate(Table<float>&) {}

}  // namespace qinco::kernels::QINCO_CPU_ISA
