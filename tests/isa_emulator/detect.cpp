// kernels/detect.cpp for the emulator: everything that kernels/cpu is written for.
#include "kernels/detect.h"

namespace qinco::kernels {

Isa detect_isa() {
  return Isa::amx;
}

bool detect(Feature feature) {
  return feature != Feature::avx_vnni;
}

}  // namespace qinco::kernels
