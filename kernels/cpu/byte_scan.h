// A scan that looks up bytes first, for AVX-512 with VBMI: two instructions look up the same code of 64 vectors, where
// float tables take a load for each. Sums of bytes are lower bounds of the scores; what they cannot rule out is summed
// in float, so the results are those of float alone, bit for bit.
//
// Table m in bytes: t_m[k] >= least_m + step q_m[k], with q_m[k] = (t_m[k] - least_m) / step rounded down and one step
// for all tables, by which the widest takes the bytes' range. So bias + norm + sum_m least_m + step sum_m q_m is below
// the score, but for rounding. In units of 2^-24 (|bias| + |norm| + size), size = sum_m max_k |t_m[k]|, that comes to
// no more than M + 1 in the float score, 10 in the q, and M + 8 in the bound and what it is compared with: `rounding`
// is twice the sum.
#pragma once

#include "kernels/cpu/pack.h"
#include "kernels/cpu/scan_blocks.h"
#include "kernels/cpu/vbmi.h"

QINCO_CPU_NAMESPACE_BEGIN

#if defined(QINCO_CPU_avx512)

constexpr int64_t kScreened = 2 * kScanBlock;  // vectors
constexpr int64_t kMostByteTables = 256;       // whose sums fit 16 bits, and least entries a stack

/// One query's tables in bytes.
struct ByteTables {
  int64_t M;
  const uint8_t* bytes;  // [M,256]
  float least, step, size, rounding;
};

/// The smallest and the largest entry of a table, but for NaN, with which no score is among the best.
struct TableRange {
  float least, most;
};

inline TableRange range_of(const float* table) {
  Vec least(__builtin_inff()), most(-__builtin_inff());
  for (int64_t e = 0; e < kScanEntries; e += kLanes) {
    const Vec x = load(table + e);
    least = min(x, least), most = max(x, most);  // the second where x is NaN
  }
  alignas(64) float low[kLanes], high[kLanes];
  store(low, least), store(high, most);
  TableRange range{low[0], high[0]};
  for (int64_t i = 1; i < kLanes; ++i) {
    if (low[i] < range.least) range.least = low[i];
    if (high[i] > range.most) range.most = high[i];
  }
  return range;
}

/// Writes the tables [M,256] as bytes; false where one has infinity, nothing but NaN, or is so large that a bound might
/// not be finite.
inline bool round_tables(int64_t M, const float* tables, uint8_t* bytes, ByteTables& out) {
  constexpr float kLargest = 1e30f, kBytes = 255;
  out = {M, bytes, 0, 0, 0, static_cast<float>(4 * M + 40) * 0x1p-24f};
  float widest = 0, all_least[kMostByteTables];
  for (int64_t m = 0; m < M; ++m) {
    const auto [least, most] = range_of(tables + m * kScanEntries);
    if (!(-kLargest <= least && least <= most && most <= kLargest)) return false;
    all_least[m] = least;
    out.least += least;
    out.size += -least > most ? -least : most;
    if (most - least > widest) widest = most - least;
  }
  out.step = widest / kBytes;
  const Vec steps(out.step > 0x1p-100f ? kBytes / widest : 0.0f);
  for (int64_t m = 0; m < M; ++m) {
    const Vec least(all_least[m]);
    for (int64_t e = m * kScanEntries; e < (m + 1) * kScanEntries; e += kLanes) {
      const IntVec whole = to_int((load(tables + e) - least) * steps - Vec(0.5f));  // rounds down, or one further
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + e), _mm512_cvtepi32_epi8(whole.v));
    }
  }
  return true;
}

/// Sums of the bytes of 64 vectors, whose codes are two blocks: sums[8 l + i] is that of vector 16 l + i, sums[32 + 8 l
/// + i] that of vector 16 l + 8 + i, for l < 4 and i < 8.
QINCO_VBMI_TARGET inline void sum_bytes(const ByteTables& tables, const uint8_t* block, const uint8_t* next,
                                        uint16_t* sums) {
  __m512i all = _mm512_setzero_si512(), odd = all;
  const uint8_t* table = tables.bytes;
  for (int64_t m = 0; m < tables.M; ++m, table += kScanEntries, block += kScanBlock, next += kScanBlock) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(next));
    const __m512i ids = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), ids, _mm512_loadu_si512(table + 64));
    const __m512i high =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), ids, _mm512_loadu_si512(table + 192));
    const __m512i found = _mm512_mask_blend_epi8(_mm512_movepi8_mask(ids), low, high);
    all = _mm512_add_epi16(all, found);
    odd = _mm512_add_epi16(odd, _mm512_srli_epi16(found, 8));
  }
  const __m512i even = _mm512_sub_epi16(all, _mm512_slli_epi16(odd, 8));
  _mm512_storeu_si512(sums, _mm512_unpacklo_epi16(even, odd));
  _mm512_storeu_si512(sums + 32, _mm512_unpackhi_epi16(even, odd));
}

