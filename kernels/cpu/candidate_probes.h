// How a screen's error is measured when a step is packed: by probes (candidate_margin.h).
#pragma once

#include "kernels/candidate_margin.h"
#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

// Probe number i's inputs, row [d] and up_row [h].
inline void make_probe(const CandidateStep<float>& s, int64_t i, float* row, float* up_row) {
  const margin::Probe probe = margin::probe(i, s.K);
  const float* const a = s.z_table + probe.first * s.d;
  const float* const b = s.z_table + probe.second * s.d;
  for (int64_t j = 0; j < s.d; ++j) row[j] = probe.scale * (a[j] - b[(j + probe.shift) % s.d]);
  for (int64_t j = 0; j < s.h; ++j) {
    Vec sum(0.0f);
    const float* const w = s.w_up[0] + j * s.d;
    for_lanes(0, s.d, [&](int64_t c, auto lanes) { sum = fma(lanes.get(w + c), lanes.get(row + c), sum); });
    up_row[j] = horizontal_sum(sum);
  }
}

// The larger of `largest` and a probe's error / (||(a_k, z_k)|| + ||(u, r)||); NaN counts as infinite.
inline float larger_error(float largest, float error, float size) {
  if (size == 0) return largest;
  const float ratio = error / size;
  if (ratio <= largest) return largest;
  return ratio < __builtin_inff() ? ratio : __builtin_inff();
}

// The bound of a step: measure(first, memory [floats]) gives the largest error of the probes [first, first + together).
template <int64_t together, class Measure>
float measure_bound(const Context& context, int64_t floats, const Measure& measure) {
  static_assert(margin::kProbes % together == 0);
  float largest[margin::kProbes / together];
  ScratchFrame frame(context);
  float* const memory = frame.get<float>(context.threads * floats);
  parallel_for(context, margin::kProbes, together, [&](int64_t begin, int64_t, int worker) {
    largest[begin / together] = measure(begin, memory + worker * floats);
  });
  float bound = 0;
  for (const float x : largest) bound = x > bound ? x : bound;
  return margin::kSafety * bound;
}

QINCO_CPU_NAMESPACE_END
