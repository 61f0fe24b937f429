// Random numbers, those of the reference bit for bit: two groups of four blocks of Philox side by side, a word of a
// group in the halves of 64-bit lanes that products read. Four lanes on every ISA: it is the definition's double
// precision that takes the time, and few are drawn. What is left over after the last whole step, the reference draws.
//
// Compiled without fused products (CMakeLists.txt), but for those that are written.
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"
#include "kernels/philox.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int kGroups = 2;
constexpr int64_t kGroupBlocks = 4, kStepBlocks = kGroups * kGroupBlocks;  // blocks
constexpr int64_t kBlockValues = 4, kGroupValues = kGroupBlocks * kBlockValues;

/// Word i of four blocks is in the low halves of word[i]'s lanes; the high ones hold anything.
struct Group {
  __m256i word[4];
};

QINCO_INLINE __m256i broadcast(uint64_t x) {
  return _mm256_set1_epi64x(static_cast<int64_t>(x));
}

/// The blocks `index`, index + 1, ... of a stream.
QINCO_INLINE void blocks_from(const RandomState& state, uint64_t index, Group (&groups)[kGroups]) {
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; ++g) {
    const __m256i first = broadcast(index + static_cast<uint64_t>(g * kGroupBlocks));
    const __m256i at = _mm256_add_epi64(first, _mm256_setr_epi64x(0, 1, 2, 3));
    groups[g] = {{at, _mm256_srli_epi64(at, 32), broadcast(state.stream), broadcast(state.stream >> 32)}};
  }
  const __m256i multiplier0 = broadcast(philox::kMultiplier0), multiplier1 = broadcast(philox::kMultiplier1);
  __m256i key0 = broadcast(state.seed), key1 = broadcast(state.seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; ++g) {
      __m256i(&word)[4] = groups[g].word;
      const __m256i p0 = _mm256_mul_epu32(multiplier0, word[0]), p1 = _mm256_mul_epu32(multiplier1, word[2]);
      word[0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), word[1]), key0);
      word[2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), word[3]), key1);
      word[1] = p1;
      word[3] = p0;
    }
    key0 = _mm256_add_epi32(key0, broadcast(philox::kKeyStep0));
    key1 = _mm256_add_epi32(key1, broadcast(philox::kKeyStep1));
  }
}

/// `part(first value, its block's index, group)` for every group of the first n values, and rest(state, count, y) for
/// those that fill no step.
template <class Part, class Rest>
QINCO_INLINE void by_group(const Context& context, const RandomState& state, int64_t n, float* y, Part part,
                           Rest rest) {
  static_assert(kElementGrain / kBlockValues % kStepBlocks == 0);  // a thread has whole steps
  const int64_t blocks = n / (kStepBlocks * kBlockValues) * kStepBlocks;
  parallel_for(context, blocks, kElementGrain / kBlockValues, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; b += kStepBlocks) {
      Group groups[kGroups];
      const uint64_t index = state.position + static_cast<uint64_t>(b);
      blocks_from(state, index, groups);
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; ++g)
        part(y + b * kBlockValues + g * kGroupValues, index + static_cast<uint64_t>(g * kGroupBlocks), groups[g]);
    }
  });
  RandomState later = state;
  later.position += static_cast<uint64_t>(blocks);
  rest(later, n - blocks * kBlockValues, y + blocks * kBlockValues);
}

// --- values in [0,1)

/// value(eight units) for the 16 values of a group, in order.
template <class Value>
QINCO_INLINE void store_units(float* y, const Group& group, Value value) {
  const __m256i a = _mm256_blend_epi32(group.word[0], _mm256_slli_epi64(group.word[1], 32), 0xaa);
  const __m256i b = _mm256_blend_epi32(group.word[2], _mm256_slli_epi64(group.word[3], 32), 0xaa);
  const __m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);  // blocks 0 and 2, 1 and 3
  const auto unit = [](__m256i bits) {
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(bits, 8)), _mm256_set1_ps(0x1p-24f));
  };
  _mm256_storeu_ps(y, value(unit(_mm256_permute2x128_si256(even, odd, 0x20))));
  _mm256_storeu_ps(y + 8, value(unit(_mm256_permute2x128_si256(even, odd, 0x31))));
}

