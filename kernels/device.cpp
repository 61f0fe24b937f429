#include "kernels/device.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <new>
#include <unistd.h>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/dispatch.h"

namespace qinco {

Device Device::parse(const std::string& text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceType::cuda, 0};
  Device device{DeviceType::cuda, 0};
  const char* const end = text.data() + text.size();
  const bool prefixed = text.rfind("cuda:", 0) == 0;
  const auto [stop, error] = prefixed ? std::from_chars(text.data() + 5, end, device.index)
                                      : std::from_chars_result{text.data(), std::errc::invalid_argument};
  check(error == std::errc() && stop == end && device.index >= 0, "device: expected cpu, cuda or cuda:i, found '{}'",
        text);
  return device;
}

std::string Device::name() const {
  return type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", index);
}

}  // namespace qinco

namespace qinco::kernels {

namespace {

constexpr auto kHostAlignment = std::align_val_t{64};

bool is_cpu(Device device) {
  return device.type == DeviceType::cpu;
}

}  // namespace

int device_count(DeviceType type) {
  return type == DeviceType::cpu ? 1 : cuda::device_count();
}

void check_device(Device device) {
  if (is_cpu(device)) return;
  check(cuda::built(), "device {}: this build has no CUDA", device);
  const int count = cuda::device_count();
  check(device.index < count, "device {}: this machine has {} CUDA device{}", device, count, count == 1 ? "" : "s");
}

std::string device_description(Device device) {
  check_device(device);
  return is_cpu(device) ? fmt::format("cpu, {}", isa_name(active_isa())) : cuda::description(device.index);
}

MemoryInfo memory_info(Device device) {
  check_device(device);
  if (!is_cpu(device)) return cuda::memory_info(device.index);
  const auto page = static_cast<size_t>(std::max(0L, sysconf(_SC_PAGESIZE)));
  return {page * static_cast<size_t>(std::max(0L, sysconf(_SC_AVPHYS_PAGES))),
          page * static_cast<size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES)))};
}

void* allocate(Device device, size_t bytes) {
  if (is_cpu(device)) return ::operator new(bytes, kHostAlignment);
  check_device(device);
  return cuda::allocate(device.index, bytes);
}

void release(Device device, void* memory, size_t bytes) noexcept {
  if (is_cpu(device)) return ::operator delete(memory, kHostAlignment);
  if (memory) cuda::release(device.index, memory, bytes);
}

void copy_bytes(Device to, void* destination, Device from, const void* source, size_t bytes) {
  if (bytes == 0) return;
  check_device(to);
  check_device(from);
  if (is_cpu(to) && is_cpu(from)) {
    std::memcpy(destination, source, bytes);
  } else if (is_cpu(from)) {
    cuda::copy_to(to.index, destination, source, bytes);
  } else if (is_cpu(to)) {
    cuda::copy_from(from.index, destination, source, bytes);
  } else {
    cuda::copy_between(to.index, destination, from.index, source, bytes);
  }
}

void synchronize(Device device) {
  check_device(device);
  if (!is_cpu(device)) cuda::synchronize(device.index);
}

}  // namespace qinco::kernels
