// The candidate search's bulk: the distances of many candidates with products in bfloat16.
//
// Candidates are the rows. A unit is 32 candidates of one vector; units go through the step together, a few at a time,
// so that each block of weights is fetched once for all of them. Only the operands of the products are rounded to
// bfloat16: tables, the residual stream z and all sums stay in float.
//
// The matrix unit and the vector unit work at the same time: what a block's sums need afterwards (add, relu, rounding,
// distance) is queued as a job and done in slices between the products of the blocks that follow.
#pragma once

#include "kernels/cpu/amx/tile.h"
#include "kernels/cpu/pack.h"

QINCO_CPU_NAMESPACE_BEGIN

// Work on 32 rows of 32 floats.
struct Job {
  enum Kind : uint8_t {
    begin,     // out = relu(source rows + add)
    hidden,    // out = relu(source block)
    stream,    // out = source block + add
    distance,  // sums += (add - source block)^2
  } kind;
  const float* source;  // begin: [32][32]; else a C block
  const float* add;     // [32]
  Bf16* out;            // a pair of A tiles
  float* sums;          // [32][16]
};

constexpr int kSlice = 4;  // rows done at a time
constexpr int kSlices = static_cast<int>(kBlock) / kSlice;

// Rows [row, row + kSlice) of a job.
template <Job::Kind kind>
QINCO_INLINE void do_rows(const Job& job, int row) {
  constexpr bool rows_together = kind == Job::begin;
  const float* p = job.source + (rows_together ? row * kBlock : row / 16 * 2 * kTileFloats + row % 16 * kLanes);
  constexpr int64_t step = rows_together ? kBlock : kLanes, other = rows_together ? kLanes : kTileFloats;
  Vec add[2];
  if constexpr (kind != Job::hidden) add[0] = load(job.add), add[1] = load(job.add + kLanes);
#pragma GCC unroll 4
  for (int i = 0; i < kSlice; ++i, p += step) {
    Vec low = load(p), high = load(p + other);
    if constexpr (kind == Job::distance) {
      low = add[0] - low;
      high = add[1] - high;
      float* const sum = job.sums + (row + i) * kLanes;
      store(sum, fma(high, high, fma(low, low, load(sum))));
    } else {
      if constexpr (kind != Job::hidden) low = low + add[0], high = high + add[1];
      __m512i rounded = to_bf16(low, high);
      if constexpr (kind != Job::stream) rounded = relu_bf16(rounded);
      _mm512_store_si512(job.out + (row + i) * kBlock, rounded);
    }
  }
}

// Jobs wait here in order until the slices between products have done them.
class Jobs {
 public:
  QINCO_INLINE void add(const Job& job) { waiting_[(first_ + count_++) % kMost] = job; }
  QINCO_INLINE int slices() const { return count_ * kSlices - row_ / kSlice; }
  QINCO_INLINE void do_slices(int count) {
    for (; count > 0 && count_ > 0; --count) {
      const Job& job = waiting_[first_];
      switch (job.kind) {
        case Job::begin:
          do_rows<Job::begin>(job, row_);
          break;
        case Job::hidden:
          do_rows<Job::hidden>(job, row_);
          break;
        case Job::stream:
          do_rows<Job::stream>(job, row_);
          break;
        case Job::distance:
          do_rows<Job::distance>(job, row_);
          break;
      }
      row_ += kSlice;
      if (row_ == kBlock) {
        row_ = 0;
        first_ = (first_ + 1) % kMost;
        --count_;
      }
    }
  }
  void finish() { do_slices(slices()); }

 private:
  static constexpr int kMost = 64;
  Job waiting_[kMost];
  int first_ = 0, count_ = 0, row_ = 0;
};

