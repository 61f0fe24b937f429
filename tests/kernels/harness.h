// How kernels are tested.
//
// To test a kernel: write its cases in a file here, and put `QINCO_COVERS(kernel);` at file scope of that file, inside
// an anonymous namespace. coverage_test.cpp fails while a kernel of QINCO_KERNELS has no such line.
//
// The rules of a case:
//  - every version that the machine has, each ISA's and CUDA's, is compared with the reference (for_each_version), on
//  tail sizes (kTailSizes);
//  - inputs and outputs are Buffers: at an unaligned offset, between guard zones. Outputs and guards hold poison (NaN),
//    so an element that is not written, a write outside, and a read outside that matters are all seen; under
//    AddressSanitizer, any read outside a Buffer;
//  - operations that only move, choose or add small integers must be equal bit for bit;
//  - others meet a bound stated with its reason, built from kEpsilon and the sizes of the terms (check_close). NaN
//    passes only where NaN is expected;
//  - results are the same bits with 1, 2 and 3 threads (check_any_thread_count); on CUDA: in three runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/sanitizer.h"
#include "tests/emulated.h"
#include "tests/kernels/staged.h"

namespace qinco::kernels::tests {

/// The names of the kernels that have test cases, filled while the program loads.
inline std::set<std::string>& covered() {
  static std::set<std::string> names;
  return names;
}

/// Says that the file it stands in tests `kernel` (a member of Table).
#define QINCO_COVERS(kernel)                                                                                 \
  [[maybe_unused]] const bool covers_##kernel = (static_cast<void>(&::qinco::kernels::Table<float>::kernel), \
                                                 ::qinco::kernels::tests::covered().insert(#kernel).second)

/// Around the vector lengths 8 and 16, their multiples, and one of several cache lines.
inline constexpr int64_t kTailSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129};

/// Half the distance from 1 to the next float: the largest relative error of one rounding.
inline constexpr double kEpsilon = 0x1p-24;
inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// What outputs and guards hold before a kernel runs.
template <class T>
T poison() {
  if constexpr (std::is_floating_point_v<T>) return std::numeric_limits<T>::quiet_NaN();
  return static_cast<T>(0x5a5a5a5a);
}

/// n elements of poison between two guard zones, `offset` elements off a 64-byte boundary.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n, int64_t offset = 1)
      : store_(static_cast<size_t>(n + 3 * kGuard), poison<T>()), n_(n), begin_(kGuard) {
    while (reinterpret_cast<uintptr_t>(store_.data() + begin_) % 64 != 0) ++begin_;
    begin_ += offset;
    while (kAddressSanitizer && begin_ * sizeof(T) % 8 != 0) ++begin_;  // it watches by 8 bytes
    watch(forbid_access);
  }
  ~Buffer() { watch(allow_access); }
  Buffer(const std::vector<T>& values, int64_t offset = 1) : Buffer(static_cast<int64_t>(values.size()), offset) {
    std::copy(values.begin(), values.end(), store_.begin() + begin_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return store_.data() + begin_; }
  int64_t size() const { return n_; }
  std::vector<T> values() const { return {store_.begin() + begin_, store_.begin() + begin_ + n_}; }

  /// True if nothing outside the n elements was written.
  bool guards_hold() const {
    const T expected = poison<T>();
    bool hold = true;
    watch(allow_access);
    for (int64_t i = 0; i < static_cast<int64_t>(store_.size()); ++i) {
      const bool inside = i >= begin_ && i < begin_ + n_;
      if (!inside && std::memcmp(&store_[static_cast<size_t>(i)], &expected, sizeof(T)) != 0) hold = false;
    }
    watch(forbid_access);
    return hold;
  }

 private:
  // Both guard zones.
  void watch(void (*set)(const volatile void*, size_t)) const {
    const T* const end = store_.data() + begin_ + n_;
    set(store_.data(), static_cast<size_t>(begin_) * sizeof(T));
    set(end, static_cast<size_t>(store_.data() + store_.size() - end) * sizeof(T));
  }

  static constexpr int64_t kGuard = 32;
  std::vector<T> store_;
  int64_t n_, begin_;
};

/// A Context of its own, with its own scratch.
struct TestContext : Context {
  explicit TestContext(int n = 1) {
    threads = n;
    scratch = &own;
  }
  TestContext(const TestContext&) = delete;
  TestContext& operator=(const TestContext&) = delete;
  Scratch own;
};

/// The CPU and the CUDA devices of this machine.
inline std::vector<Device> all_devices() {
  std::vector<Device> devices = {Device{}};
  for (int i = 0; i < device_count(DeviceType::cuda); ++i) devices.push_back({DeviceType::cuda, i});
  return devices;
}

/// A version of the kernels under test: an ISA's, or a CUDA device's behind a table that takes host memory (staged.h).
struct Version {
  Version(Isa isa)
      : name(isa_name(isa)),
        table(&kernels::table<float>(isa)),
        matrix_unit(isa == Isa::amx),
        screens(isa != Isa::reference) {}
  explicit Version(Device device) : name(device.name()), table(&staged_table(device)), cuda(true), screens(true) {}

