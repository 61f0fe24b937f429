// To and from the 16-bit floats: eight at a time, on every ISA, which is as fast as memory takes them. The bits are
// those of half.h, which the processor's own conversions give but for NaN.
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kEight = 8;

QINCO_INLINE __m256 is_nan(__m256 x) {
  return _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
}

QINCO_INLINE __m256 read_eight(const float* p) {
  return _mm256_loadu_ps(p);
}
QINCO_INLINE __m128i read_eight(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
QINCO_INLINE void write_eight(float* p, __m256 x) {
  _mm256_storeu_ps(p, x);
}
QINCO_INLINE void write_eight(uint16_t* p, __m128i x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x);
}

/// y[i] = value(x[i]), eight at a time; at the end, of a copy.
template <class From, class To, class Value>
QINCO_INLINE void by_eight(const Context& context, int64_t n, const From* x, To* y, Value value) {
  parallel_for(context, n, kElementGrain, [&](int64_t begin, int64_t end, int) {
    const From* const from = x;  // what the body captures, a store of a vector might change
    To* const to = y;
    int64_t i = begin;
    for (; i + 2 * kEight <= end; i += 2 * kEight) {
      const auto first = read_eight(from + i), second = read_eight(from + i + kEight);
      write_eight(to + i, value(first));
      write_eight(to + i + kEight, value(second));
    }
    for (; i + kEight <= end; i += kEight) write_eight(to + i, value(read_eight(from + i)));
    if (i == end) return;
    From in[kEight] = {};
    To out[kEight];
    for (int64_t j = 0; i + j < end; ++j) in[j] = from[i + j];
    write_eight(out, value(read_eight(in)));
    for (int64_t j = 0; i + j < end; ++j) to[i + j] = out[j];
  });
}

void to_f16(const Context& context, int64_t n, const float* x, uint16_t* y) {
  by_eight(context, n, x, y, [](__m256 value) {
    // The processor keeps bits of a NaN; half.h keeps its sign.
    const __m256 sign = _mm256_and_ps(value, _mm256_set1_ps(-0.0f));
    const __m256 plain = _mm256_or_ps(sign, _mm256_set1_ps(__builtin_nanf("")));
    return _mm256_cvtps_ph(_mm256_blendv_ps(value, plain, is_nan(value)), _MM_FROUND_TO_NEAREST_INT);
  });
}

void from_f16(const Context& context, int64_t n, const uint16_t* x, float* y) {
  by_eight(context, n, x, y, [](__m128i bits) {
    const __m256 value = _mm256_cvtph_ps(bits);
    // The processor sets the first bit of a NaN's fraction; half.h leaves it as it is.
    const __m256i as_it_is = _mm256_or_si256(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 13),
                                             _mm256_set1_epi32(static_cast<int32_t>(~(1u << 22))));
    return _mm256_blendv_ps(value, _mm256_and_ps(value, _mm256_castsi256_ps(as_it_is)), is_nan(value));
  });
}

void to_bf16(const Context& context, int64_t n, const float* x, uint16_t* y) {
  by_eight(context, n, x, y, [](__m256 value) {
    const __m256i bits = _mm256_castps_si256(value), cut = _mm256_srli_epi32(bits, 16);
    const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(cut, _mm256_set1_epi32(1)));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quiet = _mm256_or_si256(cut, _mm256_set1_epi32(0x40));
    const __m256i all = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan(value)));
    return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  });
}

void from_bf16(const Context& context, int64_t n, const uint16_t* x, float* y) {
  by_eight(context, n, x, y,
           [](__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_convert(Table<float>& t) {
  t.to_f16 = to_f16;
  t.from_f16 = from_f16;
  t.to_bf16 = to_bf16;
  t.from_bf16 = from_bf16;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
