// The CUDA runtime for host code: errors, the current device, the stream of a context.
#pragma once

#include <cuda_runtime.h>

#include "kernels/context.h"

namespace qinco::kernels::cuda {

/// Throws Error "cuda: WHAT: the runtime's words" unless `status` is success; OutOfMemory where that is the reason.
void check_status(cudaError_t status, const char* what);

/// Gives memory that is kept for later back to the driver, for what does not come from `allocate`.
void give_back_kept(int index);

/// check_status of call(), which is called once more where device `index` lacks memory for it: kernels are loaded when
/// they are first used, and graphs need memory of their own.
template <class Call>
void check_call(int index, const char* what, const Call& call) {
  cudaError_t status = call();
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    give_back_kept(index);
    status = call();
  }
  check_status(status, what);
}

/// Makes `index` this thread's current device.
void use_device(int index);

/// Lets launches of a kernel on the current device, `device`, ask for so much shared memory: for all threads, and never
/// less again.
void allow_shared_memory(const void* kernel, int device, size_t bytes);

/// What a thread records (recorder.h): the device, the stream that is captured, and whose memory it takes; else no
/// owner.
struct RecordingNow {
  int index = 0;
  cudaStream_t stream = nullptr;
  const void* owner = nullptr;
};
inline RecordingNow& recording_now() {
  thread_local RecordingNow now;
  return now;
}
inline bool is_recording(int index) {
  return recording_now().owner && recording_now().index == index;
}

/// Ends an owner of recorded memory on device `index`: what it has back is released, the rest is as if never recorded.
void release_recorded(int index, const void* owner) noexcept;

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.stream);
}

}  // namespace qinco::kernels::cuda