  std::string name;
  const Table<float>* table;
  bool cuda = false;
  bool matrix_unit = false;  // products of split bfloat16 operands
  bool screens = false;      // Precision::fast rounds
};

/// Every version above the reference that this machine has; says so where CUDA is not among them.
inline std::vector<Version> fast_versions() {
  std::vector<Version> all;
  for (const Isa isa : available_isas())
    if (isa != Isa::reference) all.emplace_back(isa);
  if (device_count(DeviceType::cuda) > 0) {
    all.emplace_back(Device{DeviceType::cuda, 0});
  } else {
    static const bool said = [] {
      try {
        check_device({DeviceType::cuda, 0});
      } catch (const Error& error) {
        MESSAGE("CUDA kernels not tested: " << std::string(error.what()));
      }
      return true;
    }();
    static_cast<void>(said);
  }
  return all;
}

/// The same with the reference, first.
inline std::vector<Version> versions() {
  std::vector<Version> all = fast_versions();
  all.insert(all.begin(), Isa::reference);
  return all;
}

/// body(table, version) for every version above the reference.
template <class Body>
void for_each_version(Body body) {
  for (const Version& version : fast_versions()) body(*version.table, version);
}

/// body(table, version) for every version, the reference included: for cases whose results are written out.
template <class Body>
void for_each_version_and_reference(Body body) {
  for (const Version& version : versions()) body(*version.table, version);
}

/// Deterministic test data.
class Data {
 public:
  explicit Data(uint32_t seed) : generator_(seed) {}

  std::vector<float> normal(int64_t n, float mean = 0, float deviation = 1) {
    std::normal_distribution<float> distribution(mean, deviation);
    return draw<float>(n, distribution);
  }
  /// Integers in [-range, range]: sums and products of a few thousand of them are exact in float.
  std::vector<float> integers(int64_t n, int range = 8) {
    std::uniform_int_distribution<int> distribution(-range, range);
    return draw<float>(n, distribution);
  }
  std::vector<int32_t> ids(int64_t n, int64_t below) {
    std::uniform_int_distribution<int32_t> distribution(0, static_cast<int32_t>(below - 1));
    return draw<int32_t>(n, distribution);
  }

 private:
  template <class T, class Distribution>
  std::vector<T> draw(int64_t n, Distribution& distribution) {
    std::vector<T> values(static_cast<size_t>(n));
    for (T& value : values) value = static_cast<T>(distribution(generator_));
    return values;
  }
  std::mt19937 generator_;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Fails unless |actual[i] - expected[i]| <= bound(i) for all i. Equal infinities pass, and NaN where NaN is expected.
template <class T, class U, class Bound>
void check_close(const std::vector<T>& actual, const std::vector<U>& expected, Bound bound, const std::string& what) {
  REQUIRE_MESSAGE(actual.size() == expected.size(), what);
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]), e = static_cast<double>(expected[i]);
    if (a == e || (std::isnan(a) && std::isnan(e))) continue;
    const double limit = bound(static_cast<int64_t>(i));
    if (!(std::fabs(a - e) <= limit))
      FAIL(fmt::format("{}: element {} is {:.9g}, expected {:.9g} +- {:.3g}", what, i, a, e, limit));
  }
}

/// Fails unless all elements are equal (0 and -0 are) or both NaN.
template <class T>
void check_equal(const std::vector<T>& actual, const std::vector<T>& expected, const std::string& what) {
  check_close(
      actual, expected, [](int64_t) { return 0.0; }, what);
}

/// run(context) -> vector must give the same bits with 1, 2 and 3 threads.
template <class Run>
void check_any_thread_count(Run run, const std::string& what) {
  const auto expected = run(TestContext(1));
  for (const int threads : {2, 3})
    CHECK_MESSAGE(same_bits(run(TestContext(threads)), expected), fmt::format("{}: {} threads", what, threads));
}

/// Gives a variable that a test changes its value back.
template <class T>
class Restore {
 public:
  explicit Restore(T& variable) : variable_(variable), value_(variable) {}
  ~Restore() { variable_ = value_; }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;

 private:
  T& variable_;
  T value_;
};

}  // namespace qinco::kernels::tests
