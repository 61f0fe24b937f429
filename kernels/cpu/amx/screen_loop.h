// What the screens on the matrix unit share: their units, and the order in which groups of them go through a step.
//
// Candidates are the rows. A unit is 32 candidates of one vector; units go through the step together, a few at a time,
// so that each block of weights is fetched once for all of them.
//
// The matrix unit and the vector unit work at the same time: what a block's sums need afterwards (add, relu, rounding,
// distance) is a job, done in slices between the products of the next block; so is the beginning of the next group.
#pragma once

#include "kernels/cpu/amx/tile.h"
#include "kernels/cpu/pack.h"

QINCO_CPU_NAMESPACE_BEGIN

// Work on 32 rows of a block's columns.
enum class JobKind : uint8_t {
  none,
  begin,     // operand = relu(source rows + add)
  hidden,    // operand = relu(sums)
  stream,    // operand = z + add
  distance,  // distance += (add - z)^2
};

constexpr int kSlice = 4;  // rows done at a time
constexpr int kSlices = static_cast<int>(kBlock) / kSlice;

// One unit: 32 candidates of one vector. Arrays are padded to whole blocks.
struct Unit {
  const float* a_table;  // [H][32 candidates][32]
  const float* z_table;  // [D] C blocks
  const float* up_row;   // [h]
  const float* row;      // [d]
  const float* target;   // [d]  target - row
  float* distances;      // [32]
  // For the byte screen alone:
  float size = 0, inverse = 0;    // ||(a_k, z_k)|| of the largest candidate + ||(u, r)||, or NaN, and 1 / size, or 0
  const float* doubts = nullptr;  // [32] NaN for candidates that are not finite, else 0
};

// The begin jobs of a group's units, one slice after the other. `Begin` does one:
//   (const Unit&, int number, int64_t block, int row, Operand* out), out being the operand's pair of tiles
template <class Begin>
class Begins {
 public:
  using Operand = typename Begin::Operand;

  Begins() = default;
  Begins(const Begin& begin, const Unit* group, int count, int64_t blocks, Operand* out)
      : begin_(begin), unit_(group), blocks_(blocks), left_(count * blocks * kSlices), out_(out) {}

  int64_t slices() const { return left_; }
  QINCO_INLINE void do_slices(int64_t count) {
    for (; count > 0 && left_ > 0; --count, --left_) {
      begin_(*unit_, number_, block_, row_, out_);
      row_ += kSlice;
      if (row_ < kBlock) continue;
      row_ = 0;
      out_ += Begin::kPair;
      if (++block_ == blocks_) block_ = 0, ++unit_, ++number_;
    }
  }

 private:
  Begin begin_;
  const Unit* unit_ = nullptr;
  int64_t blocks_ = 0, block_ = 0, left_ = 0;
  int row_ = 0, number_ = 0;
  Operand* out_ = nullptr;
};

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

// The search of a group of units at a time. `Version` has
//   Begins<Begin> begins_of(const Unit* group, int count, int64_t side)   into hidden[side]
//   int64_t down_steps()                             inner steps of a unit's down products, all layers
//   void up(int64_t l), void down<JobKind>(int64_t l)
//   void finish(int u)                               a unit's distances, once their sums are complete
template <class Version, class Begin>
class ScreenLoop {
 public:
  // The distances of all units.
  void run(const Unit* all, int64_t n) {
    Version& version = static_cast<Version&>(*this);
    const auto size = [&](int64_t first) { return static_cast<int>(n - first < units ? n - first : units); };
    begins = version.begins_of(all, size(0), 0);
    side = 0;
    for (int64_t first = 0; first < n; first += units, side = 1 - side) {
      begins.do_slices(begins.slices());  // what the group before had no time for
      group = all + first;
      count = size(first);
      current = hidden[side];
      const int next = first + units < n ? size(first + units) : 0;
      begins = version.begins_of(all + first + units, next, 1 - side);
      const int64_t steps = count * version.down_steps();
      share = (begins.slices() + steps - 1) / steps;
      for (int64_t i = 0; i < count * kBlock * kLanes; i += kLanes) store(sums + i, Vec(0.0f));
      for (int64_t l = 0; l < layers; ++l) {
        if (l > 0) version.up(l);
        if (l < layers - 1)
          version.template down<JobKind::stream>(l);
        else
          version.template down<JobKind::distance>(l);
      }
      for (int u = 0; u < count; ++u) version.finish(u);
    }
  }

 protected:
  using Operand = typename Begin::Operand;

  ScreenLoop(int64_t L, int group_units) : layers(L), units(group_units) {}

  int64_t layers;
  int units;
  Operand* hidden[2];  // [units] A blocks of the hidden layer: of this group and of the next
  float* sums;         // [units][32][16]

  // of the group at hand
  const Unit* group = nullptr;
  int count = 0;
  int64_t side = 0;
  Operand* current = nullptr;  // hidden[side]
  Begins<Begin> begins;        // of the next group,
  int64_t share = 0;           // so many slices in each step of a down product
};

QINCO_CPU_NAMESPACE_END
