// What tests of several floors need.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <doctest/doctest.h>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <unistd.h>
#include <vector>

#include "kernels/check.h"
#include "kernels/device.h"
#include "tensor/random.h"
#include "tensor/tensor.h"
#include "tests/emulated.h"

namespace qinco::tests {

// Tensors to compare may be on any devices.

/// Same dtype, shape and bits.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined() || a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  const Tensor left = a.contiguous().to(Device{}), right = b.contiguous().to(Device{});
  return a.numel() == 0 ||
         std::memcmp(left.bytes(), right.bytes(), static_cast<size_t>(a.numel()) * size_of(a.dtype())) == 0;
}

/// The largest |a - b|, in units of max(1, largest |b|); NaN if any element of either is NaN; infinity if shapes
/// differ.
inline double worst_difference(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) return std::numeric_limits<double>::infinity();
  const Tensor left = a.to(DType::f64).contiguous().to(Device{}), right = b.to(DType::f64).contiguous().to(Device{});
  double worst = 0, scale = 1;
  for (int64_t i = 0; i < left.numel(); ++i) {
    const double x = left.data<double>()[i], y = right.data<double>()[i];
    if (!(std::abs(x - y) <= worst)) worst = std::abs(x - y);
    if (std::isnan(worst)) return worst;
    scale = std::max(scale, std::abs(y));
  }
  return worst / scale;
}

/// f32 [n,d] of standard normal values.
inline Tensor normal_vectors(int64_t n, int64_t d, uint64_t seed) {
  const Tensor x = Tensor::empty({n, d});
  Random(seed).normal(x);
  return x;
}

/// Values of any shape, away from 0, drawn evenly from [0.5,2).
inline Tensor positive_values(const Shape& shape, uint64_t seed, DType dtype = DType::f32) {
  const Tensor x = Tensor::empty(shape, dtype);
  Random(seed).uniform(x, 0.5, 2);
  return x;
}

/// The message of the Error that `action` throws; fails the test if it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK_MESSAGE(message.find('\n') == std::string::npos, "more than one line: " << message);
    return message;
  }
  FAIL_CHECK("expected an Error");
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// The devices besides the CPU; where there are none, says so, for CTest to report the test as skipped.
inline std::vector<Device> test_devices() {
  std::vector<Device> devices;
  for (int i = 0; i < kernels::device_count(DeviceType::cuda); ++i) devices.push_back({DeviceType::cuda, i});
  if (devices.empty()) MESSAGE("skipped: no CUDA device in this build or on this machine");
  return devices;
}

/// A new empty directory, removed with all it holds at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "qinco-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace qinco::tests
