// Scores in whole units, for scan_screened.cu: bounds of 8 bits to a table's entry, for G queries that pass over the
// same lists. G = 16: those of the queries side by side, so that a look-up of 16 bytes serves all, and sums of them in
// halves of 32 bits. G = 1: a byte, so that a table is 64 words, 2 to a bank of shared memory.
//
// One unit is 1/255 of the widest table of a group's queries. An entry's level is (entry - least of its table) in
// units, rounded down. With x a vector's bias + norm in units, and a query's scores counted from the sum of its tables'
// least entries,
//
//     sum of levels + down(x)  <=  score  <=  sum of levels + M + up(x),
//
// where down and up allow for all rounding in float: of the M sums of a score, at most M 2^-24 (|x| + A) for A the sum
// of the tables' largest amounts, of x itself, and of the levels (2^-22 of at most 255 M). So if k vectors have an
// upper bound of at most t, the k best are among those whose lower bound is at most t.
#pragma once

#include <cfloat>

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

constexpr int kLevels = 255;          // the highest level
constexpr int kMostCodes = 64;        // a sum of levels has 14 bits
constexpr int kLargestSum = 0x3fff;   // of levels, and of a query's distance from the group's highest limit
constexpr int kLargestRoom = 0x7fff;  // up to which a sum and such a distance are compared
constexpr int kFarUnits = 1 << 29;    // beyond every score that is screened, either way
constexpr int kNoLimit = 1 << 30;     // of a query: everything passes
static_assert(kLevels * kMostCodes <= kLargestSum && 2 * kLargestSum <= kLargestRoom);

/// What a group's bounds are made of. Bin b of its histograms: upper bounds in [base + (b << shift), ...).
struct LevelScale {
  float units;     // of a score of 1
  float error;     // of a score, in units, for x = 0
  float relative;  // and for each |x|
  int base, shift;
  int screened;  // 0: some entry is not finite, or the units would not hold; every vector is to be scored
};

/// For offset = bias + norm. NaN: anything. What is far below stays below every limit.
__device__ inline int units_down(const LevelScale& s, float offset) {
  const float x = offset * s.units, least = x - (s.error + fabsf(x) * s.relative);
  return static_cast<int>(fmaxf(fminf(floorf(least), kFarUnits), -kFarUnits));
}

/// kFarUnits where there is no bound, as for NaN. M included.
__device__ inline int units_up(const LevelScale& s, int M, float offset) {
  const float x = offset * s.units, most = x + (s.error + fabsf(x) * s.relative);
  if (!(most < kFarUnits / 2)) return kFarUnits;
  return static_cast<int>(fmaxf(ceilf(most), -kFarUnits)) + M;
}

/// The levels of a code for all queries of a group, the sums of them for a vector, and whether such a sum passes beside
/// the vector's offset, with which it is a lower bound.
template <int G>
struct LevelsOf;
template <int G>
struct LevelSums;
template <int G>
struct Limits;

template <int G>
using Levels = typename LevelsOf<G>::type;

// --- 16 queries

template <>
struct LevelsOf<16> {
  using type = uint4;
  __device__ static type pack(const unsigned (&words)[4]) { return {words[0], words[1], words[2], words[3]}; }
};

/// all[j] sums words j, odd[j] their bytes 1 and 3 in halves of 16 bits.
template <>
struct LevelSums<16> {
  unsigned all[4] = {}, odd[4] = {};

  __device__ void add(const uint4& levels) {
    all[0] += levels.x, all[1] += levels.y, all[2] += levels.z, all[3] += levels.w;
    odd[0] += odd_bytes(levels.x), odd[1] += odd_bytes(levels.y);
    odd[2] += odd_bytes(levels.z), odd[3] += odd_bytes(levels.w);
  }

