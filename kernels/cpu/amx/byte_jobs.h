// What the byte screen (byte_screen.h) does with the sums of a block of products: the next product's operand, or the
// distance.
//
// Features lie in an order in which packing whole registers leaves them: of 64, byte 16 l + 4 q + i is number
// 16 q + 4 l + i. The inner sides of the weights lie likewise.
#pragma once

#include "kernels/cpu/amx/screen_loop.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kDeep = 64;                   // features of an operand's row: an inner step
constexpr int64_t kPairBytes = 2 * kTileBytes;  // of a pair of operand tiles: [32][kDeep]

// Two int32 C blocks' worth of work, or one's: 32 rows of 64 features.
struct ByteJob {
  const int32_t* sums;         // begin: none
  const float* start;          // begin: [blocks][32][32]; stream, distance: C blocks of z so far
  const float* add;            // [64] begin: up_row, stream: row, distance: target
  const float* factors;        // [64] stream, distance: what a sum of 1 stands for, for a size of 1
  const int32_t* shifts;       // [64] hidden: sums are shifted by them,
  const int32_t* multipliers;  // [32] pairs: then multiplied by 2^-15 times these, as `words` orders them
  float size, fineness;        // the unit's; bytes per unit of what is rounded
  float* z;                    // stream: the result's C blocks
  uint8_t *out, *largest;      // a pair of A tiles, and the largest byte so far, of every row [32][kDeep]
  float* distances;            // [32][16]
  bool whole;                  // two C blocks
};

// 64 features of a row as one operand row: values in [0, 255], or [-128, 127], the ends being what was clipped.
QINCO_INLINE __m512i unsigned_bytes(__m512i a, __m512i b) {
  return _mm512_packus_epi16(a, b);
}
QINCO_INLINE __m512i signed_bytes(__m512i a, __m512i b) {
  return _mm512_packs_epi16(a, b);
}
QINCO_INLINE __m512i words(Vec a, Vec b) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v));
}

QINCO_INLINE void keep_largest(uint8_t* largest, __m512i bytes) {
  _mm512_store_si512(largest, _mm512_max_epu8(_mm512_load_si512(largest), bytes));
}

// Rows [row, row + kSlice) of a begin job.
template <bool whole>
QINCO_INLINE void begin_bytes(const ByteJob& job, int row) {
  constexpr int parts = whole ? 4 : 2;
  const Vec scale(job.fineness);
  Vec add[4] = {Vec(0.0f), Vec(0.0f), Vec(0.0f), Vec(0.0f)};
#pragma GCC unroll 4
  for (int q = 0; q < parts; ++q) add[q] = load(job.add + q * kLanes) * scale;
#pragma GCC unroll 4
  for (int r = 0; r < kSlice; ++r) {
    const int i = row + r;
    Vec x[4] = {add[0], add[1], add[2], add[3]};
#pragma GCC unroll 4
    for (int q = 0; q < parts; ++q)
      x[q] = fma(load(job.start + q / 2 * kBlockFloats + i * kBlock + q % 2 * kLanes), scale, add[q]);
    const __m512i bytes = unsigned_bytes(words(x[0], x[1]), words(x[2], x[3]));
    _mm512_store_si512(job.out + i * kDeep, bytes);
    keep_largest(job.largest + i * kDeep, bytes);
  }
}

// Where row i of a C block begins: after 16 columns it goes on kTileFloats further, after 32 in the next block.
constexpr int64_t block_row(int i) {
  return i / 16 * 2 * kTileFloats + i % 16 * kLanes;
}

