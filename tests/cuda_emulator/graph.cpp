// Streams, and the graphs that are captured from them: lists of what was asked for, with the arguments of then.
#include <memory>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/status.h"

using Work = std::vector<std::function<cudaError_t()>>;

struct CUgraph_st {
  Work work;
};
struct CUstream_st {
  std::unique_ptr<CUgraph_st> captured;  // while it is being captured
  bool invalid = false;                  // something was asked for that cannot be captured
};
struct CUgraphExec_st {
  Work work;
};

namespace cuda_emulator {

cudaError_t do_on(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (!stream || !stream->captured) return work();
  stream->captured->work.push_back(std::move(work));
  return cudaSuccess;
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

namespace {

cudaError_t invalidate(CUstream_st& stream) {
  stream.invalid = true;
  return set_error(cudaErrorStreamCaptureUnsupported, "the stream is being captured");
}

}  // namespace

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream && stream->captured) return invalidate(*stream);
  const DeviceWork work;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->captured) return set_error(cudaErrorStreamCaptureUnsupported, "the stream is being captured");
  stream->captured = std::make_unique<CUgraph_st>();
  stream->invalid = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->captured) return set_error(cudaErrorInvalidValue, "the stream is not being captured");
  *graph = stream->invalid ? nullptr : stream->captured.release();
  stream->captured.reset();
  if (*graph) return cudaSuccess;
  return set_error(cudaErrorStreamCaptureInvalidated, "something in the captured stream cannot be captured");
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
  if (stream && stream->captured) return invalidate(*stream);
  for (const auto& work : made->work)
    if (const cudaError_t status = work(); status != cudaSuccess) return status;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) {
  delete made;
  return cudaSuccess;
}
