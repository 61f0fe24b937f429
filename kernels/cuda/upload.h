// Copies to a device that the host does not wait for.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>
#include <functional>
#include <mutex>

#include "kernels/cuda/pinned_parts.h"

namespace qinco::kernels::cuda {

/// Queues a copy to device memory of what `write` makes in page-locked memory: called with the place of the next bytes,
/// in order, as often as it takes, each time for a multiple of `unit` of them. `bytes` is one, too, and `unit` a MiB at
/// most.
void copy_written(int index, void* destination, size_t bytes, size_t unit,
                  const std::function<void(void*, size_t)>& write);

/// A ring of page-locked memory through which one device's stream is fed: what is copied is first put there, so that
/// the host may change its own copy at once, while the device may still be busy with what was queued before. Copies
/// larger than a part go part by part, one being filled while others are on their way.
class UploadRing {
 public:
  /// The stream and its device, which is the thread's current one, are the same in every call.
  void copy(cudaStream_t stream, void* destination, const void* host, size_t bytes);
  /// The same for what `write` makes, as above.
  void copy_written(cudaStream_t stream, void* destination, size_t bytes, size_t unit,
                    const std::function<void(void*, size_t)>& write);

 private:
  using Parts = PinnedParts<16, size_t{1} << 20>;

  void next_part(cudaStream_t stream);

  std::mutex mutex_;
  Parts parts_;      // events: the device has read what a part held
  size_t part_ = 0;  // counted on
  size_t at_ = 0;    // where the free rest of the part begins
};

}  // namespace qinco::kernels::cuda
