#include "tests/cuda_emulator/pinned.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/status.h"

struct CUevent_st {
  uint64_t copies = 0;  // that were queued before it was recorded
};

namespace cuda_emulator {

namespace {

constexpr int kNotArrived = 0xfb;

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct State {
  std::map<const unsigned char*, size_t> blocks;
  std::deque<Copy> queued;
  uint64_t arrived = 0;  // copies in all
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

void arrive_until(uint64_t count) {
  State& s = state();
  for (; s.arrived < count && !s.queued.empty(); ++s.arrived) {
    const Copy& copy = s.queued.front();
    std::memcpy(copy.to, copy.from, copy.bytes);
    s.queued.pop_front();
  }
}

// Holds the device, without what is queued arriving.
struct Held {
  Held() { Memory::instance().open(); }
  ~Held() { Memory::instance().close(); }
};

}  // namespace

bool is_pinned(const void* memory) {
  const auto* const at = static_cast<const unsigned char*>(memory);
  auto next = state().blocks.upper_bound(at);
  return next != state().blocks.begin() && at < std::prev(next)->first + std::prev(next)->second;
}

void copy_later(void* to, const void* from, size_t bytes) {
  state().queued.push_back({to, from, bytes});
}

void await_copy(void* to, size_t bytes) {
  const auto* const begin = static_cast<const unsigned char*>(to);
  for (const Copy& copy : state().queued) {
    const auto* const from = static_cast<const unsigned char*>(copy.from);
    if (from >= begin + bytes || begin >= from + copy.bytes) continue;
    arrive();
    break;
  }
  std::memset(to, kNotArrived, bytes);
}

void arrive() {
  arrive_until(UINT64_MAX);
}

}  // namespace cuda_emulator

using namespace cuda_emulator;

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const Held held;
  *memory = std::malloc(bytes);
  if (!*memory) return set_error(cudaErrorMemoryAllocation, "out of memory of the host");
  state().blocks[static_cast<unsigned char*>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  const Held held;
  event->copies = state().arrived + state().queued.size();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Held held;
  arrive_until(event->copies);
  return cudaSuccess;
}