// out [blocks of C] = (start, or 0) + A B over `steps` inner steps, with the waiting jobs done meanwhile.
QINCO_INLINE void multiply_block(const Bf16* a, const Bf16* b, int64_t steps, const float* start, float* out,
                                 Jobs& jobs) {
  if (start)
    load_accumulators(start);
  else
    zero_accumulators();
  const int share = static_cast<int>((jobs.slices() + steps - 1) / steps);
  for (int64_t k = 0; k < steps; ++k) {
    multiply_step(a + k * kPairValues, b + k * kPairValues);
    jobs.do_slices(share);
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

// One unit: 32 candidates of one vector. Arrays are padded to whole blocks.
struct Unit {
  const float* a_table;  // [H][32 candidates][32]
  const float* z_table;  // [D] C blocks
  const float* up_row;   // [h]
  const float* row;      // [d]
  const float* target;   // [d]  target - row
  float* distances;      // [32]
};

// The weights of a step as B blocks, first parts only (pack.h): matrices down 1, up 2, down 2, .., down L.
struct ScreenWeights {
  int64_t D, H, L;  // blocks of d and of h
  const Bf16* w_down(int64_t l) const { return first + 2 * l * stride; }
  const Bf16* w_up(int64_t l) const { return w_down(l) - stride; }
  const Bf16* first;
  int64_t stride;  // values from one matrix to the next
};

constexpr int kMostUnits = 16;  // in a group

// Scratch of one group of `units`.
struct Screen {
  const ScreenWeights& w;
  int units;
  Bf16* hidden[2];  // [units][H] A blocks: of this group and of the next
  Bf16* z_rounded;  // [units][D]
  float* z;         // [units][D] C blocks
  float* block;     // a C block between its product and its job
  float* sums;      // [units][32][16]
  Jobs jobs;

  static int64_t floats(const ScreenWeights& w, int units) {
    return units * (w.H * kPairValues + w.D * kPairValues / 2 + w.D * kBlockFloats + kBlock * kLanes) + kBlockFloats;
  }

  Screen(const ScreenWeights& weights, int count, float* scratch) : w(weights), units(count) {
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
    block = take(kBlockFloats);
  }

  // Queues job number i, of count * H, that begins the units of a group.
  QINCO_INLINE void add_begin(const Unit* group, int64_t i, int side) {
    const int64_t u = i / w.H, j = i % w.H;
    jobs.add({Job::begin, group[u].a_table + j * kBlockFloats, group[u].up_row + j * kBlock,
              hidden[side] + i * kPairValues, nullptr});
  }

  void up(int64_t l, int count, int side) {
    for (int64_t j = 0; j < w.H; ++j) {
      for (int u = 0; u < count; ++u) {
        multiply_block(z_rounded + u * w.D * kPairValues, w.w_up(l) + j * w.D * kPairValues, w.D, nullptr, block, jobs);
        jobs.add({Job::hidden, block, nullptr, hidden[side] + (u * w.H + j) * kPairValues, nullptr});
      }
    }
  }

  void down(int64_t l, const Unit* group, int count, int side, const Unit* next, int next_count) {
    const bool last = l == w.L - 1;
    const int64_t blocks = w.D * count, begins = next_count * w.H;
    for (int64_t j = 0; j < w.D; ++j) {
      for (int u = 0; u < count; ++u) {
        float* const mine = z + (u * w.D + j) * kBlockFloats;
        float* const out = last ? block : mine;
        multiply_block(hidden[side] + u * w.H * kPairValues, w.w_down(l) + j * w.H * kPairValues, w.H,
                       l == 0 ? group[u].z_table + j * kBlockFloats : mine, out, jobs);
        if (last)
          jobs.add({Job::distance, out, group[u].target + j * kBlock, nullptr, sums + u * kBlock * kLanes});
        else
          jobs.add({Job::stream, out, group[u].row + j * kBlock, z_rounded + (u * w.D + j) * kPairValues, nullptr});
        const int64_t done = l * blocks + j * count + u, all = w.L * blocks;
        for (int64_t i = begins * done / all; i < begins * (done + 1) / all; ++i) add_begin(next, i, 1 - side);
      }
    }
  }

  // With one unit a block reads what the job before it makes.
  void between(int count) {
    if (count == 1) jobs.finish();
  }

  void run(const Unit* all, int64_t n) {
    const auto size = [&](int64_t first) { return static_cast<int>(n - first < units ? n - first : units); };
    for (int64_t i = 0; i < size(0) * w.H; ++i) {
      add_begin(all, i, 0);
      jobs.finish();
    }
    int side = 0;
    for (int64_t first = 0; first < n; first += units, side = 1 - side) {
      const Unit* const group = all + first;
      const int count = size(first);
      const int next = first + units < n ? size(first + units) : 0;
      for (int64_t i = 0; i < count * kBlock * kLanes; i += kLanes) store(sums + i, Vec(0.0f));
      for (int64_t l = 0; l < w.L; ++l) {
        if (l > 0) up(l, count, side);
        between(count);
        down(l, group, count, side, group + units, next);
        between(count);
      }
      jobs.finish();
      for (int u = 0; u < count; ++u) {
        for (int64_t i = 0; i < kBlock; i += 16)
          store(group[u].distances + i, row_sums(sums + (u * kBlock + i) * kLanes));
      }
    }
  }
};

QINCO_CPU_NAMESPACE_END
