// Recorded work as a CUDA graph, captured from a stream of its own, so that other threads may use the device's one
// meanwhile.
#include "kernels/cuda/recorder.h"

#include <cuda_runtime.h>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/recorded_blocks.h"
#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

struct Recorder::Graph {
  int index;
  cudaStream_t stream = nullptr;
  cudaGraphExec_t made = nullptr;

  cudaError_t stop(cudaGraph_t& noted) noexcept {
    recording_now() = {};
    return cudaStreamEndCapture(stream, &noted);
  }
  bool recording() const { return recording_now().owner == this; }
};

Recorder::Recorder(int index) : graph_(std::make_unique<Graph>(Graph{index})) {
  check(!recording_now().owner, "cuda: this thread records already");
  use_device(index);
  check_status(cudaStreamCreateWithFlags(&graph_->stream, cudaStreamNonBlocking), "stream");
  // Relaxed: memory may be allocated meanwhile.
  const cudaError_t status = cudaStreamBeginCapture(graph_->stream, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) cudaStreamDestroy(graph_->stream);
  check_status(status, "recording");
  recording_now() = {index, graph_->stream, graph_.get()};
}

Recorder::~Recorder() {
  // Failures here follow one that was reported, or the end of the process.
  if (cudaSetDevice(graph_->index) != cudaSuccess) return;
  if (graph_->recording()) {
    cudaGraph_t noted = nullptr;
    if (graph_->stop(noted) == cudaSuccess) cudaGraphDestroy(noted);
    cudaGetLastError();
  }
  if (graph_->made) {
    cudaStreamSynchronize(static_cast<cudaStream_t>(cuda::stream(graph_->index)));
    cudaGraphExecDestroy(graph_->made);
  }
  cudaStreamDestroy(graph_->stream);
  disown_recorded(graph_->index, graph_.get());
}

void* Recorder::stream() const {
  return graph_->stream;
}

void Recorder::end() {
  cudaGraph_t noted = nullptr;
  check_status(graph_->stop(noted), "recording");
  const cudaError_t status = cudaGraphInstantiate(&graph_->made, noted, 0);
  cudaGraphDestroy(noted);
  check_status(status, "recording");
}

void Recorder::queue() const {
  use_device(graph_->index);
  check_status(cudaGraphLaunch(graph_->made, static_cast<cudaStream_t>(cuda::stream(graph_->index))), "recorded work");
}

}  // namespace qinco::kernels::cuda
