// Copies from a device to memory of the host that is not page-locked.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>
#include <mutex>

#include "kernels/cuda/pinned_parts.h"

namespace qinco::kernels::cuda {

/// Page-locked memory in parts: while the device fills some of them, several threads empty the one before into the
/// caller's memory, which often is new, so that its pages are made on the way.
class DownloadRing {
 public:
  /// What is smaller is better copied by the driver at once.
  static constexpr size_t kLeastBytes = size_t{1} << 20;

  /// Waits for what was queued on the stream before, and for the copy. The stream and its device, which is the thread's
  /// current one, are the same in every call.
  void copy(cudaStream_t stream, void* host, const void* source, size_t bytes);

 private:
  using Parts = PinnedParts<4, size_t{4} << 20>;

  std::mutex mutex_;
  Parts parts_;  // events: what was asked for is there
};

}  // namespace qinco::kernels::cuda
