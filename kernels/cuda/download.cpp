#include "kernels/cuda/download.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/runtime.h"
#include "kernels/parallel.h"

namespace qinco::kernels::cuda {

void DownloadRing::prepare() {
  for (cudaEvent_t& event : arrived_)
    if (!event) check_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  void* memory = nullptr;
  check_status(cudaMallocHost(&memory, kParts * kPartBytes), "page-locked memory");
  memory_ = static_cast<unsigned char*>(memory);
}

void DownloadRing::copy(cudaStream_t stream, void* host, const void* source, size_t bytes) {
  constexpr int64_t kGrain = int64_t{1} << 18;
  const std::lock_guard lock(mutex_);
  if (!memory_) prepare();
  auto* const to = static_cast<unsigned char*>(host);
  const auto* const from = static_cast<const unsigned char*>(source);
  const size_t parts = (bytes + kPartBytes - 1) / kPartBytes;
  const auto size = [&](size_t part) { return std::min(kPartBytes, bytes - part * kPartBytes); };
  const auto place = [&](size_t part) { return memory_ + part % kParts * kPartBytes; };
  const auto fetch = [&](size_t part) {
    check_status(cudaMemcpyAsync(place(part), from + part * kPartBytes, size(part), cudaMemcpyDeviceToHost, stream),
                 "copy");
    check_status(cudaEventRecord(arrived_[part % kParts], stream), "event");
  };
  for (size_t part = 0; part < std::min<size_t>(kParts, parts); ++part) fetch(part);
  for (size_t part = 0; part < parts; ++part) {
    check_status(cudaEventSynchronize(arrived_[part % kParts]), "copy");
    parallel_for(Context::cpu(), static_cast<int64_t>(size(part)), kGrain, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to + part * kPartBytes + begin, place(part) + begin, static_cast<size_t>(end - begin));
    });
    if (part + kParts < parts) fetch(part + kParts);
  }
}

}  // namespace qinco::kernels::cuda
