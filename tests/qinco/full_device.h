#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/device.h"

namespace qinco::testing {

/// Holds all of a device's memory, in pieces of `least` bytes or more.
class FullDevice {
 public:
  explicit FullDevice(Device device, size_t least = size_t{256} << 10) : device_(device) {
    for (size_t bytes = kernels::memory_info(device).free / 2; bytes >= least;) try {
        pieces_.emplace_back(kernels::allocate(device, bytes), bytes);
      } catch (const Error&) {
        bytes /= 2;
      }
  }
  ~FullDevice() {
    while (!pieces_.empty()) leave_one_piece();
  }
  FullDevice(const FullDevice&) = delete;
  FullDevice& operator=(const FullDevice&) = delete;

  void leave_one_piece() {
    kernels::release(device_, pieces_.back().first, pieces_.back().second);
    pieces_.pop_back();
  }

 private:
  Device device_;
  std::vector<std::pair<void*, size_t>> pieces_;
};

}  // namespace qinco::testing
