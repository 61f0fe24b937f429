// Copies to a device that the host does not wait for.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>
#include <mutex>

namespace qinco::kernels::cuda {

/// A ring of page-locked memory through which one device's stream is fed: what is copied is first put there, so that
/// the host may change its own copy at once, while the device may still be busy with what was queued before. Copies
/// larger than a part go part by part, one being filled while others are on their way.
class UploadRing {
 public:
  /// The stream and its device, which is the thread's current one, are the same in every call.
  void copy(cudaStream_t stream, void* destination, const void* host, size_t bytes);

 private:
  static constexpr int kParts = 16;
  static constexpr size_t kPartBytes = size_t{1} << 20;

  void prepare();
  void next_part(cudaStream_t stream);

  std::mutex mutex_;
  unsigned char* memory_ = nullptr;
  cudaEvent_t left_[kParts] = {};  // when the device has read what a part held
  bool used_[kParts] = {};         // whether that was ever recorded
  int part_ = 0;
  size_t at_ = 0;  // where the free rest of the part begins
};

}  // namespace qinco::kernels::cuda
