// Page-locked memory of the host in parts, each with an event.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>

#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

/// Made for the thread's current device by the first `prepare`, and kept for good. Throws Error where memory lacks.
template <size_t parts, size_t part_bytes>
class PinnedParts {
 public:
  static constexpr size_t kParts = parts, kPartBytes = part_bytes;

  void prepare() {
    if (memory_) return;
    for (cudaEvent_t& event : events_)
      if (!event) check_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    void* memory = nullptr;
    check_status(cudaMallocHost(&memory, kParts * kPartBytes), "page-locked memory");
    memory_ = static_cast<unsigned char*>(memory);
  }

  // Once prepared: part i, counted on beyond kParts, which is part i - kParts again.
  unsigned char* memory(size_t i) const { return memory_ + i % kParts * kPartBytes; }
  cudaEvent_t event(size_t i) const { return events_[i % kParts]; }

 private:
  unsigned char* memory_ = nullptr;
  cudaEvent_t events_[kParts] = {};
};

}  // namespace qinco::kernels::cuda
