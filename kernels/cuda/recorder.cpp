// Recorded work as a CUDA graph, captured from a stream of its own, so that other threads may use the device's one
// meanwhile.
#include "kernels/cuda/recorder.h"

#include <cuda_runtime.h>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

struct Recorder::Capture {
  int index;
  cudaStream_t queue;  // the device's
  cudaStream_t stream = nullptr;
  cudaGraphExec_t exec = nullptr;

  // Ends the thread's recording if it is this one; whether it was.
  bool leave() noexcept {
    const bool recording = recording_now().owner == this;
    if (recording) recording_now() = {};
    return recording;
  }
};

Recorder::Recorder(int index)
    : capture_(std::make_unique<Capture>(Capture{index, static_cast<cudaStream_t>(cuda::stream(index))})) {
  check(!recording_now().owner, "cuda: this thread records already");
  use_device(index);
  check_status(cudaStreamCreateWithFlags(&capture_->stream, cudaStreamNonBlocking), "stream");
  // Relaxed: memory may be allocated meanwhile.
  const cudaError_t status = cudaStreamBeginCapture(capture_->stream, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) cudaStreamDestroy(capture_->stream);
  check_status(status, "recording");
  recording_now() = {index, capture_->stream, capture_.get()};
}

Recorder::~Recorder() {
  // Failures here follow one that was reported, or the end of the process.
  const bool recording = capture_->leave();
  if (cudaSetDevice(capture_->index) == cudaSuccess) {
    cudaGraph_t graph = nullptr;
    if (recording && cudaStreamEndCapture(capture_->stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    if (capture_->exec) {
      cudaStreamSynchronize(capture_->queue);
      cudaGraphExecDestroy(capture_->exec);
    }
    cudaStreamDestroy(capture_->stream);
  }
  cudaGetLastError();
  release_recorded(capture_->index, capture_.get());
}

void* Recorder::stream() const {
  return capture_->stream;
}

void Recorder::end() {
  cudaGraph_t graph = nullptr;
  capture_->leave();
  check_status(cudaStreamEndCapture(capture_->stream, &graph), "recording");
  struct Captured {
    cudaGraph_t graph;
    ~Captured() { cudaGraphDestroy(graph); }
  } const captured{graph};
  check_call(capture_->index, "recording", [&] { return cudaGraphInstantiate(&capture_->exec, graph, 0); });
}

void Recorder::queue() {
  use_device(capture_->index);
  check_call(capture_->index, "recorded work", [&] { return cudaGraphLaunch(capture_->exec, capture_->queue); });
}

}  // namespace qinco::kernels::cuda
