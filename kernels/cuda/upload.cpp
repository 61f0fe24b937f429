#include "kernels/cuda/upload.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

void UploadRing::prepare() {
  for (cudaEvent_t& event : left_)
    if (!event) check_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  void* memory = nullptr;
  check_status(cudaMallocHost(&memory, kParts * kPartBytes), "page-locked memory");
  memory_ = static_cast<unsigned char*>(memory);
}

// Goes on to the next part, once the device has read what it held.
void UploadRing::next_part(cudaStream_t stream) {
  check_status(cudaEventRecord(left_[part_], stream), "event");
  used_[part_] = true;
  part_ = (part_ + 1) % kParts;
  at_ = 0;
  if (used_[part_]) check_status(cudaEventSynchronize(left_[part_]), "device");
}

void UploadRing::copy(cudaStream_t stream, void* destination, const void* host, size_t bytes) {
  constexpr size_t kAlignment = 64;
  const std::lock_guard lock(mutex_);
  if (!memory_) prepare();
  auto* to = static_cast<unsigned char*>(destination);
  const auto* from = static_cast<const unsigned char*>(host);
  while (bytes > 0) {
    if (at_ == kPartBytes) next_part(stream);
    const size_t count = std::min(bytes, kPartBytes - at_);
    unsigned char* const place = memory_ + static_cast<size_t>(part_) * kPartBytes + at_;
    std::memcpy(place, from, count);
    check_status(cudaMemcpyAsync(to, place, count, cudaMemcpyHostToDevice, stream), "copy");
    at_ = std::min(kPartBytes, (at_ + count + kAlignment - 1) / kAlignment * kAlignment);
    to += count, from += count, bytes -= count;
  }
}

}  // namespace qinco::kernels::cuda
