// Weights that a block reads in a cycle, from L2 through a ring of stages in shared memory.
#pragma once

#include "kernels/cuda/mma.cuh"

namespace qinco::kernels::cuda {

/// Hands out slabs of kSlab x 16 bytes: source[0], source[1], .., source[period-1], source[0], .. All threads of the
/// block take the same slabs in the same order. A stage is kSlabs slabs; kStages - 1 of them are on their way while one
/// is in use. Taking a stage's first slab is a barrier: everything that the block wrote before is visible after it.
template <int kThreads, int kSlab, int kSlabs, int kStages>
class SlabStream {
 public:
  static constexpr int kBytes = kStages * kSlabs * kSlab * 16;

  /// ring: kBytes of shared memory, that nobody reads any more when all slabs are taken.
  __device__ SlabStream(uint4* ring, const uint4* source, int period, int total)
      : ring_(ring), source_(source), period_(period), left_(total) {
    for (int s = 0; s < kStages - 1; ++s) fetch(s);
  }

  /// The next slab; valid until the block takes the first one of the next stage.
  __device__ const uint4* take() {
    if (slab_ == kSlabs) slab_ = 0, stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    if (slab_ == 0) {
      wait_for_copies<kStages - 2>();
      __syncthreads();
      fetch(stage_ == 0 ? kStages - 1 : stage_ - 1);  // the stage before, which all have left
    }
    return ring_ + (stage_ * kSlabs + slab_++) * kSlab;
  }

 private:
  __device__ void fetch(int stage) {
#pragma unroll
    for (int s = 0; s < kSlabs; ++s) {
      if (left_ == 0) break;
      const uint4* const from = source_ + source_slab_ * kSlab + threadIdx.x;
      uint4* const to = ring_ + (stage * kSlabs + s) * kSlab + threadIdx.x;
#pragma unroll
      for (int i = 0; i < kSlab; i += kThreads)
        if (kSlab % kThreads == 0 || i + threadIdx.x < kSlab) copy_async(to + i, from + i);
      source_slab_ = source_slab_ + 1 == period_ ? 0 : source_slab_ + 1;
      --left_;
    }
    commit_copies();
  }

  uint4* ring_;
  const uint4* source_;
  int period_, source_slab_ = 0;
  int stage_ = 0, slab_ = 0;
  int left_;  // slabs that are not on their way yet
};

}  // namespace qinco::kernels::cuda
