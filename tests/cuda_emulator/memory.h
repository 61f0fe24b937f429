// The emulated device's memory: an arena that nobody may touch except in launches, copies and library calls, so that a
// host that reads through a device pointer crashes at once. Guard bytes lie around every block.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

namespace cuda_emulator {

class Memory {
 public:
  static Memory& instance();

  /// Null if the device has not that much left. New memory is full of 0xff, NaN to whoever reads it; of
  /// more than 64 MiB the first one.
  void* allocate(size_t bytes);
  /// Says what is wrong, or nothing.
  std::string release(void* memory);
  /// Whether [memory, memory + bytes) lies in one block.
  bool holds(const void* memory, size_t bytes) const;
  /// Whether the address is the device's at all.
  bool owns(const void* memory) const;
  /// Names a block whose guard bytes were written, or is empty.
  std::string broken_guard() const;
  size_t free_bytes() const { return size_ - used_; }
  size_t total_bytes() const { return size_; }

  /// Locks the device and opens its memory to the host; pairs nest.
  void open();
  void close();

 private:
  Memory();
  struct Block {
    size_t bytes;  // asked for
    size_t span;   // with the guards
  };
  void give_back();
  void protect(size_t begin, size_t end, int rights);
  std::string check_guards(size_t offset, const Block& block, size_t width) const;

  std::recursive_mutex mutex_;
  int opened_ = 0;
  // A processor's protection key opens and closes all of the memory by a register of the thread. Where there is none
  // (-1), a system call for every page does, which takes most of the time of small kernels.
  int key_ = -1;
  unsigned char* base_ = nullptr;
  size_t size_ = 0, used_ = 0, touched_ = 0;  // touched_: bytes from base_ that were ever part of a block
  std::map<size_t, Block> blocks_;            // by the offset of the front guard
};

}  // namespace cuda_emulator