  /// The sums of queries 4j + i and 4j + i + 2 in the halves of a word, i = 0 or 1.
  __device__ unsigned pair(int j, int i) const { return i ? odd[j] : all[j] - (odd[j] << 8); }
  __device__ int of(int query) const {
    return static_cast<int>(pair(query / 4, query % 2) >> 16 * (query / 2 % 2) & 0xffff);
  }

 private:
  __device__ static unsigned odd_bytes(unsigned word) { return __byte_perm(word, 0, 0x4341); }
};

template <>
struct Limits<16> {
  int highest;
  unsigned below[4][2];  // by how much the queries' limits are below it, in the halves of LevelSums::pair

  /// limits: of the first `present` queries; the others have none.
  __device__ void set(const int* limits, int present, const LevelScale&) {
    highest = -kFarUnits;
    for (int q = 0; q < present; ++q) highest = limits[q] > highest ? limits[q] : highest;
    for (int e = 0; e < 8; ++e) {
      unsigned halves = 0;
      for (int h = 0; h < 2; ++h) {
        const int q = query_of(e, h), less = q < present ? highest - limits[q] : kLargestSum;
        halves |= static_cast<unsigned>(less < kLargestSum ? less : kLargestSum) << 16 * h;
      }
      below[e / 2][e % 2] = halves;
    }
  }

  /// Which queries a vector passes for, as bits: those with sum + below <= room. kLargestRoom - room is added to a
  /// half's sum, so that its bit 15 says no.
  __device__ unsigned passes(const LevelSums<16>& sums, const LevelScale& scale, float offset) const {
    const int room = highest - units_down(scale, offset);
    const int bounded = room < -1 ? -1 : room > kLargestRoom ? kLargestRoom : room;
    const unsigned lift = static_cast<unsigned>(kLargestRoom - bounded) * 0x10001u;
    unsigned lifted[8], none = ~0u;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      lifted[e] = sums.pair(e / 2, e % 2) + below[e / 2][e % 2] + lift;
      none &= lifted[e];
    }
    if ((~none & 0x80008000u) == 0) return 0;
    unsigned queries = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const unsigned passed = ~lifted[e];
      queries |= (passed >> 15 & 1) << query_of(e, 0) | (passed >> 31) << query_of(e, 1);
    }
    return queries;
  }

 private:
  // The query whose sum is in half h of word pair(e / 2, e % 2).
  __device__ static constexpr int query_of(int e, int h) {
    return e / 2 * 4 + e % 2 + 2 * h;
  }
};

// --- one query

template <>
struct LevelsOf<1> {
  using type = uint8_t;
  __device__ static type pack(const unsigned (&words)[1]) { return static_cast<uint8_t>(words[0]); }
};

/// The bits of 2^23 and more: a float whose last place is a unit.
template <>
struct LevelSums<1> {
  static constexpr unsigned kNone = 0x4b000000;
  unsigned all = kNone;

  __device__ void add(unsigned level) { all += level; }
  __device__ int of(int) const { return static_cast<int>(all - kNone); }
};

template <>
struct Limits<1> {
  float highest;  // 2^23, the limit and the scale's error, rounded up

  __device__ void set(const int* limits, int, const LevelScale& scale) {
    const double exact = 0x1p23 + static_cast<double>(limits[0]) + static_cast<double>(scale.error);
    highest = static_cast<float>(exact);
    if (static_cast<double>(highest) < exact) highest = nextafterf(highest, INFINITY);
    if (limits[0] >= kNoLimit) highest = INFINITY;
  }

  /// units_down less the error, the sum and 2^23 in one float: rounded, it is above `highest` only if it is so exactly.
  /// An offset that is NaN, or +infinity, passes where there is no limit alone.
  __device__ unsigned passes(const LevelSums<1>& sums, const LevelScale& scale, float offset) const {
    const float x = offset * scale.units, least = fminf(fmaf(-fabsf(x), scale.relative, x), FLT_MAX);
    return least + __uint_as_float(sums.all) <= highest ? 1 : 0;
  }
};

}  // namespace qinco::kernels::cuda
