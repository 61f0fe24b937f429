// Helpers for subcommands that stream files block by block.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "apps/qinco/command.h"
#include "apps/qinco/signals.h"
#include "kernels/kernels.h"
#include "qinco/io/vectors.h"

namespace qinco::app {

/// Seconds since it was made, or since the last restart().
class Stopwatch {
 public:
  void restart() { start_ = Clock::now(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Rows of d floats per block: `most`, on a GPU more to keep it busy, or fewer so that a block stays within 64 MB.
inline int64_t block_rows(int64_t d, int64_t most, Device device) {
  constexpr int64_t kDeviceRows = 32768;
  if (device.type != DeviceType::cpu) most = kDeviceRows;
  return std::clamp<int64_t>((int64_t{1} << 24) / d, 1, most);
}

/// Rows whose squared errors are summed together, so that the sum does not depend on the blocks they come in.
inline constexpr int64_t kErrorRows = 16;

/// Rows of d floats to encode together at `flops` each, a multiple of kErrorRows: what takes the threads a few seconds,
/// which is how long progress waits. Ctrl-C waits for less: Codec::set_poll.
inline int64_t encode_rows_together(int64_t d, double flops, Device device) {
  constexpr double kThreadFlops = 5e11;
  constexpr int64_t kMost = 4096;  // keep any CPU busy
  const double rows = kThreadFlops * kernels::default_threads() / std::max(flops, 1.0);
  const bool few = device.type == DeviceType::cpu && rows < static_cast<double>(kMost);
  return std::max(block_rows(d, few ? static_cast<int64_t>(rows) : kMost, device) / kErrorRows, int64_t{1}) *
         kErrorRows;
}

/// total += the squared errors of xhat [n,d] for x, for blocks of encode_rows_together one after the other: the same
/// bits whatever their size.
inline void add_squared_error(int64_t n, int64_t d, const float* x, const float* xhat, double& total) {
  for (int64_t i = 0; i < n; i += kErrorRows)
    total += kernels::table<float>().sum_squared_difference(kernels::Context::cpu(), std::min(kErrorRows, n - i) * d,
                                                            x + i * d, xhat + i * d);
}

/// Vectors x [n,d] that `model` decoded from row `first` on; throws Error naming the row where one holds what no file
/// of vectors may, as parameters near the largest floats give.
inline void check_decoded(const std::string& model, int64_t first, int64_t n, int64_t d, const float* x) {
  bool fits = true;
  for (int64_t i = 0; i < n * d; ++i) fits &= std::abs(x[i]) <= kLargestValue;
  for (int64_t i = 0; !fits && i < n * d; ++i)
    check(std::abs(x[i]) <= kLargestValue, "{}: decodes row {} to {}, expected finite values of at most 1e15", model,
          first + i / d, x[i]);
}

inline double per_second(int64_t n, double seconds) {
  return seconds > 0 ? static_cast<double>(n) / seconds : 0;
}

/// The --M_used of a model with M codes, M if not given; throws Error unless it is 1 to M.
inline int64_t checked_M_used(std::optional<int64_t> M_used, int64_t M, const std::string& model) {
  const int64_t used = M_used.value_or(M);
  check(1 <= used && used <= M, "--M_used {}: expected 1 to {}, the codes of {}", used, M, model);
  return used;
}

/// The --nt of a file of training vectors, all of them if not given; throws Error unless it is 1 to their number.
inline int64_t checked_nt(std::optional<int64_t> nt, const VectorFile& file) {
  const int64_t used = nt.value_or(file.size());
  check(1 <= used && used <= file.size(), "{}: {} training vectors asked for (--nt), the file has {}", file.path(),
        used, file.size());
  return used;
}

/// Ends work whose output is nothing unless it is whole, once a signal has arrived.
inline void stop_if_asked(const StopSignals& signals) {
  if (signals.requested()) throw Stopped(signals.received(), "stopped by a signal; no output was written");
}

}  // namespace qinco::app
