// Memory of recorded work (recording.h): it stays what it was while it was recorded, whoever released it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

namespace qinco::kernels::cuda {

/// Blocks of one device with those who recorded work on them: mostly one, but a block of an earlier recording may be
/// released within a later one.
class RecordedBlocks {
 public:
  using Owner = const void*;

  /// A released block of the owner's; null if it has none of that size. For the owner while it records.
  void* take(Owner owner, size_t size) {
    const std::lock_guard lock(mutex_);
    for (auto& [memory, block] : blocks_)
      if (!block.in_use && block.size == size && block.is_of(owner)) {
        block.in_use = true;
        return memory;
      }
    return nullptr;
  }

  /// Whether the block is the owner's now, and that of those before; else the host has no memory for the list.
  bool add(Owner owner, void* memory, size_t size, bool in_use) noexcept {
    const std::lock_guard lock(mutex_);
    try {
      Block& block = blocks_[memory];
      block.size = size, block.in_use = in_use;
      if (!block.is_of(owner)) block.owners.push_back(owner);
    } catch (...) {
      const auto found = blocks_.find(memory);
      if (found != blocks_.end() && found->second.owners.empty()) blocks_.erase(found);
      return false;
    }
    return true;
  }

  /// Whether the block has owners, who now have it back.
  bool release(void* memory) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(memory);
    if (found == blocks_.end()) return false;
    found->second.in_use = false;
    return true;
  }

  /// Ends an owner: give_back(memory, size) of blocks that were its alone and are not in use; those in use are
  /// nobody's.
  template <class GiveBack>
  void disown(Owner owner, const GiveBack& give_back) noexcept {
    const std::lock_guard lock(mutex_);
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      auto& [memory, block] = *at;
      const bool last = std::erase(block.owners, owner) > 0 && block.owners.empty();
      if (last && !block.in_use) give_back(memory, block.size);
      at = last ? blocks_.erase(at) : std::next(at);
    }
  }

 private:
  struct Block {
    std::vector<Owner> owners;
    size_t size = 0;
    bool in_use = false;

    bool is_of(Owner owner) const { return std::find(owners.begin(), owners.end(), owner) != owners.end(); }
  };

  std::mutex mutex_;
  std::map<void*, Block> blocks_;
};

}  // namespace qinco::kernels::cuda
