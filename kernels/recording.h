// Work on a CUDA device that is recorded once and queued as often as wanted (a CUDA graph): one call of the host's for
// hundreds of kernels.
#pragma once

#include <functional>
#include <memory>

#include "kernels/context.h"

namespace qinco::kernels {

namespace cuda {
class Recorder;
}

class Recording {
 public:
  /// Whether what is repeated on `device` should be recorded: on CUDA, unless QINCO_CUDA_GRAPHS is 0.
  static bool wanted(Device device);

  /// Calls `work` once. Its kernels on `device` (CUDA) and its copies within it are noted, not done: every queue() does
  /// them on the memory that they were given here. What this thread allocates or releases meanwhile is not used for
  /// anything else as long as the recording lives; the caller keeps whatever else the work needs. `work` finds its
  /// context by Context::of, and ran before, so that what kernels need once is there. Throws what `work` throws, and
  /// Error where it waits for the device or copies from or to the host.
  Recording(Device device, const std::function<void()>& work);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  /// Queues the work behind what is queued on the device. For one thread at a time, whichever it is.
  void queue();

 private:
  std::unique_ptr<cuda::Recorder> recorder_;  // outlives the scratch memory, which it owns
  Scratch scratch_;
};

}  // namespace qinco::kernels
