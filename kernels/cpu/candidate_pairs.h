// The float search for single (vector, candidate) pairs: a tile's lanes are any of them. A lane's arithmetic is that of
// the search of all candidates, to the bit.
#pragma once

#include "kernels/cpu/candidate_step.h"
#include "kernels/cpu/screened_search.h"

QINCO_CPU_NAMESPACE_BEGIN

// Tiles of pairs, a group at a time, and their memory.
class PairTiles {
 public:
  static int64_t capacity(const StepLayout& p) { return group_size(p) * kTileWidth; }
  static int64_t floats(const StepLayout& p) { return group_size(p) * tile_floats(p); }

  PairTiles(const StepLayout& layout, const float* pack, float* memory) : p_(layout), packed_(pack) {
    for (int64_t t = 0; t < group_size(p_); ++t) {
      tiles_[t].hidden = memory + t * tile_floats(p_);
      tiles_[t].z = tiles_[t].hidden + p_.h * kTileWidth;
      targets_[t] = tiles_[t].z + p_.d * kTileWidth;
      tiles_[t].distances = targets_[t] + p_.d * kTileWidth;
    }
  }

  // Computes z of pairs of the vectors of s from `first` on; count is in [1, capacity].
  void forward(const CandidateSearch<float>& s, int64_t first, const Pair* pairs, int64_t count) {
    const int64_t tiles = blocks_of(count, kTileWidth);
    // Lanes of no pair hold what was there: no other lane sees it.
    for (int64_t t = 0; t < tiles; ++t) tiles_[t].units = count - t * kTileWidth > kLanes ? kUnits : 1;
    for (int64_t j = 0; j < count; ++j) {
      const Pair& pair = pairs[j];
      begin(make_unit(p_, packed_, s, pair.candidate / kLanes, first + pair.vector), pair.candidate % kLanes, j);
    }
    for (int64_t l = 0; l < p_.L; ++l) {
      if (l > 0) multiply({packed_ + p_.w_up(l), p_.h, p_.d, true, Start::zero, Finish::relu}, tiles_, tiles);
      multiply({packed_ + p_.w_down(l), p_.d, p_.h, false, Start::stored, Finish::store}, tiles_, tiles);
    }
  }

  // Coordinate j of the z of pair number i.
  float z(int64_t i, int64_t j) const { return tiles_[i / kTileWidth].z[j * kTileWidth + i % kTileWidth]; }

  // out[i] = ||target - z||^2 of pair number i.
  void distances(int64_t count, float* out) const {
    for (int64_t t = 0; t * kTileWidth < count; ++t) {
      alignas(64) float totals[kTileWidth];
      for (int64_t v = 0; v < kTileWidth; v += kLanes) {
        Vec total(0.0f);
        for (int64_t j = 0; j < p_.d; ++j) {
          const Vec error = load(targets_[t] + j * kTileWidth + v) - load(tiles_[t].z + j * kTileWidth + v);
          total = fma(error, error, total);
        }
        store(totals + v, total);
      }
      for (int64_t i = t * kTileWidth; i < smaller(count, (t + 1) * kTileWidth); ++i) out[i] = totals[i % kTileWidth];
    }
  }

 private:
  static int64_t tile_floats(const StepLayout& p) { return (p.h + 2 * p.d + 1) * kTileWidth; }

  // Lane number i starts with what begin_tile and Start::table compute for lane k of the unit.
  void begin(const Unit& unit, int64_t k, int64_t i) {
    const int64_t lane = i % kTileWidth;
    const Tile& tile = tiles_[i / kTileWidth];
    for (int64_t j = 0; j < p_.h; ++j) {
      const float sum = unit.a_block[j * kLanes + k] + unit.up_row[j];
      tile.hidden[j * kTileWidth + lane] = 0.0f > sum ? 0.0f : sum;  // NaN stays NaN
    }
    float* const target = targets_[i / kTileWidth];
    for (int64_t j = 0; j < p_.d; ++j) {
      tile.z[j * kTileWidth + lane] = unit.z_block[j * kLanes + k] + unit.row[j];
      target[j * kTileWidth + lane] = unit.target[j];
    }
  }

  const StepLayout& p_;
  const float* packed_;
  Tile tiles_[kMaxGroup];
  float* targets_[kMaxGroup];  // [d][kTileWidth]
};

QINCO_CPU_NAMESPACE_END
