// One code for the host's rows and the kernels of any device: on the CPU kernels work on the rows themselves, elsewhere
// on copies in scratch memory.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "kernels/device.h"
#include "kernels/parallel.h"

namespace qinco {

/// `count` values of the host as kernels of the context's device read them, for as long as the frame lasts.
template <class T>
const T* to_device(const kernels::Context& context, kernels::ScratchFrame& frame, const T* host, int64_t count) {
  if (context.device.type == DeviceType::cpu) return host;
  T* const copy = frame.get<T>(count);
  kernels::copy_bytes(context.device, copy, Device{}, host, static_cast<size_t>(count) * sizeof(T));
  return copy;
}

/// Where kernels write `count` values that are meant for `host`; to_host() brings them there. Not initialised.
template <class T>
T* result_of(const kernels::Context& context, kernels::ScratchFrame& frame, T* host, int64_t count) {
  return context.device.type == DeviceType::cpu ? host : frame.get<T>(count);
}

/// host = what kernels wrote to `result` of result_of(); waits for them.
template <class T>
void to_host(const kernels::Context& context, const T* result, T* host, int64_t count) {
  if (result != host)
    kernels::copy_bytes(Device{}, host, context.device, result, static_cast<size_t>(count) * sizeof(T));
}

/// The context of what the host does beside the work of `context`.
inline const kernels::Context& host_context(const kernels::Context& context) {
  return context.device.type == DeviceType::cpu ? context : kernels::Context::cpu();
}

/// Calls body(context, begin, end) for the rows [0,n): on the CPU for blocks of `grain` rows side by side, each with a
/// context of one thread; elsewhere, where kernels themselves are parallel, once for all rows.
template <class Body>
void for_rows(const kernels::Context& context, int64_t n, int64_t grain, Body&& body) {
  if (context.device.type != DeviceType::cpu) {
    if (n > 0) body(context, int64_t{0}, n);
    return;
  }
  kernels::parallel_for(context, n, grain, [&body](int64_t begin, int64_t end, int) {
    kernels::Context serial = kernels::Context::cpu();
    serial.threads = 1;
    body(serial, begin, end);
  });
}

}  // namespace qinco
