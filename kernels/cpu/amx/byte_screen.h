// The screen with products in bytes, at twice bfloat16's rate (screen_loop.h: the order of the products).
//
// Only the operands of the products are rounded: tables, the residual stream z and the distance stay in float. A
// weight's scale is its row's (an output feature's). An activation's is its layer's, times its unit's size, ||(a_k,
// z_k)|| of the largest candidate + ||(u, r)||: so the screen, as the step, is positively homogeneous, which the margin
// (candidate_margin.h) needs, and no candidate has a factor of its own. What a layer's largest value is for a size of
// 1 is measured when the step is packed (byte_pack.h).
//
// Data may exceed that and be clipped: the last value of a byte stands for it, and a candidate that has it anywhere is
// NaN, which leaves it to the precise comparison. So are candidates that are not finite, and all where a vector or a
// weight is not.
#pragma once

#include "kernels/cpu/amx/byte_jobs.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kLongest = int64_t{1} << 16;  // inner dimension: sums of so many bytes' products fit 32 bits
constexpr int kMostHidden = 254, kMostZ = 126;  // what is not clipped; hidden bytes are unsigned
constexpr int kMostWeight = 127;

// The screen's part of a pack. Where things stand, in floats: NaN or 0 per candidate, the fineness of the rounded
// layers (hidden 1, z 2, z 3, .., z L: bytes per value, for a size of 1), and the matrices down 1, up 2, down 2, ..,
// down L: factors [d] of a down matrix, shifts [h] and multipliers [h] of an up matrix, then the weights as B blocks
// [rows/32][inner/64] pairs of tiles. Everything is padded with zeros to whole blocks of 64.
struct ByteLayout {
  int64_t groups, D, H, L;  // blocks of 32 candidates, and of d and h

  static int64_t deep(int64_t blocks32) { return (blocks32 + 1) / 2; }
  int64_t deep_D() const { return deep(D); }
  int64_t deep_H() const { return deep(H); }
  int64_t fineness() const { return groups * kBlock; }
  int64_t w_down(int64_t l) const { return fineness() + blocks_of(L, kLanes) * kLanes + l * (down_size() + up_size()); }
  int64_t w_up(int64_t l) const { return w_down(l) - up_size(); }
  int64_t size() const { return w_down(L - 1) + down_size(); }

  // inside a matrix
  int64_t multipliers() const { return deep_H() * kDeep; }
  int64_t down_weights() const { return deep_D() * kDeep; }
  int64_t up_weights() const { return multipliers() + deep_H() * kDeep / 2; }

 private:
  static constexpr int64_t kPairFloats = kPairBytes / 4;
  int64_t down_size() const { return down_weights() + D * deep_H() * kPairFloats; }
  int64_t up_size() const { return up_weights() + H * deep_D() * kPairFloats; }
};

// A slice of the beginning: hidden = relu(a_table + up_row).
struct BeginBytes {
  using Operand = uint8_t;
  static constexpr int64_t kPair = kPairBytes;

  float fineness = 0;
  int64_t H = 0;
  uint8_t* largest = nullptr;  // [units][32][kDeep]

  QINCO_INLINE void operator()(const Unit& unit, int number, int64_t block, int row, uint8_t* out) const {
    ByteJob job{};
    job.start = unit.a_table + 2 * block * kBlockFloats;
    job.add = unit.up_row + block * kDeep;
    job.fineness = fineness * unit.inverse;
    job.out = out;
    job.largest = largest + number * kPairBytes;
    job.whole = 2 * block + 1 < H;
    do_slice<JobKind::begin>(job, row);
  }
};

// out [two C blocks, or one] = A B over `steps` inner steps each; meanwhile the job is done, and `share` slices of
// `begins` in each step.
template <JobKind kind, Operands of>
QINCO_INLINE void multiply_deep(const uint8_t* a, const uint8_t* b, int64_t steps, bool whole, int32_t* out,
                                const ByteJob& job, Begins<BeginBytes>& begins, int64_t share) {
  int row = 0;
  const int64_t blocks = whole ? 2 : 1;
  const int rows = static_cast<int>((kSlices + blocks * steps - 1) / (blocks * steps)) * kSlice;
  for (int64_t block = 0; block < blocks; ++block) {
    zero_accumulators();
    for (int64_t k = 0; k < steps; ++k) {
      multiply_step<of>(a + k * kPairBytes, b + (block * steps + k) * kPairBytes);
      if constexpr (kind != JobKind::none)
        for (const int end = row + rows; row < end && row < kBlock; row += kSlice) do_slice<kind>(job, row);
      begins.do_slices(share);
    }
    store_accumulators(out + block * kBlockFloats);
  }
}

// The search of a group of units at a time, and its scratch.
class ByteScreen : public ScreenLoop<ByteScreen, BeginBytes> {
 public:
  static int64_t floats(const ByteLayout& p, int units) {
    return units * ((2 * p.deep_H() + p.deep_D() + 2) * kPairBytes / 4 + p.D * kBlockFloats + kBlock * kLanes) +
           4 * kBlockFloats;
  }

  // `part` is the screen's part of a pack; `strict`: what was clipped makes a candidate NaN.
  ByteScreen(const ByteLayout& layout, const float* part, int group_units, bool strict, float* scratch)
      : ScreenLoop(layout.L, group_units), p_(layout), part_(part), strict_(strict) {
    const auto take = [&scratch](int64_t n) {
      float* const p = scratch;
      scratch += n;
      return p;
    };
    const auto take_pairs = [&](int64_t n) { return reinterpret_cast<uint8_t*>(take(units * n * kPairBytes / 4)); };
    for (int i = 0; i < 2; ++i) {
      hidden[i] = take_pairs(p_.deep_H());
      largest_[i] = take_pairs(1);
      products_[i] = reinterpret_cast<int32_t*>(take(2 * kBlockFloats));
    }
    z_bytes_ = take_pairs(p_.deep_D());
    z_ = take(units * p_.D * kBlockFloats);
    sums = take(units * kBlock * kLanes);
  }

