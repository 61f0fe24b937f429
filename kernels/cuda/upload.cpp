#include "kernels/cuda/upload.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cuda/runtime.h"

namespace qinco::kernels::cuda {

// Goes on to the next part, once the device has read what it held.
void UploadRing::next_part(cudaStream_t stream) {
  check_status(cudaEventRecord(parts_.event(part_), stream), "event");
  const size_t next = part_ + 1;
  if (next >= Parts::kParts) check_status(cudaEventSynchronize(parts_.event(next)), "device");
  part_ = next;
  at_ = 0;
}

void UploadRing::copy(cudaStream_t stream, void* destination, const void* host, size_t bytes) {
  const auto* from = static_cast<const unsigned char*>(host);
  copy_written(stream, destination, bytes, 1, [&from](void* to, size_t count) {
    std::memcpy(to, from, count);
    from += count;
  });
}

void UploadRing::copy_written(cudaStream_t stream, void* destination, size_t bytes, size_t unit,
                              const std::function<void(void*, size_t)>& write) {
  constexpr size_t kAlignment = 64;
  assert(0 < unit && unit <= Parts::kPartBytes && bytes % unit == 0);
  const std::lock_guard lock(mutex_);
  parts_.prepare();
  auto* to = static_cast<unsigned char*>(destination);
  while (bytes > 0) {
    const size_t room = (Parts::kPartBytes - at_) / unit * unit, count = std::min(bytes, room);
    if (count == 0) {
      next_part(stream);
      continue;
    }
    unsigned char* const place = parts_.memory(part_) + at_;
    write(place, count);
    check_status(cudaMemcpyAsync(to, place, count, cudaMemcpyHostToDevice, stream), "copy");
    at_ = std::min(Parts::kPartBytes, (at_ + count + kAlignment - 1) / kAlignment * kAlignment);
    to += count, bytes -= count;
  }
}

}  // namespace qinco::kernels::cuda
