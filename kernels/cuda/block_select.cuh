// The k least of many keys, by a block: a buffer in shared memory, entered through the worst of the k best so far. When
// it has enough, the k-th least is found digit by digit (a radix selection) and what is above it goes: for 2,048 keys 3
// or 4 passes over them, where sorting takes 66. Only the k that remain at the end are sorted, if at all.
#pragma once

#include "kernels/cuda/keys.cuh"

namespace qinco::kernels::cuda {

constexpr int kRound = 4 * kBlock;  // keys that may be offered between two calls of end_round

/// Keys of the buffer for k: a power of 2 with room for the k best and a round's.
constexpr int select_capacity(int64_t k) {
  int capacity = 2 * kRound;
  while (capacity < k + kRound) capacity *= 2;
  return capacity;
}

/// All threads of the block do everything together, but `offer`.
class BlockSelect {
 public:
  static constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
  static_assert(kDigits == kBlock);  // a thread clears each digit's count

  /// keys: shared memory for `capacity` = select_capacity(k) keys; state: shared memory for one of these.
  struct State {
    int held;
    int counts[kDigits];
    int digit, rank;  // of the k-th least: its digit, and its rank among the keys with that one
    bool whole;       // whether it is the last of them
  };
  __device__ BlockSelect(Key* keys, State* state, int capacity, int k) : keys_(keys), state_(state), k_(k) {
    // Long before the buffer is full a lower limit is worth a cut: fewer keys get in.
    const int room = capacity - kRound;
    most_held_ = 2 * k + kBlock < room ? 2 * k + kBlock : room;
    if (threadIdx.x == 0) state_->held = 0;
    __syncthreads();
  }

  /// At most 4 a thread and round. Keys are distinct, but for kNoKey, which is not taken.
  __device__ void offer(Key key) {
    if (key < limit_) keys_[atomicAdd(&state_->held, 1)] = key;
  }

  __device__ void end_round() {
    __syncthreads();
    const int held = state_->held;
    __syncthreads();  // before the next round's offers
    if (held > most_held_) cut(held);
  }

  /// After the last round: the first k keys of the buffer are the k least of all, in any order, kNoKey where there are
  /// fewer.
  __device__ void finish() {
    __syncthreads();
    if (state_->held > k_) cut(state_->held);
    pad(k_);
  }

  /// The same, ascending.
  __device__ void finish_sorted() {
    finish();
    int size = 2;
    while (size < k_) size *= 2;
    pad(size);
    sort(size);
  }

 private:
  // Keeps the k least of `held` > k.
  __device__ void cut(int held) {
    limit_ = greatest_of_least(held);
    if (threadIdx.x == 0) state_->held = 0;
    for (int first = 0; first < held; first += kBlock) {
      const int i = first + static_cast<int>(threadIdx.x);
      const Key key = i < held ? keys_[i] : kNoKey;
      __syncthreads();  // these have been read, and are not behind what is written
      if (key <= limit_) keys_[atomicAdd(&state_->held, 1)] = key;
    }
    __syncthreads();
  }

  // A bound that exactly k keys do not exceed, and no key to come equals.
  __device__ Key greatest_of_least(int held) {
    Key prefix = 0;
    int rank = k_;
    for (int shift = 64 - kDigitBits;; shift -= kDigitBits) {
      state_->counts[threadIdx.x] = 0;
      __syncthreads();
      for (int i = threadIdx.x; i < held; i += kBlock) {
        const Key key = keys_[i];
        const bool candidate = shift == 64 - kDigitBits || (key ^ prefix) >> (shift + kDigitBits) == 0;
        if (candidate) atomicAdd(&state_->counts[key >> shift & (kDigits - 1)], 1);
      }
      __syncthreads();
      if (threadIdx.x < kWarp) find_digit(rank);
      __syncthreads();
      prefix |= static_cast<Key>(state_->digit) << shift;
      rank = state_->rank;
      if (shift == 0 || state_->whole) return prefix | ((Key{1} << shift) - 1);
    }
  }

  // By one warp: the digit at which the counts' running sum reaches the rank.
  __device__ void find_digit(int rank) {
    constexpr int kOwn = kDigits / kWarp;
    const int* const own = state_->counts + lane() * kOwn;
    int sum = 0;
    for (int i = 0; i < kOwn; ++i) sum += own[i];
    int before = sum;
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kFullMask, before, step);
      if (lane() >= step) before += other;
    }
    before -= sum;
    if (before >= rank || rank > before + sum) return;
    int digit = 0;
    while (before + own[digit] < rank) before += own[digit++];
    state_->digit = lane() * kOwn + digit;
    state_->rank = rank - before;
    state_->whole = rank - before == own[digit];
  }

  // kNoKey behind what is held, up to `size`.
  __device__ void pad(int size) {
    for (int i = state_->held + static_cast<int>(threadIdx.x); i < size; i += kBlock) keys_[i] = kNoKey;
    __syncthreads();
  }

  // Bitonic: each pass compares pairs whose positions differ in one bit. total: a power of 2.
  __device__ void sort(int total) {
    for (int size = 2; size <= total; size *= 2)
      for (int step = size / 2; step > 0; step /= 2) {
        for (int i = threadIdx.x; i < total / 2; i += kBlock) {
          const int low = 2 * i - (i & (step - 1)), high = low + step;
          const Key a = keys_[low], b = keys_[high];
          if ((b < a) == ((low & size) == 0)) keys_[low] = b, keys_[high] = a;
        }
        __syncthreads();
      }
  }

  Key* keys_;
  State* state_;
  int k_, most_held_;
  Key limit_ = kNoKey;
};

}  // namespace qinco::kernels::cuda
