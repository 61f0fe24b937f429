// The candidate search's bulk: the distances of many candidates with products in bfloat16 (screen_loop.h: their order).
//
// Only the operands of the products are rounded to bfloat16: tables, the residual stream z and all sums stay in float.
#pragma once

#include "kernels/cpu/amx/screen_loop.h"

QINCO_CPU_NAMESPACE_BEGIN

// Work on 32 rows of 32 floats.
struct Job {
  const float* source;  // begin: [32][32]; else a C block
  const float* add;     // [32]
  Bf16* out;            // a pair of A tiles
  float* sums;          // [32][16]
};

// Rows [row, row + kSlice) of a job.
template <JobKind kind>
QINCO_INLINE void do_slice(const Job& job, int row) {
  constexpr bool rows_together = kind == JobKind::begin;
  const float* p = job.source + (rows_together ? row * kBlock : row / 16 * 2 * kTileFloats + row % 16 * kLanes);
  constexpr int64_t step = rows_together ? kBlock : kLanes, other = rows_together ? kLanes : kTileFloats;
  Vec add[2];
  if constexpr (kind != JobKind::hidden) add[0] = load(job.add), add[1] = load(job.add + kLanes);
#pragma GCC unroll 4
  for (int i = 0; i < kSlice; ++i, p += step) {
    Vec low = load(p), high = load(p + other);
    if constexpr (kind == JobKind::distance) {
      low = add[0] - low;
      high = add[1] - high;
      float* const sum = job.sums + (row + i) * kLanes;
      store(sum, fma(high, high, fma(low, low, load(sum))));
    } else {
      if constexpr (kind != JobKind::hidden) low = low + add[0], high = high + add[1];
      __m512i rounded = to_bf16(low, high);
      if constexpr (kind != JobKind::stream) rounded = relu_bf16(rounded);
      _mm512_store_si512(job.out + (row + i) * kBlock, rounded);
    }
  }
}

template <JobKind kind>
QINCO_INLINE void do_job(const Job& job) {
  for (int row = 0; row < kBlock; row += kSlice) do_slice<kind>(job, row);
}

// A slice of the beginning: hidden = relu(a_table + up_row).
struct BeginRounded {
  using Operand = Bf16;
  static constexpr int64_t kPair = kPairValues;

  QINCO_INLINE void operator()(const Unit& unit, int, int64_t block, int row, Bf16* out) const {
    do_slice<JobKind::begin>({unit.a_table + block * kBlockFloats, unit.up_row + block * kBlock, out, nullptr}, row);
  }
};

// out [a C block] = (start, or 0) + A B over `steps` inner steps; meanwhile the job is done, and `share` slices of
// `begins` in each step.
template <JobKind kind>
QINCO_INLINE void multiply_block(const Bf16* a, const Bf16* b, int64_t steps, const float* start, float* out,
                                 const Job& job, Begins<BeginRounded>& begins, int64_t share) {
  if (start)
    load_accumulators(start);
  else
    zero_accumulators();
  int row = 0;
  const int rows = static_cast<int>((kSlices + steps - 1) / steps) * kSlice;
  for (int64_t k = 0; k < steps; ++k) {
    multiply_step(a + k * kPairValues, b + k * kPairValues);
    if constexpr (kind != JobKind::none)
      for (const int end = row + rows; row < end && row < kBlock; row += kSlice) do_slice<kind>(job, row);
    begins.do_slices(share);
  }
  store_accumulators(out);
}

// The weights of a step as B blocks, first parts only (pack.h): matrices down 1, up 2, down 2, .., down L.
struct ScreenWeights {
  int64_t D, H, L;  // blocks of d and of h
  const Bf16* w_down(int64_t l) const { return first + 2 * l * stride; }
  const Bf16* w_up(int64_t l) const { return w_down(l) - stride; }
  const Bf16* first;
  int64_t stride;  // values from one matrix to the next
};

// The search of a group of units at a time, and its scratch.
class Screen : public ScreenLoop<Screen, BeginRounded> {
 public:
  static int64_t floats(const ScreenWeights& w, int units) {
    return units * (w.H * kPairValues + w.D * kPairValues / 2 + w.D * kBlockFloats + kBlock * kLanes) +
           2 * kBlockFloats;
  }

  Screen(const ScreenWeights& weights, int group_units, float* scratch)
      : ScreenLoop(weights.L, group_units), w(weights) {
    const auto take = [&scratch](int64_t n) {
      float* const p = scratch;
      scratch += n;
      return p;
    };
    hidden[0] = reinterpret_cast<Bf16*>(take(units * w.H * kPairValues / 2));
    hidden[1] = reinterpret_cast<Bf16*>(take(units * w.H * kPairValues / 2));
    z_rounded = reinterpret_cast<Bf16*>(take(units * w.D * kPairValues / 2));
    z = take(units * w.D * kBlockFloats);
    sums = take(units * kBlock * kLanes);
    block[0] = take(kBlockFloats);
    block[1] = take(kBlockFloats);
  }

  // --- what ScreenLoop asks for
  Begins<BeginRounded> begins_of(const Unit* first, int n, int64_t which) const {
    return {BeginRounded(), first, n, w.H, hidden[which]};
  }
  int64_t down_steps() const { return w.L * w.D * w.H; }

  // current = relu(W_up,l z_rounded)
  void up(int64_t l) {
    Job job{};
    for (int64_t j = 0; j < w.H; ++j) {
      for (int u = 0; u < count; ++u) {
        const bool first = j == 0 && u == 0;
        float* const out = block[(j * count + u) % 2];
        const Bf16* const a = z_rounded + u * w.D * kPairValues;
        const Bf16* const b = w.w_up(l) + j * w.D * kPairValues;
        if (first)
          multiply_block<JobKind::none>(a, b, w.D, nullptr, out, job, begins, 0);
        else
          multiply_block<JobKind::hidden>(a, b, w.D, nullptr, out, job, begins, 0);
        job = {out, nullptr, current + (u * w.H + j) * kPairValues, nullptr};
      }
    }
    do_job<JobKind::hidden>(job);
  }

  // z += W_down,l current, and then what `kind` makes of z.
  template <JobKind kind>
  void down(int64_t l) {
    Job job{};
    for (int64_t j = 0; j < w.D; ++j) {
      for (int u = 0; u < count; ++u) {
        const bool first = j == 0 && u == 0;
        float* const mine = z + (u * w.D + j) * kBlockFloats;
        float* const out = kind == JobKind::distance ? block[(j * count + u) % 2] : mine;
        const float* const start = l == 0 ? group[u].z_table + j * kBlockFloats : mine;
        const Bf16* const a = current + u * w.H * kPairValues;
        const Bf16* const b = w.w_down(l) + j * w.H * kPairValues;
        if (first)
          multiply_block<JobKind::none>(a, b, w.H, start, out, job, begins, share);
        else
          multiply_block<kind>(a, b, w.H, start, out, job, begins, share);
        job = {out, (kind == JobKind::distance ? group[u].target : group[u].row) + j * kBlock,
               z_rounded + (u * w.D + j) * kPairValues, sums + u * kBlock * kLanes};
      }
    }
    do_job<kind>(job);
  }

  void finish(int u) const {
    for (int64_t i = 0; i < kBlock; i += 16) store(group[u].distances + i, row_sums(sums + (u * kBlock + i) * kLanes));
  }

 private:
  const ScreenWeights& w;
  Bf16* z_rounded;  // [units][D]
  float* z;         // [units][D] C blocks
  float* block[2];  // C blocks between their product and their job
};

QINCO_CPU_NAMESPACE_END
