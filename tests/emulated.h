// Whether a device is the emulator's, which rounds wherever `fast` allows it: a real one may, and need not.
#pragma once

#include <string>

#include "kernels/device.h"

namespace qinco {

inline bool emulated(Device device) {
  return kernels::device_description(device).find("emulated") != std::string::npos;
}

}  // namespace qinco
