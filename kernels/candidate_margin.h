// The margin of a candidate search that screens with rounded operands and decides in higher precision: the rules that
// all versions with a screen share.
//
// Let z be a candidate's exact output and z' the screen's: with e >= ||z' - z||, the triangle inequality gives
// |sqrt(D') - sqrt(D)| <= e for the squared distances D and D' to any target. So a candidate can be nearest only if
// sqrt(D') - e is at most the least sqrt(D') + e of all (on CUDA), or at most sqrt(D) of any one (on the CPU: of the
// screen's nearest, which is compared first), and among the B nearest of a beam only if it is at most the largest
// sqrt(D) of any B (of the screen's nearest); whoever is not ruled out is compared again, as are all whose D' is NaN.
//
// A step without its target is positively homogeneous in its inputs (a_k + u, z_k + r), and so is its rounding,
// relative to each value, to the largest of its layer or to the size of the inputs. So e grows in proportion to them: e
// = bound * (||(a_k, z_k)|| + ||(u, r)||), with the bound measured when the step is packed, as the largest of some
// probes, times two. The screen of chosen candidates (candidate_screen) looks closer: its e is a bound times what
// rounding to bytes makes of the largest value in each layer of the very candidate, so that a hidden unit that the
// probes leave at zero is seen.
//
// The probes are not the data, so the data is watched: every vector's screened best (of a beam, all that are compared)
// is computed again too, and where that differs by more than an error of length e would make likely (its direction is
// random, so that a share of about 1/sqrt(d) of e shows), all candidates of the vector are computed again. A D' that is
// NaN says nothing of the others. Of a beam, a code under way that has no candidate among those compared is not
// watched.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace qinco::kernels::margin {

// Always inlined: the linker must not share code that was compiled for one instruction set.

constexpr float kSumError = 1e-6f;  // of sqrt(D') itself, from float sums
constexpr float kSafety = 2;        // from the largest of the probes to the bound
constexpr int64_t kProbes = 64;

/// The part of an error of length e that shows in sqrt(D'), at most, if it is likely: four standard deviations.
[[gnu::always_inline]] QINCO_HOST_DEVICE inline float shown(int64_t d) {
  constexpr float kLikely = 4;
  return d <= kLikely * kLikely ? 1 : kLikely / __builtin_sqrtf(static_cast<float>(d));
}

/// A probe's inputs: r = scale * (z_table[first] - z_table[second], its values `shift` places on), u = W_up,1 r; and
/// the candidate whose output is looked at. So r is a difference of two candidates' z, or the same with its values in
/// disorder, at one of four lengths.
struct Probe {
  float scale;
  int64_t first, second, shift, candidate;
};

[[gnu::always_inline]] QINCO_HOST_DEVICE inline Probe probe(int64_t i, int64_t K) {
  const float scale = i % 4 == 0 ? 0.25f : i % 4 == 1 ? 0.5f : i % 4 == 2 ? 1.0f : 2.0f;
  return {scale, i * 7 % K, (i * 13 + K / 2) % K, i % 8 < 4 ? 0 : i * 5 + 1, i * 5 % K};
}

}  // namespace qinco::kernels::margin
