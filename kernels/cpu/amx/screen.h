// The candidate search's bulk: the distances of many candidates with products in bfloat16.
//
// Candidates are the rows. A unit is 32 candidates of one vector; units go through the step together, a few at a time,
// so that each block of weights is fetched once for all of them. Only the operands of the products are rounded to
// bfloat16: tables, the residual stream z and all sums stay in float.
//
// The matrix unit and the vector unit work at the same time: what a block's sums need afterwards (add, relu, rounding,
// distance) is a job, done in slices between the products of the next block; so is the beginning of the next group.
#pragma once

#include "kernels/cpu/amx/tile.h"
#include "kernels/cpu/pack.h"

QINCO_CPU_NAMESPACE_BEGIN

// Work on 32 rows of 32 floats.
enum class JobKind : uint8_t {
  none,
  begin,     // out = relu(source rows + add)
  hidden,    // out = relu(source block)
  stream,    // out = source block + add
  distance,  // sums += (add - source block)^2
};

struct Job {
  const float* source;  // begin: [32][32]; else a C block
  const float* add;     // [32]
  Bf16* out;            // a pair of A tiles
  float* sums;          // [32][16]
};

constexpr int kSlice = 4;  // rows done at a time
constexpr int kSlices = static_cast<int>(kBlock) / kSlice;

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

// One unit: 32 candidates of one vector. Arrays are padded to whole blocks.
struct Unit {
  const float* a_table;  // [H][32 candidates][32]
  const float* z_table;  // [D] C blocks
  const float* up_row;   // [h]
  const float* row;      // [d]
  const float* target;   // [d]  target - row
  float* distances;      // [32]
};

// The begin jobs of a group's units, one slice after the other.
class Begins {
 public:
  Begins() = default;
  Begins(const Unit* group, int count, int64_t H, Bf16* out)
      : unit_(group), H_(H), left_(count * H * kSlices), out_(out) {}

  int64_t slices() const { return left_; }
  QINCO_INLINE void do_slices(int64_t count) {
    for (; count > 0 && left_ > 0; --count, --left_) {
      do_slice<JobKind::begin>({unit_->a_table + block_ * kBlockFloats, unit_->up_row + block_ * kBlock, out_, nullptr},
                               row_);
      row_ += kSlice;
      if (row_ < kBlock) continue;
      row_ = 0;
      out_ += kPairValues;
      if (++block_ == H_) block_ = 0, ++unit_;
    }
  }

 private:
  const Unit* unit_ = nullptr;
  int64_t H_ = 0, block_ = 0, left_ = 0;
  int row_ = 0;
  Bf16* out_ = nullptr;
};

// out [a C block] = (start, or 0) + A B over `steps` inner steps; meanwhile the job is done, and `share` slices of
// `begins` in each step.
template <JobKind kind>
QINCO_INLINE void multiply_block(const Bf16* a, const Bf16* b, int64_t steps, const float* start, float* out,
                                 const Job& job, Begins& begins, int64_t share) {
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

// sums[r] for 16 rows of 16 lanes: one lane each, added in a fixed order.
QINCO_INLINE Vec row_sums(const float* rows) {
  Vec x[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = load(rows + i * kLanes);
  transpose(x);
#pragma GCC unroll 4
  for (int half = 8; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) x[i] = x[i] + x[i + half];
  return x[0];
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
class Screen {
 public:
  static int64_t floats(const ScreenWeights& w, int units) {
    return units * (w.H * kPairValues + w.D * kPairValues / 2 + w.D * kBlockFloats + kBlock * kLanes) +
           2 * kBlockFloats;
  }

  Screen(const ScreenWeights& weights, int group_units, float* scratch) : w(weights), units(group_units) {
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

  // The distances of all units.
  void run(const Unit* all, int64_t n) {
    const auto size = [&](int64_t first) { return static_cast<int>(n - first < units ? n - first : units); };
    begins = Begins(all, size(0), w.H, hidden[0]);
    for (int64_t first = 0, side = 0; first < n; first += units, side = 1 - side) {
      begins.do_slices(begins.slices());  // what the group before had no time for
      group = all + first;
      count = size(first);
      current = hidden[side];
      const int next = first + units < n ? size(first + units) : 0;
      begins = Begins(all + first + units, next, w.H, hidden[1 - side]);
      const int64_t down_steps = w.L * w.D * count * w.H;
      share = (begins.slices() + down_steps - 1) / down_steps;
      for (int64_t i = 0; i < count * kBlock * kLanes; i += kLanes) store(sums + i, Vec(0.0f));
      for (int64_t l = 0; l < w.L; ++l) {
        if (l > 0) up(l);
        if (l < w.L - 1)
          down<JobKind::stream>(l);
        else
          down<JobKind::distance>(l);
      }
      for (int u = 0; u < count; ++u)
        for (int64_t i = 0; i < kBlock; i += 16)
          store(group[u].distances + i, row_sums(sums + (u * kBlock + i) * kLanes));
    }
  }

 private:
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

  const ScreenWeights& w;
  int units;
  Bf16* hidden[2];  // [units][H] A blocks: of this group and of the next
  Bf16* z_rounded;  // [units][D]
  float* z;         // [units][D] C blocks
  float* block[2];  // C blocks between their product and their job
  float* sums;      // [units][32][16]

  // of the group at hand
  const Unit* group = nullptr;
  int count = 0;
  Bf16* current = nullptr;
  Begins begins;      // of the next group,
  int64_t share = 0;  // so many slices in each step of a down product
};

QINCO_CPU_NAMESPACE_END
