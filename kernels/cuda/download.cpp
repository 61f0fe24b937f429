#include "kernels/cuda/download.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/runtime.h"
#include "kernels/parallel.h"

namespace qinco::kernels::cuda {

void DownloadRing::copy(cudaStream_t stream, void* host, const void* source, size_t bytes) {
  constexpr int64_t kGrain = int64_t{1} << 18;
  constexpr size_t kParts = Parts::kParts, kPartBytes = Parts::kPartBytes;
  const std::lock_guard lock(mutex_);
  parts_.prepare();
  auto* const to = static_cast<unsigned char*>(host);
  const auto* const from = static_cast<const unsigned char*>(source);
  const size_t parts = (bytes + kPartBytes - 1) / kPartBytes;
  const auto size = [&](size_t part) { return std::min(kPartBytes, bytes - part * kPartBytes); };
  const auto fetch = [&](size_t part) {
    check_status(
        cudaMemcpyAsync(parts_.memory(part), from + part * kPartBytes, size(part), cudaMemcpyDeviceToHost, stream),
        "copy");
    check_status(cudaEventRecord(parts_.event(part), stream), "event");
  };
  for (size_t part = 0; part < std::min(kParts, parts); ++part) fetch(part);
  for (size_t part = 0; part < parts; ++part) {
    check_status(cudaEventSynchronize(parts_.event(part)), "copy");
    parallel_for(Context::cpu(), static_cast<int64_t>(size(part)), kGrain, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to + part * kPartBytes + begin, parts_.memory(part) + begin, static_cast<size_t>(end - begin));
    });
    if (part + kParts < parts) fetch(part + kParts);
  }
}

}  // namespace qinco::kernels::cuda
