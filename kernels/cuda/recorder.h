// CUDA's half of kernels/recording.h: in recorder.cpp, or in no_cuda.cpp where the build has no CUDA.
#pragma once

#include <memory>

namespace qinco::kernels::cuda {

/// A CUDA graph in the making, then made.
class Recorder {
 public:
  /// From here to end(), what this thread queues on stream() of the device, or has copied there, is noted, and the
  /// memory that it takes and releases is the recorder's own. Throws Error where this thread records already.
  explicit Recorder(int index);
  /// Without end(): forgets what was noted. Waits for the device.
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void* stream() const;
  /// Throws Error where something cannot be recorded.
  void end();
  /// Queues what was noted on the device's stream.
  void queue();

 private:
  struct Capture;
  std::unique_ptr<Capture> capture_;
};

}  // namespace qinco::kernels::cuda
