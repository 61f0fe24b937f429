// The probes by which a screen's error is measured when a step is packed (candidate_margin.h).
#pragma once

#include "kernels/candidate_margin.h"
#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"

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

QINCO_CPU_NAMESPACE_END
