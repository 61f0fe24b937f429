// The k least of many keys, by a block: a buffer in shared memory, entered through the worst of the k best so far, and
// sorted when it fills up.
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
  /// keys: shared memory for `capacity` = select_capacity(k) keys; state: shared memory for one of these.
  struct State {
    Key limit;
    int held;
  };
  __device__ BlockSelect(Key* keys, State* state, int capacity, int k)
      : keys_(keys), state_(state), capacity_(capacity), k_(k) {
    if (threadIdx.x == 0) *state_ = {kNoKey, 0};
    __syncthreads();
    limit_ = kNoKey;
  }

  /// At most 4 a thread and round.
  __device__ void offer(Key key) {
    if (key < limit_) keys_[atomicAdd(&state_->held, 1)] = key;
  }

  __device__ void end_round() {
    __syncthreads();
    const bool full = state_->held > capacity_ - kRound;
    __syncthreads();  // before the next round's offers
    if (full) keep_best();
  }

  /// The first k keys of the buffer become the k least of all, ascending, kNoKey where there are fewer.
  __device__ void keep_best() {
    const int held = state_->held;
    for (int i = held + static_cast<int>(threadIdx.x); i < capacity_; i += kBlock) keys_[i] = kNoKey;
    __syncthreads();
    sort();
    if (threadIdx.x == 0) *state_ = {keys_[k_ - 1], held < k_ ? held : k_};
    __syncthreads();
    limit_ = state_->limit;
  }

 private:
  // Bitonic: each pass compares pairs whose positions differ in one bit.
  __device__ void sort() {
    for (int size = 2; size <= capacity_; size *= 2)
      for (int step = size / 2; step > 0; step /= 2) {
        for (int i = threadIdx.x; i < capacity_ / 2; i += kBlock) {
          const int low = 2 * i - (i & (step - 1)), high = low + step;
          const Key a = keys_[low], b = keys_[high];
          if ((b < a) == ((low & size) == 0)) keys_[low] = b, keys_[high] = a;
        }
        __syncthreads();
      }
  }

  Key* keys_;
  State* state_;
  int capacity_, k_;
  Key limit_;
};

}  // namespace qinco::kernels::cuda