/// Which of the 64 vectors of a list from `begin` on may have a score of at most `limit`.
QINCO_VBMI_TARGET inline uint64_t not_above(const ByteTables& tables, const ScanList<float>& list, int64_t begin,
                                            float limit) {
  alignas(64) uint16_t sums[kScreened];
  const uint8_t* const block = list.codes + begin * tables.M;
  const int64_t left = list.n - begin;
  sum_bytes(tables, block, left > kScanBlock ? block + kScanBlock * tables.M : block, sums);
  const Vec base(list.bias + tables.least);
  const Vec most(limit + tables.rounding * (__builtin_fabsf(list.bias) + tables.size));
  uint64_t above = 0;
  for (int64_t j = 0; j < kScreened && j < left; j += kLanes) {
    const auto* const half = reinterpret_cast<const __m128i*>(sums + j / 2);
    const __m256i sixteen =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_load_si128(half)), _mm_load_si128(half + 4), 1);
    const Vec sum = to_float(IntVec(_mm512_cvtepu16_epi32(sixteen)));
    Vec bound = base;
    if (list.norms) {
      const float* const at = list.norms + begin + j;
      const Vec norm = left - j >= kLanes ? load(at) : load_partial(at, left - j);
      bound = base + fma(abs(norm), Vec(-tables.rounding), norm);  // so that it is finite where the score may be
    }
    bound = fma(sum, Vec(tables.step), bound);
    above |= static_cast<uint64_t>(bits_of(most < bound)) << j;
  }
  return _bzhi_u64(~above, static_cast<uint32_t>(smaller(left, kScreened)));
}

inline float score_of(int64_t M, const float* tables, const ScanList<float>& list, int64_t i) {
  float sum = list.bias;
  if (list.norms) sum += list.norms[i];
  for (int64_t m = 0; m < M; ++m) sum += tables[m * kScanEntries + list.codes[scan_place(i, m, M)]];
  return sum;
}

/// A list by bytes, and block by block by `scan_floats` until there are k scores to compare with, or where many are
/// left.
[[gnu::noinline]] QINCO_VBMI_TARGET inline void scan_list_by_bytes(const ByteTables& bytes, const float* tables,
                                                                   const ScanList<float>& list, ScanBlocks scan_floats,
                                                                   uint64_t* heap, int64_t k) {
  constexpr int kMostChosen = 12;  // of so many vectors by themselves; more are quicker by blocks
  for (int64_t begin = 0; begin < list.n; begin += kScreened) {
    const float limit = worst(heap);
    const bool full = limit < __builtin_inff();
    uint64_t chosen = full ? not_above(bytes, list, begin, limit) : 0;
    if (!full || __builtin_popcountll(chosen) > kMostChosen)
      scan_floats(bytes.M, tables, list, begin, smaller(list.n, begin + kScreened), heap, k);
    else
      for (; chosen != 0; chosen &= chosen - 1) {
        const int64_t i = begin + __builtin_ctzll(chosen);
        offer(score_of(bytes.M, tables, list, i), list.first + i, heap, k);  // NaN is infinity there: never entered
      }
  }
}

/// What the tables of one query take as bytes; 0 where there is no such scan.
inline int64_t byte_scan_size(int64_t M) {
  return has_vbmi() && M <= kMostByteTables ? M * kScanEntries : 0;
}

/// Enters the query's k best into the heap, by way of `bytes` [byte_scan_size(M)]; false, and nothing done, where its
/// tables cannot be rounded.
inline bool scan_by_bytes(int64_t M, const ScanQuery<float>& query, uint8_t* bytes, ScanBlocks scan_floats,
                          uint64_t* heap, int64_t k) {
  if (query.lists == 0) return true;
  ByteTables rounded;
  if (!round_tables(M, query.tables, bytes, rounded)) return false;
  for (int64_t l = 0; l < query.lists; ++l)
    scan_list_by_bytes(rounded, query.tables, query.list[l], scan_floats, heap, k);
  return true;
}

#else

inline int64_t byte_scan_size(int64_t) {
  return 0;
}

inline bool scan_by_bytes(int64_t, const ScanQuery<float>&, uint8_t*, ScanBlocks, uint64_t*, int64_t) {
  return false;
}

#endif

QINCO_CPU_NAMESPACE_END
