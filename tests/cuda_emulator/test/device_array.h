// An array on the emulated device, with the host's values and back.
#pragma once

#include <vector>

#include "kernels/device.h"

namespace cuda_emulator::tests {

inline const qinco::Device kDevice{qinco::DeviceType::cuda, 0};

template <class T>
struct Array {
  explicit Array(const std::vector<T>& values)
      : bytes(values.size() * sizeof(T)), data(static_cast<T*>(qinco::kernels::allocate(kDevice, bytes))) {
    qinco::kernels::copy_bytes(kDevice, data, {}, values.data(), bytes);
  }
  ~Array() { qinco::kernels::release(kDevice, data, bytes); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  std::vector<T> values() const {
    std::vector<T> out(bytes / sizeof(T));
    qinco::kernels::copy_bytes({}, out.data(), kDevice, data, bytes);
    return out;
  }
  size_t bytes;
  T* data;
};

}  // namespace cuda_emulator::tests
