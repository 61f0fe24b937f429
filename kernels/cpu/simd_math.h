// exp, log, tanh and erf on vectors, for all arguments: denormals, zeros, infinities and NaN included.
//
// Polynomials are minimax fits of the relative error, rounded to float from the lowest coefficient up. The errors named
// below are the largest over every float argument, measured against double.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

// c0 + x (c1 + x (c2 + ...))
QINCO_INLINE Vec polynomial(Vec, float c) {
  return Vec(c);
}
template <class... Rest>
QINCO_INLINE Vec polynomial(Vec x, float c, Rest... rest) {
  return fma(polynomial(x, rest...), x, Vec(c));
}

// With n = round(x / ln 2) and r = x - n ln 2, |r| <= ln(2)/2: exp(x) = 2^n (1 + r + r^2 P(r)).
QINCO_INLINE Vec exp(Vec x) {
  x = max(Vec(-104.0f), min(Vec(89.0f), x));  // beyond: 0 and infinity; keeps NaN
  const Vec n = round(x * Vec(1.44269504f));
  const Vec r = fma(n, Vec(1.90465421e-9f), fma(n, Vec(-0.693147182f), x));
  const Vec p = polynomial(r, 0.49999994f, 0.166665211f, 0.0416682884f, 0.00836870354f, 0.00138189388f);
  return scale(Vec(1.0f) + fma(r * r, p, r), n);
}

// With x = 2^e (1 + f), 1 + f in [sqrt(1/2), sqrt(2)): log(x) = e ln 2 + f - f^2/2 + f^3 P(f).
QINCO_INLINE Vec log(Vec x) {
  const Mask tiny = x < Vec(1.17549435e-38f);
  const IntVec base(0x3f3504f3);  // sqrt(1/2)
  const IntVec bits = bit_cast_int(select(tiny, x * Vec(8388608.0f), x)) - base;
  const Vec e = to_float(shift_right<23>(bits)) - select(tiny, Vec(23.0f), Vec(0.0f));
  const Vec f = bit_cast_float((bits & IntVec(0x007fffff)) + base) - Vec(1.0f);
  const Vec square = f * f;
  const Vec p = polynomial(f, 0.333333135f, -0.250000089f, 0.200020716f, -0.166679904f, 0.142203629f, -0.124062076f,
                           0.118834704f, -0.116701923f, 0.0674955621f);
  Vec y = fma(e, Vec(-2.12194440e-4f), f * square * p);  // ln 2 in two parts, the first exact times any e
  y = f + fma(square, Vec(-0.5f), y);
  y = fma(e, Vec(0.693359375f), y);
  const Vec infinity(__builtin_inff());
  y = select(x < infinity, y, x);
  y = select(x == Vec(0.0f), -infinity, y);
  return select(x < Vec(0.0f), Vec(__builtin_nanf("")), y);
}

// A polynomial below 0.55; 1 - 2 / (exp(2|x|) + 1) above, where nothing cancels.
QINCO_INLINE Vec tanh(Vec x) {
  const Vec t = abs(x), square = x * x;
  const Vec p = polynomial(square, -0.333333164f, 0.133325458f, -0.0538478494f, 0.0210524723f, -0.00624599261f);
  const Vec small = fma(t * square, p, t);
  const Vec large = Vec(1.0f) - Vec(2.0f) / (exp(t + t) + Vec(1.0f));
  return copysign(select(t < Vec(0.55f), small, large), x);
}

// A polynomial below 0.9277; 1 - exp(-|x| Q(|x|)) above; 1 to the last bit from 4 on.
QINCO_INLINE Vec erf(Vec x) {
  const Vec t = min(Vec(4.0f), abs(x)), square = x * x;
  const Vec p = polynomial(square, 0.128379166f, -0.376126289f, 0.112836257f, -0.0268557295f, 0.00519239344f,
                           -0.000804954499f, 7.99528643e-05f);
  const Vec small = fma(x, p, x);
  const Vec q = polynomial(t, 1.12865138f, 0.635139585f, 0.106256269f, -0.0237787552f, 0.00365034654f, -0.000324742723f,
                           1.14249469e-05f);
  const Vec large = Vec(1.0f) - exp(-t * q);
  return select(t < Vec(0.9277f), small, copysign(large, x));
}

QINCO_CPU_NAMESPACE_END
