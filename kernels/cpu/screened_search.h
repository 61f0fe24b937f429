// The order of work of a candidate search that screens and then decides, with the margin of candidate_margin.h.
#pragma once

#include "kernels/candidate_margin.h"
#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"

QINCO_CPU_NAMESPACE_BEGIN

// A candidate of a vector of the chunk (by its number there).
struct Pair {
  int64_t vector, candidate;
};

constexpr int64_t kMostVectors = 64;  // per chunk

// Vectors per chunk, at most `most`, by their number alone: where the margin fails, a vector's chunk may show in its
// code. Enough of them fill tiles of pairs, few enough let threads end together.
inline int64_t chunk_vectors(int64_t n, int64_t most) {
  return larger(1, smaller(most, larger(smaller(16, n / 8), n / 32)));
}

// What the margin is made of.
struct Margin {
  int64_t K, d;
  float bound;
  const float* norms;  // [K, padded to kLanes] ||(a_k, z_k)||

  // How far the root of a screened distance may be off for candidates k, k + 1, ... of a vector with norm ||(u, r)||.
  Vec error(int64_t k, float norm, Vec root) const {
    return fma(Vec(bound), load(norms + k) + Vec(norm), Vec(margin::kSumError) * root);
  }
};

// The search of one chunk. `Version` has the screen and the precise comparison:
//   void screen(int64_t begin, int64_t end, float* distances, float* norms)
//     distances [end - begin][stride] of the vectors [begin, end), stride being K padded to kLanes or more, and their
//     ||(u, r)||
//   bool gives_up(int64_t open, int64_t all)
//     whether so many open candidates, of all of the chunk, are better searched in another way
//   void compare(int64_t begin, const Pair* pairs, int64_t count, float* distances)
//     the distances [count] of pairs of vectors from `begin` on, count <= capacity
template <class Version>
class ScreenedSearch {
 public:
  // Memory: distances [vectors][stride], pairs [capacity], decided [capacity].
  ScreenedSearch(Version& version, const Margin& margin, const CandidateSearch<float>& search, int64_t stride,
                 float* distances, int64_t capacity, Pair* pairs, float* decided)
      : version_(version),
        margin_(margin),
        s_(search),
        stride_(stride),
        distances_(distances),
        capacity_(capacity),
        pairs_(pairs),
        decided_(decided) {}

  // Codes and distances of the vectors [begin, end), at most kMostVectors. False where the version gives up: then they
  // are nobody's yet.
  bool search(int64_t begin, int64_t end) {
    begin_ = begin;
    const int64_t count = end - begin;
    version_.screen(begin, end, distances_, norms_);
    if (s_.precision == Precision::fast) {
      for (int64_t i = 0; i < count; ++i) take_screened(i);
      return true;
    }
    // The screen's nearest first: what it comes to exactly leaves less open than its screened distance would.
    for (int64_t i = 0; i < count; ++i) {
      start(i);
      doubted_[i] = false;
      nearest_[i] = screened_nearest(i);
      add(i, nearest_[i]);
    }
    compare();
    int64_t open = 0;
    for (int64_t i = 0; i < count; ++i) {
      open_[i] = doubted_[i] ? 0 : count_possible(i);
      open += doubted_[i] ? margin_.K : open_[i];
    }
    if (version_.gives_up(open, count * margin_.K)) return false;
    for (int64_t i = 0; i < count; ++i)
      if (open_[i] > 0) add_possible(i);
    compare();
    for (int64_t i = 0; i < count; ++i) {
      if (!doubted_[i] || all_compared(i)) continue;
      start(i);
      for (int64_t k = 0; k < margin_.K; ++k) add(i, k);
    }
    compare();
    for (int64_t i = 0; s_.distances && i < count; ++i) s_.distances[begin + i] = best_[i];
    return true;
  }

 private:
  bool all_compared(int64_t i) const { return open_[i] == margin_.K - 1; }

  void start(int64_t i) {
    best_[i] = __builtin_inff();
    s_.codes[begin_ + i] = 0;
  }

