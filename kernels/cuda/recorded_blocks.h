// Memory of recorded work (recording.h): it stays what it was while it was recorded, whoever released it.
#pragma once

#include <cstddef>
#include <iterator>
#include <map>
#include <mutex>

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

  /// Whether the block is the owner's now; else the host has no memory for the list.
  bool add(Owner owner, void* memory, size_t size, bool in_use) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      blocks_[memory] = {owner, size, in_use};
    } catch (...) {
      return false;
    }
    return true;
  }

  /// Whether the block has an owner, who now has it back.
  bool release(void* memory) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(memory);
    if (found == blocks_.end()) return false;
    found->second.in_use = false;
    return true;
  }

  /// Ends an owner: give_back(memory, size) of its blocks that are not in use, while the others are nobody's.
  template <class GiveBack>
  void disown(Owner owner, const GiveBack& give_back) noexcept {
    const std::lock_guard lock(mutex_);
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto [memory, block] = *at;
      if (block.owner == owner && !block.in_use) give_back(memory, block.size);
      at = block.owner == owner ? blocks_.erase(at) : std::next(at);
    }
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

}  // namespace qinco::kernels::cuda
