// The byte screen's part of a pack: scales and weights (byte_screen.h).
#pragma once

#include "kernels/cpu/amx/pack.h"
#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/magnitude.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr float kHeadroom = 1.25f;  // over the largest value that was seen of a layer

// Rows [row, row + 16) x values [col, col + 64) of w, times inverse[row], as one tile. Outside the matrix is zero.
inline void pack_byte_tile(const float* w, int64_t rows, int64_t cols, int64_t row, int64_t col, const float* inverse,
                           float* out) {
  Vec x[16];
  for (int i = 0; i < 16; ++i) {
    Vec values[4] = {Vec(0.0f), Vec(0.0f), Vec(0.0f), Vec(0.0f)};
    if (row + i < rows)
      for (int64_t q = 0; q < 4 && col + q * kLanes < cols; ++q)
        values[q] = load_partial(w + (row + i) * cols + col + q * kLanes, smaller(kLanes, cols - col - q * kLanes)) *
                    Vec(inverse[i]);
    x[i] = _mm512_castsi512_ps(signed_bytes(words(values[0], values[1]), words(values[2], values[3])));
  }
  transpose(x);
  for (int i = 0; i < 16; ++i) store(out + i * kLanes, x[i]);
}

// w [rows,cols] -> scales [rows, padded to 64], what a weight of 1 stands for, NaN where a row is not finite; and the
// weights as B blocks.
inline void pack_byte_weights(const Context& context, const float* w, int64_t rows, int64_t cols, float* scales,
                              float* weights) {
  const int64_t steps = blocks_of(cols, kDeep);
  parallel_for(context, blocks_of(rows, kDeep), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin * kDeep; row < end * kDeep; row += 16) {
      float inverse[16];
      for (int i = 0; i < 16; ++i) {
        const float largest = row + i < rows ? largest_magnitude(cols, w + (row + i) * cols) : 0;
        const bool finite = largest < __builtin_inff(), zero = largest < kTiny;
        scales[row + i] = !finite ? __builtin_nanf("") : zero ? 0 : largest / kMostWeight;
        inverse[i] = !finite || zero ? 0 : kMostWeight / largest;
      }
      if (row >= blocks(rows) * kBlock) continue;  // the other half of 64
      for (int64_t k = 0; k < steps; ++k)
        pack_byte_tile(w, rows, cols, row, k * kDeep, inverse,
                       weights + ((row / kBlock * steps + k) * 2 + row % kBlock / 16) * kTileFloats);
    }
  });
}

// A hidden byte is (sum >> shift) * multiplier / 2^15, which is `ratio` times the sum, to 2^-11 of it and 1/16.
struct Reduction {
  int32_t shift;
  int16_t multiplier;
};
inline Reduction reduction(float ratio) {
  constexpr int kDigits = 11, kPoint = 15, kMostShift = 31;
  if (!(ratio > 0 && ratio < 1)) return {0, 0};
  int exponent = 0;
  __builtin_frexpf(ratio, &exponent);  // ratio is in [2^(exponent - 1), 2^exponent)
  int shift = kDigits - kPoint - exponent;
  shift = shift < 0 ? 0 : shift > kMostShift ? kMostShift : shift;
  return {shift, static_cast<int16_t>(__builtin_rintf(__builtin_ldexpf(ratio, kPoint + shift)))};
}

// Where reductions go in an up matrix's part of the pack: in the place of its scales.
inline void store_reduction(const ByteLayout& p, float* matrix, int64_t j, Reduction r) {
  __builtin_memcpy(matrix + j, &r.shift, sizeof r.shift);
  // as `words` orders two registers: four of the first, four of the second, ..
  const int64_t place = j / 32 * 32 + j % 16 / 4 * 8 + j / 16 % 2 * 4 + j % 4;
  __builtin_memcpy(reinterpret_cast<char*>(matrix + p.multipliers()) + place * 2, &r.multiplier, sizeof r.multiplier);
}

inline float larger_of(float a, float b) {
  return a < b ? b : a;
}

// ranges [2L - 1], the largest value of each product's operand for a size of 1 -> scales: an up matrix's become
// reductions, which take what a byte of z stands for to what a hidden byte does.
inline void set_scales(const ByteLayout& p, const float* ranges, float* part) {
  // A value that overflows int32 as it is rounded becomes a byte of 0 among the hidden ones, which looks as if it were
  // not clipped: no byte may stand for less than this, for a size of 1.
  constexpr float kLeastStep = 0x1p-30f;
  const int64_t d = p.deep_D() * kDeep, h = p.deep_H() * kDeep;
  float* const fineness = part + p.fineness();
  float step = larger_of(ranges[0] * kHeadroom / kMostHidden, kLeastStep);
  fineness[0] = 1 / step;
  bool finite = true;
  for (int64_t l = 0; l < p.L; ++l) {
    float* const down = part + p.w_down(l);
    for (int64_t j = 0; j < d; ++j) {
      finite = finite && down[j] < __builtin_inff();
      down[j] *= step;
    }
    if (l == p.L - 1) break;
    step = larger_of(ranges[2 * l + 1] * kHeadroom / kMostZ, kLeastStep);
    fineness[1 + l] = 1 / step;
    float* const up = part + p.w_up(l + 1);
    float most = 0;
    for (int64_t j = 0; j < h; ++j) {
      finite = finite && up[j] < __builtin_inff();
      most = larger_of(most, up[j]);
    }
    // A sum of 1 makes less than a byte of 1, which leaves 32 bits for all.
    const float next = larger_of(ranges[2 * l + 2] * kHeadroom / kMostHidden, larger_of(1.01f * most * step, kTiny));
    for (int64_t j = 0; j < h; ++j) store_reduction(p, up, j, reduction(up[j] * step / next));
    step = next;
  }
  for (int64_t j = 0; j < d && !finite; ++j) part[p.w_down(p.L - 1) + j] = __builtin_nanf("");
}

QINCO_CPU_NAMESPACE_END