  // The lowest index of the least screened distance, NaN aside.
  int64_t screened_nearest(int64_t i) const {
    const float* const mine = distances_ + i * stride_;
    Vec least(__builtin_inff());
    for (int64_t k = 0; k < margin_.K; k += kLanes)
      least = select(lanes_from(k), min(load(mine + k), least), least);  // NaN leaves the second
    const Vec value(horizontal_min(least));
    for (int64_t k = 0; k < margin_.K; k += kLanes)
      if (const uint32_t equal = bits_of(lanes_from(k)) & bits_of(load(mine + k) == value))
        return k + __builtin_ctz(equal);
    return 0;
  }

  void take_screened(int64_t i) {
    start(i);
    const int64_t k = screened_nearest(i);
    const float distance = distances_[i * stride_ + k];
    if (distance < best_[i]) best_[i] = distance, s_.codes[begin_ + i] = static_cast<int32_t>(k);
    if (s_.distances) s_.distances[begin_ + i] = best_[i];
  }

  // Those of the candidates k, k + 1, .. that may come nearer than the screen's nearest, which has been compared.
  uint32_t possible(int64_t i, int64_t k, Vec ceiling) const {
    const Vec root = sqrt(load(distances_ + i * stride_ + k));
    const Vec low = root - margin_.error(k, norms_[i], root);
    const uint32_t kept = bits_of(lanes_from(k)) & ~bits_of(ceiling < low);  // NaN is kept
    return nearest_[i] / kLanes == k / kLanes ? kept & ~(1u << nearest_[i] % kLanes) : kept;
  }

  int64_t count_possible(int64_t i) const {
    const Vec ceiling(__builtin_sqrtf(best_[i]));
    int64_t count = 0;
    for (int64_t k = 0; k < margin_.K; k += kLanes) count += __builtin_popcount(possible(i, k, ceiling));
    return count;
  }

  void add_possible(int64_t i) {
    const Vec ceiling(__builtin_sqrtf(best_[i]));
    for (int64_t k = 0; k < margin_.K; k += kLanes)
      for (uint32_t kept = possible(i, k, ceiling); kept; kept &= kept - 1) add(i, k + __builtin_ctz(kept));
  }

  // Those of the candidates k, k + 1, .. that there are.
  Mask lanes_from(int64_t k) const { return first_lanes(smaller(margin_.K - k, kLanes)); }

  void add(int64_t i, int64_t candidate) {
    if (waiting_ == capacity_) compare();
    pairs_[waiting_++] = {i, candidate};
  }

  void compare() {
    if (waiting_ == 0) return;
    version_.compare(begin_, pairs_, waiting_, decided_);
    const float shown = margin::shown(margin_.d);
    for (int64_t j = 0; j < waiting_; ++j) {
      const auto [i, k] = pairs_[j];
      const float distance = decided_[j], root = __builtin_sqrtf(distances_[i * stride_ + k]);
      const float likely = shown * margin_.bound * (margin_.norms[k] + norms_[i]) + margin::kSumError * root;
      // NaN says nothing about the screen's other distances.
      if (root == root && !(__builtin_fabsf(root - __builtin_sqrtf(distance)) <= likely)) doubted_[i] = true;
      int32_t& code = s_.codes[begin_ + i];
      if (distance < best_[i] || (distance == best_[i] && k < code)) {
        best_[i] = distance;
        code = static_cast<int32_t>(k);
      }
    }
    waiting_ = 0;
  }

  Version& version_;
  const Margin& margin_;
  const CandidateSearch<float>& s_;
  int64_t stride_;
  float* distances_;
  int64_t capacity_;
  Pair* pairs_;
  float* decided_;
  int64_t begin_ = 0, waiting_ = 0;
  float norms_[kMostVectors];
  int64_t nearest_[kMostVectors];  // by the screen
  int64_t open_[kMostVectors];     // how many others were left to compare, 0 where doubted by then
  float best_[kMostVectors];       // of those compared
  bool doubted_[kMostVectors];     // the screen's distances are not to be relied on
};

QINCO_CPU_NAMESPACE_END