void uniform(const Context& context, const RandomState& state, int64_t n, double lo, double hi, float* y) {
  const float low = static_cast<float>(lo), below_hi = __builtin_nextafterf(static_cast<float>(hi), low);
  const __m256 base = _mm256_set1_ps(low), width = _mm256_set1_ps(static_cast<float>(hi - lo));
  const __m256 top = _mm256_set1_ps(low < below_hi ? below_hi : low);
  by_group(
      context, state, n, y,
      [&](float* to, uint64_t, const Group& group) {
        store_units(to, group, [&](__m256 u) {
          return _mm256_min_ps(top, _mm256_add_ps(base, _mm256_mul_ps(width, u)));  // NaN stays NaN
        });
      },
      [&](const RandomState& later, int64_t count, float* to) {
        table<float>(Isa::reference).uniform(context, later, count, lo, hi, to);
      });
}

void dropout_mask(const Context& context, const RandomState& state, int64_t n, double p, float* y) {
  const __m256 limit = _mm256_set1_ps(static_cast<float>(p)), kept = _mm256_set1_ps(static_cast<float>(1 / (1 - p)));
  by_group(
      context, state, n, y,
      [&](float* to, uint64_t, const Group& group) {
        store_units(to, group, [&](__m256 u) { return _mm256_andnot_ps(_mm256_cmp_ps(u, limit, _CMP_LT_OQ), kept); });
      },
      [&](const RandomState& later, int64_t count, float* to) {
        table<float>(Isa::reference).dropout_mask(context, later, count, p, to);
      });
}

// --- normal values: the reference's formula with quicker functions, whose error is known. A block of which a value is
// so near to the middle between two floats that the error may show in it is drawn again, by the reference.

/// The error of a value as a part of |radius| + |mean|, with room for ten times it and for that of a C library.
constexpr double kNormalError = 0x1p-44;

QINCO_INLINE __m256d pd(double x) {
  return _mm256_set1_pd(x);
}

template <int kTerms>
QINCO_INLINE __m256d polynomial_of(__m256d x, const double (&terms)[kTerms]) {
  __m256d sum = pd(terms[kTerms - 1]);
#pragma GCC unroll 8
  for (int i = kTerms - 2; i >= 0; --i) sum = _mm256_fmadd_pd(sum, x, pd(terms[i]));
  return sum;
}

/// 2^24 times the units of a word of four blocks: the 24 bits set into the fraction of 2^52.
QINCO_INLINE __m256d units_by_2_24(__m256i word) {
  const __m256i bits = _mm256_and_si256(_mm256_srli_epi64(word, 8), broadcast(0xffffff));
  return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(bits, broadcast(0x4330000000000000))), pd(0x1p52));
}

/// log(v) for v in [2^-24,1]. With v = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)), and s = f / (2 + f):
/// e ln 2 + 2 atanh(s). The relative error is at most 2^-49.9, for all of the 2^24 values.
QINCO_INLINE __m256d log_of_unit(__m256d v) {
  constexpr double kTerms[] = {0.6666666666666208,  0.40000000011206505, 0.2857142413832416,
                               0.22222862280108716, 0.18140193802865992, 0.16621817152858928};
  const __m256i base = broadcast(0x3fe6a09e667f3bcd);  // sqrt(1/2)
  const __m256i bits = _mm256_sub_epi64(_mm256_castpd_si256(v), base);
  // The exponent is at least -24: 64 more is positive, and, set into the fraction of 2^52, a number.
  const __m256i biased = _mm256_srli_epi64(_mm256_add_epi64(bits, broadcast(uint64_t{64} << 52)), 52);
  const __m256d e =
      _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(biased, broadcast(0x4330000000000000))), pd(0x1p52 + 64));
  const __m256i fraction = _mm256_add_epi64(_mm256_and_si256(bits, broadcast((uint64_t{1} << 52) - 1)), base);
  const __m256d f = _mm256_sub_pd(_mm256_castsi256_pd(fraction), pd(1));
  const __m256d s = _mm256_div_pd(f, _mm256_add_pd(f, pd(2))), square = _mm256_mul_pd(s, s);
  const __m256d p = polynomial_of(square, kTerms);
  return _mm256_fmadd_pd(e, pd(0.6931471805599453), _mm256_mul_pd(s, _mm256_fmadd_pd(square, p, pd(2))));
}

