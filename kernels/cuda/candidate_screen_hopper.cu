#include "kernels/cuda/candidate_screen_hopper.cuh"
#include "kernels/cuda/candidate_screen_hopper.h"

namespace qinco::kernels::cuda {

void run_screen_hopper(const Context& context, const Screen& s) {
  const int ring = ring_pieces(16 * s.hidden_tiles, s.L);
  launch(context, screen_hopper_kernel, static_cast<unsigned>(processors(context)), kScreenThreads, ring_bytes(ring), s,
         ring);
}

}  // namespace qinco::kernels::cuda