  // --- what ScreenLoop asks for
  Begins<BeginBytes> begins_of(const Unit* first, int n, int64_t which) const {
    for (int64_t i = 0; i < n * kPairBytes; i += kDeep) _mm512_store_si512(largest_[which] + i, _mm512_setzero_si512());
    return {{part_[p_.fineness()], p_.H, largest_[which]}, first, n, p_.deep_H(), hidden[which]};
  }
  int64_t down_steps() const { return p_.L * p_.D * p_.deep_H(); }

  // current = relu(W_up,l z_bytes)
  void up(int64_t l) {
    const float* const matrix = part_ + p_.w_up(l);
    const uint8_t* const weights = reinterpret_cast<const uint8_t*>(matrix + p_.up_weights());
    const int32_t* const shifts = reinterpret_cast<const int32_t*>(matrix);
    const int32_t* const multipliers = reinterpret_cast<const int32_t*>(matrix + p_.multipliers());
    ByteJob job{};
    for (int64_t j = 0; j < p_.deep_H(); ++j) {
      const bool whole = 2 * j + 1 < p_.H;
      const uint8_t* const b = weights + 2 * j * p_.deep_D() * kPairBytes;
      for (int u = 0; u < count; ++u) {
        int32_t* const out = products_[(j * count + u) % 2];
        const uint8_t* const a = z_bytes_ + u * p_.deep_D() * kPairBytes;
        if (j == 0 && u == 0)
          multiply_deep<JobKind::none, Operands::signed_bytes>(a, b, p_.deep_D(), whole, out, job, begins, 0);
        else
          multiply_deep<JobKind::hidden, Operands::signed_bytes>(a, b, p_.deep_D(), whole, out, job, begins, 0);
        job = {};
        job.sums = out;
        job.shifts = shifts + j * kDeep;
        job.multipliers = multipliers + j * kDeep / 2;
        job.out = current + (u * p_.deep_H() + j) * kPairBytes;
        job.largest = largest_[side] + u * kPairBytes;
        job.whole = whole;
      }
    }
    do_job<JobKind::hidden>(job);
  }

  // z += W_down,l current, and then what `kind` makes of z.
  template <JobKind kind>
  void down(int64_t l) {
    const float* const matrix = part_ + p_.w_down(l);
    const uint8_t* const weights = reinterpret_cast<const uint8_t*>(matrix + p_.down_weights());
    ByteJob job{};
    for (int64_t j = 0; j < p_.deep_D(); ++j) {
      const bool whole = 2 * j + 1 < p_.D;
      const uint8_t* const b = weights + 2 * j * p_.deep_H() * kPairBytes;
      for (int u = 0; u < count; ++u) {
        int32_t* const out = products_[(j * count + u) % 2];
        const uint8_t* const a = current + u * p_.deep_H() * kPairBytes;
        if (j == 0 && u == 0)
          multiply_deep<JobKind::none, Operands::unsigned_bytes>(a, b, p_.deep_H(), whole, out, job, begins, share);
        else
          multiply_deep<kind, Operands::unsigned_bytes>(a, b, p_.deep_H(), whole, out, job, begins, share);
        job = down_job(kind, l, j, u, matrix, out);
      }
    }
    do_job<kind>(job);
  }

  void finish(int u) const {
    float* const distances = group[u].distances;
    for (int64_t i = 0; i < kBlock; i += 16)
      store(distances + i, row_sums(sums + (u * kBlock + i) * kLanes) + load(group[u].doubts + i));
    if (!strict_) return;
    for (int64_t i = 0; i < kBlock; ++i) {
      const __m512i most = _mm512_load_si512(largest_[side] + u * kPairBytes + i * kDeep);
      if (_mm512_cmpeq_epi8_mask(most, _mm512_set1_epi8(-1)) != 0) distances[i] = __builtin_nanf("");
    }
  }

 private:
  ByteJob down_job(JobKind kind, int64_t l, int64_t j, int u, const float* matrix, const int32_t* out) const {
    const Unit& unit = group[u];
    float* const mine = z_ + (u * p_.D + 2 * j) * kBlockFloats;
    ByteJob job{};
    job.sums = out;
    job.start = l == 0 ? unit.z_table + 2 * j * kBlockFloats : mine;
    job.factors = matrix + j * kDeep;
    job.size = unit.size;
    job.whole = 2 * j + 1 < p_.D;
    if (kind == JobKind::distance) {
      job.add = unit.target + j * kDeep;
      job.distances = sums + u * kBlock * kLanes;
      return job;
    }
    job.add = unit.row + j * kDeep;
    job.fineness = part_[p_.fineness() + 1 + l] * unit.inverse;
    job.z = mine;
    job.out = z_bytes_ + (u * p_.deep_D() + j) * kPairBytes;
    job.largest = largest_[side] + u * kPairBytes;
    return job;
  }

  ByteLayout p_;
  const float* part_;
  bool strict_;
  uint8_t* largest_[2];   // [units][32][kDeep] as `hidden`: the largest bytes of a candidate's layers
  uint8_t* z_bytes_;      // [units][D/2] A blocks
  float* z_;              // [units][D] C blocks
  int32_t* products_[2];  // two C blocks each, between their product and their job
};

QINCO_CPU_NAMESPACE_END
