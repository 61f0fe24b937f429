// Random numbers by counter: Philox4x32-10 (kernels/philox.h). The i-th number of a stream is a pure function of (seed,
// stream, i): any thread, or device, gets the same one.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "tensor/tensor.h"

namespace qinco {

/// One block of Philox4x32 with 10 rounds.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// What a Random needs to go on where it stopped.
using kernels::RandomState;

/// A stream of random numbers. Every call below that draws advances the position; block() does not. One thread at a
/// time may draw; for more, give each a stream of its own.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_{seed, stream, 0} {}

  /// Four words at block `index` of this stream, whatever the position: random access.
  std::array<uint32_t, 4> block(uint64_t index) const;

  uint64_t next64();
  /// Uniform in [0,1), 53 bits.
  double uniform();
  /// Uniform in 0..n-1 without bias; n >= 1.
  uint64_t below(uint64_t n);
  /// A uniformly drawn order of 0..n-1 (Fisher-Yates); n < 2^31.
  std::vector<int32_t> permutation(int64_t n);

  // These fill a contiguous f32 or f64 tensor of any device, with the same bits on all. Error, and the position stays,
  // for parameters that make no sense or are not finite in the tensor's dtype.
  /// Uniform values of [lo,hi), or lo where lo = hi; lo <= hi, and hi - lo is finite too.
  void uniform(const Tensor& out, double lo, double hi);
  /// 0 with probability p, else 1/(1-p): zero where uniform values of [0,1) are below p; p in [0,1).
  void dropout_mask(const Tensor& out, double p);
  /// Normal values (Box-Muller), stddev >= 0. The CPU draws them for the other devices too, whose logarithms and
  /// cosines have other last bits.
  void normal(const Tensor& out, double mean = 0, double stddev = 1);

  const RandomState& state() const { return state_; }
  void set_state(const RandomState& state) { state_ = state; }

 private:
  RandomState state_;
};

}  // namespace qinco
