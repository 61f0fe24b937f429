// The launcher of Hopper's screen, whose kernel is compiled for sm_90a alone.
#pragma once

#include "kernels/context.h"

namespace qinco::kernels::cuda {

struct Screen;

/// The screen of a step that is packed in pieces (takes_pieces); s.slabs are the pieces.
void run_screen_hopper(const Context& context, const Screen& s);

}  // namespace qinco::kernels::cuda
