// What the processor and the operating system offer; asked once, by dispatch.cpp. The emulator of instruction sets
// (tests/isa_emulator) has answers of its own.
#pragma once

#include "kernels/dispatch.h"

namespace qinco::kernels {

/// The highest ISA that this machine runs.
Isa detect_isa();
/// Whether it has what goes beyond best_isa().
bool detect(Feature feature);

}  // namespace qinco::kernels