/// The cosine and the sine of `quarters` quarter turns in [0,4], with an error of at most 2^-48.0 for all multiples of
/// 2^-22.
QINCO_INLINE void cosine_and_sine(__m256d quarters, __m256d& cosine, __m256d& sine) {
  constexpr double kSine[] = {1.57079632679489,      -0.645964097504309,     0.07969262615574603,
                              -0.004681752591458209, 0.00016042926504495616, -3.556386260704784e-06};
  constexpr double kCosine[] = {1.0,
                                -1.2337005501361513,
                                0.25366950789986475,
                                -0.02086348073494657,
                                0.000919259950041661,
                                -2.520013526428479e-05,
                                4.6552961874867623e-07};
  const __m256d shifted = _mm256_add_pd(quarters, pd(0x1.8p52));  // rounds to whole ones, which are its last bits
  const __m256i turns = _mm256_castpd_si256(shifted);
  const __m256d r = _mm256_sub_pd(quarters, _mm256_sub_pd(shifted, pd(0x1.8p52)));
  const __m256d square = _mm256_mul_pd(r, r);
  const __m256d s = _mm256_mul_pd(r, polynomial_of(square, kSine)), c = polynomial_of(square, kCosine);
  const __m256d odd = _mm256_castsi256_pd(_mm256_slli_epi64(turns, 63));
  const auto sign = [](__m256i bit1) {
    return _mm256_and_pd(_mm256_castsi256_pd(_mm256_slli_epi64(bit1, 62)), pd(-0.0));
  };
  cosine = _mm256_xor_pd(_mm256_blendv_pd(c, s, odd), sign(_mm256_add_epi64(turns, broadcast(1))));
  sine = _mm256_xor_pd(_mm256_blendv_pd(s, c, odd), sign(turns));
}

struct Normal {
  double mean, stddev;

  /// Box-Muller on a pair of words of four blocks. False in lanes of `sure` whose values the error may have changed;
  /// zeros are among them, for their signs.
  QINCO_INLINE void pair(__m256i word0, __m256i word1, __m128& first, __m128& second, __m128& sure) const {
    const __m256d rest = _mm256_fnmadd_pd(units_by_2_24(word0), pd(0x1p-24), pd(1));
    const __m256d root = _mm256_sqrt_pd(_mm256_mul_pd(pd(-2), log_of_unit(rest)));
    const __m256d radius = _mm256_mul_pd(pd(stddev), root);
    const __m256d error =
        _mm256_fmadd_pd(root, pd(kNormalError * __builtin_fabs(stddev)), pd(kNormalError * __builtin_fabs(mean)));
    __m256d cosine, sine;
    cosine_and_sine(_mm256_mul_pd(units_by_2_24(word1), pd(0x1p-22)), cosine, sine);
    const auto rounded = [&](__m256d factor) {
      const __m256d value = _mm256_fmadd_pd(radius, factor, pd(mean));
      const __m128 low = _mm256_cvtpd_ps(_mm256_sub_pd(value, error));
      const __m128 high = _mm256_cvtpd_ps(_mm256_add_pd(value, error));
      const __m128 same = _mm_and_ps(_mm_cmpeq_ps(low, high), _mm_cmpneq_ps(low, _mm_setzero_ps()));
      sure = _mm_and_ps(sure, same);
      return low;
    };
    first = rounded(cosine);
    second = rounded(sine);
  }
};

void normal(const Context& context, const RandomState& state, int64_t n, double mean, double stddev, float* y) {
  const auto by_reference = [&](const RandomState& at, int64_t count, float* to) {
    table<float>(Isa::reference).normal(context, at, count, mean, stddev, to);
  };
  const Normal box_muller{mean, stddev};
  by_group(
      context, state, n, y,
      [&](float* to, uint64_t index, const Group& group) {
        __m128 value[4], sure = _mm_castsi128_ps(_mm_set1_epi32(-1));
        box_muller.pair(group.word[0], group.word[1], value[0], value[1], sure);
        box_muller.pair(group.word[2], group.word[3], value[2], value[3], sure);
        _MM_TRANSPOSE4_PS(value[0], value[1], value[2], value[3]);
        for (int b = 0; b < kGroupBlocks; ++b) _mm_storeu_ps(to + b * kBlockValues, value[b]);
        const int blocks_sure = _mm_movemask_ps(sure);
        if (blocks_sure == 0xf) return;
        for (int b = 0; b < kGroupBlocks; ++b)
          if (!(blocks_sure >> b & 1))
            by_reference({state.seed, state.stream, index + static_cast<uint64_t>(b)}, kBlockValues,
                         to + b * kBlockValues);
      },
      by_reference);
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_random(Table<float>& t) {
  t.uniform = uniform;
  t.dropout_mask = dropout_mask;
  t.normal = normal;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
