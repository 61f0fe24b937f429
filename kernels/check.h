// Errors and checked arithmetic, for every floor.
//
// A user's mistake (bad file, wrong shape, unknown option) throws `Error` with a one-line message that names the
// thing, the expected and the found value. A broken invariant of ours is an `assert`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fmt/core.h>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/device.h"

namespace qinco {

/// A mistake of the user's or of their data; `what()` is one line, ready for stderr.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What a device has no memory for: how much was wanted and is free.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error with the formatted message unless `condition` holds (a NaN comparison is false, so it throws).
template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) fail(format, std::forward<Args>(args)...);
}

/// a * b for sizes (both >= 0); throws Error on overflow, naming `what`.
inline int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) fail("{}: size {} x {} overflows", what, a, b);
  return product;
}

/// a + b for sizes (both >= 0); throws Error on overflow, naming `what`.
inline int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t total = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &total)) fail("{}: size {} + {} overflows", what, a, b);
  return total;
}

}  // namespace qinco

/// As name(), made only where it is printed.
template <>
struct fmt::formatter<qinco::Device> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  auto format(const qinco::Device& device, fmt::format_context& context) const {
    const std::string text = device.name();
    return std::copy(text.begin(), text.end(), context.out());
  }
};
