#include "tests/cuda_emulator/memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/pinned.h"

namespace cuda_emulator {

namespace {

constexpr size_t kGuard = 256, kPage = 4096;
constexpr size_t kDeviceBytes = size_t{4} << 30, kLeastBytes = size_t{64} << 20;
constexpr unsigned char kGuardByte = 0xfb;  // no NaN of two guard bytes, and no small number
constexpr int kPoison = 0xff;

// How much of a block is poisoned. Of the largest next to nothing: tests may take all of the device, and opening and
// closing it takes time for every page that was written.
size_t poisoned(size_t bytes) {
  return bytes > (size_t{64} << 20) ? size_t{1} << 20 : bytes;
}

size_t round_up(size_t bytes, size_t step) {
  return (bytes + step - 1) / step * step;
}

}  // namespace

Memory& Memory::instance() {
  static Memory* const memory = new Memory;  // never destroyed: static objects may hold device memory
  return *memory;
}

Memory::Memory() {
  // A process whose address space is limited gets a smaller device.
  for (size_ = kDeviceBytes; size_ >= kLeastBytes; size_ /= 2) {
    void* const memory = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) continue;
    base_ = static_cast<unsigned char*>(memory);
    key_ = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (key_ >= 0 && pkey_mprotect(base_, size_, PROT_READ | PROT_WRITE, key_) != 0) key_ = -1;
    return;
  }
  std::fputs("cuda emulator: no address space for the device's memory\n", stderr);
  std::abort();
}

void Memory::open() {
  mutex_.lock();
  if (opened_++ > 0) return;
  if (key_ >= 0)
    pkey_set(key_, 0);
  else
    protect(0, touched_, PROT_READ | PROT_WRITE);
}

void Memory::close() {
  if (--opened_ == 0) {
    if (key_ >= 0)
      pkey_set(key_, PKEY_DISABLE_ACCESS);
    else
      protect(0, touched_, PROT_NONE);
  }
  mutex_.unlock();
}

void Memory::protect(size_t begin, size_t end, int rights) {
  if (key_ < 0 && begin < end) mprotect(base_ + begin, end - begin, rights);
}

void* Memory::allocate(size_t bytes) {
  const DeviceWork work;
  if (bytes > size_) return nullptr;
  const size_t span = round_up(bytes, kGuard) + 2 * kGuard;
  size_t offset = 0;  // the first gap that is large enough
  for (const auto& [begin, block] : blocks_) {
    if (begin - offset >= span) break;
    offset = begin + block.span;
  }
  if (offset + span > size_) return nullptr;
  if (offset + span > touched_) {
    touched_ = round_up(offset + span, kPage);
    protect(0, touched_, PROT_READ | PROT_WRITE);
  }
  blocks_[offset] = {bytes, span};
  used_ += span;
  std::memset(base_ + offset, kGuardByte, kGuard);
  std::memset(base_ + offset + kGuard, kPoison, poisoned(bytes));
  std::memset(base_ + offset + kGuard + bytes, kGuardByte, span - kGuard - bytes);
  return base_ + offset + kGuard;
}

std::string Memory::release(void* memory) {
  const DeviceWork work;
  const auto found = owns(memory) ? blocks_.find(static_cast<unsigned char*>(memory) - base_ - kGuard) : blocks_.end();
  if (found == blocks_.end()) return "free of what was not allocated, or of what was freed before";
  const auto [offset, block] = *found;
  const std::string broken = check_guards(offset, block, kGuard);
  std::memset(base_ + offset, kPoison, poisoned(block.span));
  used_ -= block.span;
  blocks_.erase(found);
  give_back();
  return broken;
}

// What lies beyond the last block goes back to the system: opening and closing the memory takes time for every page.
void Memory::give_back() {
  constexpr size_t kKept = size_t{4} << 20;
  const size_t end = blocks_.empty() ? 0 : std::prev(blocks_.end())->first + std::prev(blocks_.end())->second.span;
  const size_t kept = round_up(end, kPage) + kKept;
  if (kept >= touched_) return;
  madvise(base_ + kept, touched_ - kept, MADV_DONTNEED);
  protect(kept, touched_, PROT_NONE);
  touched_ = kept;
}

bool Memory::owns(const void* memory) const {
  return memory >= base_ && memory < base_ + size_;
}

bool Memory::holds(const void* memory, size_t bytes) const {
  if (!owns(memory)) return false;
  const size_t at = static_cast<const unsigned char*>(memory) - base_;
  auto next = blocks_.upper_bound(at);
  if (next == blocks_.begin()) return false;
  const auto& [offset, block] = *--next;
  const size_t begin = offset + kGuard;
  return at >= begin && bytes <= block.bytes && at - begin <= block.bytes - bytes;
}

std::string Memory::check_guards(size_t offset, const Block& block, size_t width) const {
  const unsigned char* const data = base_ + offset + kGuard;
  for (size_t i = 1; i <= width; ++i)
    if (data[-static_cast<ptrdiff_t>(i)] != kGuardByte)
      return fmt::format("write {} bytes before a block of {} bytes", i, block.bytes);
  const unsigned char* const end = data + block.bytes;
  for (size_t i = 0; i < width; ++i)
    if (end[i] != kGuardByte) return fmt::format("write {} bytes beyond a block of {} bytes", i, block.bytes);
  return "";
}

std::string Memory::broken_guard() const {
  constexpr size_t kNear = 64;  // after every launch the nearest bytes are enough
  for (const auto& [offset, block] : blocks_) {
    std::string broken = check_guards(offset, block, kNear);
    if (!broken.empty()) return broken;
  }
  return "";
}

DeviceWork::DeviceWork() {
  Memory::instance().open();
  arrive();
}
DeviceWork::~DeviceWork() {
  Memory::instance().close();
}

}  // namespace cuda_emulator
