// Memory of recorded work (recording.h): it stays what it was while it was recorded, whoever released it.
#pragma once

#include <cstddef>
#include <cuda_runtime.h>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace qinco::kernels::cuda {

/// Blocks of one device, each of one owner.
class RecordedBlocks {
 public:
  using Owner = const void*;

  /// A released block of the owner's; null if it has none of that size. For the owner while it records.
  void* take(Owner owner, size_t size) {
    const std::lock_guard lock(mutex_);
    for (auto& [memory, block] : blocks_)
      if (block.owner == owner && block.size == size && !block.in_use) {
        block.in_use = true;
        return memory;
      }
    return nullptr;
  }

  void add(Owner owner, void* memory, size_t size, bool in_use) {
    const std::lock_guard lock(mutex_);
    blocks_[memory] = {owner, size, in_use};
  }

  /// Whether the block has an owner, who now has it back.
  bool release(void* memory) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(memory);
    if (found == blocks_.end()) return false;
    found->second.in_use = false;
    return true;
  }

  /// The owner's blocks that are not in use, with their sizes. None has an owner any more.
  std::vector<std::pair<void*, size_t>> disown(Owner owner) {
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<void*, size_t>> unused;
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto [memory, block] = *at;
      if (block.owner == owner && !block.in_use) unused.emplace_back(memory, block.size);
      at = block.owner == owner ? blocks_.erase(at) : std::next(at);
    }
    return unused;
  }

 private:
  struct Block {
    Owner owner;
    size_t size;
    bool in_use;
  };

  std::mutex mutex_;
  std::map<void*, Block> blocks_;
};

/// What a thread records: the device, the stream that notes what is queued, and whose memory it takes; else no owner.
struct RecordingNow {
  int index = 0;
  cudaStream_t stream = nullptr;
  RecordedBlocks::Owner owner = nullptr;
};
inline RecordingNow& recording_now() {
  thread_local RecordingNow now;
  return now;
}
inline bool is_recording(int index) {
  return recording_now().owner && recording_now().index == index;
}

/// Releases the owner's blocks that are not in use on device `index`; the others are as if never recorded.
void disown_recorded(int index, RecordedBlocks::Owner owner) noexcept;

}  // namespace qinco::kernels::cuda