template <bool whole>
QINCO_INLINE void hidden_bytes(const ByteJob& job, int row) {
  constexpr int parts = whole ? 4 : 2;
  const int64_t from = block_row(row);
  const __m512i low = _mm512_loadu_si512(job.multipliers), high = _mm512_loadu_si512(job.multipliers + kLanes);
  __m512i shifts[4];
#pragma GCC unroll 4
  for (int q = 0; q < parts; ++q) shifts[q] = _mm512_loadu_si512(job.shifts + q * kLanes);
#pragma GCC unroll 4
  for (int r = 0; r < kSlice; ++r) {
    const int i = row + r;
    const __m512i none = _mm512_setzero_si512();
    __m512i x[4] = {none, none, none, none};
#pragma GCC unroll 4
    for (int q = 0; q < parts; ++q) {
      const int64_t at = from + r * kLanes + q / 2 * kBlockFloats + q % 2 * kTileFloats;
      x[q] = _mm512_srav_epi32(_mm512_loadu_si512(job.sums + at), shifts[q]);
    }
    const __m512i bytes = unsigned_bytes(_mm512_mulhrs_epi16(_mm512_packs_epi32(x[0], x[1]), low),
                                         _mm512_mulhrs_epi16(_mm512_packs_epi32(x[2], x[3]), high));
    _mm512_store_si512(job.out + i * kDeep, bytes);
    keep_largest(job.largest + i * kDeep, bytes);
  }
}

// z = start + factors * size * sums, and its bytes.
template <bool whole>
QINCO_INLINE void stream_bytes(const ByteJob& job, int row) {
  constexpr int parts = whole ? 4 : 2;
  const int64_t from = block_row(row);
  const Vec scale(job.fineness), size(job.size);
  Vec factors[4], add[4];
#pragma GCC unroll 4
  for (int q = 0; q < parts; ++q) {
    factors[q] = load(job.factors + q * kLanes) * size;
    add[q] = load(job.add + q * kLanes) * scale;
  }
#pragma GCC unroll 4
  for (int r = 0; r < kSlice; ++r) {
    const int i = row + r;
    Vec x[4] = {Vec(0.0f), Vec(0.0f), Vec(0.0f), Vec(0.0f)};
#pragma GCC unroll 4
    for (int q = 0; q < parts; ++q) {
      const int64_t at = from + r * kLanes + q / 2 * kBlockFloats + q % 2 * kTileFloats;
      const Vec z = fma(to_float(load(job.sums + at)), factors[q], load(job.start + at));
      store(job.z + at, z);
      x[q] = fma(z, scale, add[q]);
    }
    const __m512i bytes = signed_bytes(words(x[0], x[1]), words(x[2], x[3]));
    _mm512_store_si512(job.out + i * kDeep, bytes);
    // 127 above or below zero become 255, what the clipped hidden bytes are
    keep_largest(job.largest + i * kDeep, _mm512_adds_epu8(_mm512_abs_epi8(bytes), _mm512_set1_epi8(-128)));
  }
}

template <bool whole>
QINCO_INLINE void add_distance(const ByteJob& job, int row) {
  constexpr int parts = whole ? 4 : 2;
  const int64_t from = block_row(row);
  const Vec size(job.size);
  Vec factors[4], target[4];
#pragma GCC unroll 4
  for (int q = 0; q < parts; ++q) {
    factors[q] = load(job.factors + q * kLanes) * size;
    target[q] = load(job.add + q * kLanes);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kSlice; ++r) {
    float* const sum = job.distances + (row + r) * kLanes;
    Vec total = load(sum);
#pragma GCC unroll 4
    for (int q = 0; q < parts; ++q) {
      const int64_t at = from + r * kLanes + q / 2 * kBlockFloats + q % 2 * kTileFloats;
      const Vec error = target[q] - fma(to_float(load(job.sums + at)), factors[q], load(job.start + at));
      total = fma(error, error, total);
    }
    store(sum, total);
  }
}

template <JobKind kind, bool whole>
QINCO_INLINE void do_slice(const ByteJob& job, int row) {
  if constexpr (kind == JobKind::begin) begin_bytes<whole>(job, row);
  if constexpr (kind == JobKind::hidden) hidden_bytes<whole>(job, row);
  if constexpr (kind == JobKind::stream) stream_bytes<whole>(job, row);
  if constexpr (kind == JobKind::distance) add_distance<whole>(job, row);
}
template <JobKind kind>
QINCO_INLINE void do_slice(const ByteJob& job, int row) {
  if (job.whole)
    do_slice<kind, true>(job, row);
  else
    do_slice<kind, false>(job, row);
}
template <JobKind kind>
QINCO_INLINE void do_job(const ByteJob& job) {
  for (int row = 0; row < kBlock; row += kSlice) do_slice<kind>(job, row);
}

QINCO_CPU_NAMESPACE_END
