// Operands of a kernel on a device, copied from the host's memory and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <doctest/doctest.h>
#include <vector>

#include "kernels/kernels.h"

namespace qinco::kernels::tests {

/// The operands of one call on a device, each copied to a block of its memory, between guard zones.
class Stage {
 public:
  explicit Stage(Device device) : device_(device) {}
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage() {
    for (const Operand& o : operands_) {
      std::vector<unsigned char> all(o.total);
      copy_bytes({}, all.data(), device_, o.block, o.total);
      const unsigned char *const begin = all.data(), *const data = begin + kGuard + o.shift;
      const auto is_guard = [](unsigned char byte) { return byte == kGuardByte; };
      CHECK_MESSAGE((std::all_of(begin, data, is_guard) && std::all_of(data + o.bytes, begin + o.total, is_guard)),
                    "a kernel wrote beyond an operand of " << o.bytes << " bytes on " << device_.name());
      if (o.writable)
        std::memcpy(o.host, data, o.bytes);
      else
        CHECK_MESSAGE(std::memcmp(o.host, data, o.bytes) == 0, "a kernel wrote to an operand that it may only read");
      release(device_, o.block, o.total);
    }
  }

  /// The device's copy of n elements; the same for the same host memory. Null for null.
  template <class T>
  T* both(T* host, int64_t n) {
    return static_cast<T*>(put(host, static_cast<size_t>(n) * sizeof(T), sizeof(T), true));
  }
  template <class T>
  const T* in(const T* host, int64_t n) {
    return static_cast<const T*>(put(const_cast<T*>(host), static_cast<size_t>(n) * sizeof(T), sizeof(T), false));
  }
  /// [rows,cols] with a leading dimension.
  template <class T>
  const T* matrix(const T* host, int64_t rows, int64_t cols, int64_t ld) {
    return in(host, extent(rows, cols, ld));
  }
  static int64_t extent(int64_t rows, int64_t cols, int64_t ld) { return rows == 0 ? 0 : (rows - 1) * ld + cols; }

  const Context& context() const { return Context::of(device_); }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr unsigned char kGuardByte = 0xfb;
  struct Operand {
    void* host;
    void* block;
    size_t bytes, shift, total;
    bool writable;
  };

  void* put(void* host, size_t bytes, size_t element, bool writable) {
    if (!host) return nullptr;
    for (Operand& o : operands_) {
      if (o.host != host || o.bytes < bytes) continue;
      o.writable = o.writable || writable;
      return static_cast<unsigned char*>(o.block) + kGuard + o.shift;
    }
    // Off the alignment that vector loads need, as a slice of a tensor may be; packs are aligned to 64 bytes.
    const size_t shift = reinterpret_cast<uintptr_t>(host) % 64 == 0 ? 0 : element;
    Operand o{host, nullptr, bytes, shift, bytes + shift + 2 * kGuard, writable};
    std::vector<unsigned char> all(o.total, kGuardByte);
    if (bytes > 0) std::memcpy(all.data() + kGuard + shift, host, bytes);
    o.block = allocate(device_, o.total);
    copy_bytes(device_, o.block, {}, all.data(), o.total);
    operands_.push_back(o);
    return static_cast<unsigned char*>(o.block) + kGuard + shift;
  }

  Device device_;
  std::deque<Operand> operands_;
};

}  // namespace qinco::kernels::tests
