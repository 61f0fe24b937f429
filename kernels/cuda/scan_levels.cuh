// Scores in whole units, for scan_together.cu: bounds of 8 bits to a table's entry, so that a look-up of 16 bytes
// serves 16 queries, and sums of them in halves of 32 bits.
//
// One unit is 1/255 of the widest table of a group of 16 queries. An entry's level is (entry - least of its table) in
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

constexpr int kTogether = 16;         // queries of a group
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

/// Sums of levels of a vector for all queries: all[j] sums words j, odd[j] their bytes 1 and 3 in halves of 16 bits.
struct LevelSums {
  unsigned all[4] = {}, odd[4] = {};

  __device__ void add(const uint4& levels) {
    all[0] += levels.x, all[1] += levels.y, all[2] += levels.z, all[3] += levels.w;
    odd[0] += odd_bytes(levels.x), odd[1] += odd_bytes(levels.y);
    odd[2] += odd_bytes(levels.z), odd[3] += odd_bytes(levels.w);
  }

  /// The sums of queries 4j + i and 4j + i + 2 in the halves of a word, i = 0 or 1.
  __device__ unsigned pair(int j, int i) const { return i ? odd[j] : all[j] - (odd[j] << 8); }

 private:
  __device__ static unsigned odd_bytes(unsigned word) { return __byte_perm(word, 0, 0x4341); }
};

/// The query whose sum is in half h of word pair(j, i).
__host__ __device__ constexpr int query_of(int j, int i, int h) {
  return 4 * j + i + 2 * h;
}

}  // namespace qinco::kernels::cuda
