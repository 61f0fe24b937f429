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

/// Keys of the buffer for the k of `count` keys that are offered together, if it need not be small.
constexpr int join_capacity(int64_t k, int64_t count) {
  constexpr int64_t kMost = 8192;  // 64 KiB
  int capacity = select_capacity(k);
  while (capacity < kMost && capacity < count) capacity *= 2;
  return capacity;
}

/// All threads of the block do everything together, but `offer`.
template <int threads = kBlock>
class BlockSelect {
 public:
  static constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
  static_assert(kDigits <= threads && kRound % threads == 0);  // a thread clears a digit's count

  /// keys: shared memory for `capacity` >= select_capacity(k) keys; state: shared memory for one of these.
  struct State {
    int held;
    Key differing[threads / kWarp];  // bits in which keys differ
    int counts[kDigits];
    int digit, rank;  // of the k-th least: its digit, and its rank among the keys with that one
    bool whole;       // whether it is the last of them
  };
  /// Cuts where a lower limit is worth it, as fewer keys get in then.
  __device__ BlockSelect(Key* keys, State* state, int capacity, int k)
      : keys_(keys), state_(state), capacity_(capacity), k_(k) {
    const int room = capacity - kRound;
    most_held_ = 2 * k + threads < room ? 2 * k + threads : room;
    if (threadIdx.x == 0) state_->held = 0;
    __syncthreads();
  }

  /// By all lanes of a warp, at most kRound / threads times in a round: a key of each lane that has one. Keys are
  /// distinct, but for kNoKey, which is not taken.
  __device__ void offer(bool has, Key key) {
    has = has && key < limit_;
    const unsigned takers = __ballot_sync(kFullMask, has);
    if (takers != 0) put(has, key, takers);
  }

  /// The same for the key of (value, index); NaN is not taken.
  __device__ void offer(bool has, float value, uint32_t index) {
    has = has && value <= limit_value_;
    if (__any_sync(kFullMask, has)) offer(has, make_key(value, index));
  }

  /// All keys of an array, and no others: at once where the buffer has room, else in rounds.
  __device__ void offer_all(const Key* from, int64_t count) {
    if (count <= capacity_) {
      for (int i = threadIdx.x; i < count; i += threads) keys_[i] = from[i];
      if (threadIdx.x == 0) state_->held = static_cast<int>(count);
      return;
    }
    for (int64_t round = 0; round < count; round += kRound) {
      Key keys[kRound / threads];
#pragma unroll
      for (int j = 0; j < kRound / threads; ++j) {
        const int64_t i = round + j * threads + threadIdx.x;
        keys[j] = i < count ? from[i] : kNoKey;
      }
#pragma unroll
      for (int j = 0; j < kRound / threads; ++j) offer(true, keys[j]);
      end_round();
    }
  }

  __device__ void end_round() {
    if (__syncthreads_or(full_)) cut(state_->held);
    full_ = false;
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
  struct Or {
    __device__ Key operator()(Key a, Key b) const { return a | b; }
  };

  // Behind what is held, the keys of the lanes that are takers.
  __device__ void put(bool taker, Key key, unsigned takers) {
    int at = 0;
    if (lane() == 0) at = atomicAdd(&state_->held, __popc(takers));
    at = __shfl_sync(kFullMask, at, 0);
    if (at + __popc(takers) > most_held_) full_ = true;
    if (taker) keys_[at + __popc(takers & ((1u << lane()) - 1))] = key;
  }

  // Keeps the k least of `held` > k.
  __device__ void cut(int held) {
    limit_ = greatest_of_least(held);
    const float value = value_of(limit_);
    limit_value_ = value <= INFINITY ? value : INFINITY;  // NaN: beyond infinity's keys
    if (threadIdx.x == 0) state_->held = 0;
    for (int first = 0; first < held; first += threads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const Key key = i < held ? keys_[i] : kNoKey;
      __syncthreads();  // these have been read, and are not behind what is written
      const bool stays = key <= limit_ && key != kNoKey;
      const unsigned staying = __ballot_sync(kFullMask, stays);
      if (staying != 0) put(stays, key, staying);
    }
    __syncthreads();
  }

  // A bound that exactly k keys do not exceed, and no key to come equals. Digits are taken from where keys differ.
  __device__ Key greatest_of_least(int held) {
    int known = 64 - leading_zeros(differing_bits(held));  // all keys are as the prefix from this bit on
    Key prefix = known < 64 ? keys_[0] >> known << known : 0;
    for (int rank = k_;;) {
      const int shift = known > kDigitBits ? known - kDigitBits : 0;
      if (threadIdx.x < kDigits) state_->counts[threadIdx.x] = 0;
      __syncthreads();
      for (int i = threadIdx.x; i < held; i += threads) {
        const Key key = keys_[i];
        if (known == 64 || (key ^ prefix) >> known == 0) atomicAdd(&state_->counts[key >> shift & (kDigits - 1)], 1);
      }
      __syncthreads();
      if (threadIdx.x < kWarp) find_digit(rank);
      __syncthreads();
      prefix |= static_cast<Key>(state_->digit) << shift;
      rank = state_->rank;
      if (shift == 0 || state_->whole) return prefix | ((Key{1} << shift) - 1);
      known = shift;
    }
  }

  __device__ static int leading_zeros(Key bits) {
    const auto high = static_cast<int>(bits >> 32);
    return high ? __clz(high) : 32 + __clz(static_cast<int>(bits));
  }

  __device__ Key differing_bits(int held) {
    Key bits = 0;
    for (int i = threadIdx.x; i < held; i += threads) bits |= keys_[i] ^ keys_[0];
    bits = warp_fold(bits, Or{});
    if (lane() == 0) state_->differing[threadIdx.x / kWarp] = bits;
    __syncthreads();
    bits = 0;
    for (int w = 0; w < threads / kWarp; ++w) bits |= state_->differing[w];
    return bits;
  }

  // By one warp: the digit at which the counts' running sum reaches the rank.
  __device__ void find_digit(int rank) {
    constexpr int kOwn = kDigits / kWarp;
    int own[kOwn], sum = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sum += own[i] = state_->counts[lane() * kOwn + i];
    int before = sum_of_lanes_before(sum);
#pragma unroll
    for (int i = 0; i < kOwn; before += own[i++]) {
      if (before >= rank || rank > before + own[i]) continue;
      state_->digit = lane() * kOwn + i;
      state_->rank = rank - before;
      state_->whole = rank - before == own[i];
    }
  }

  // kNoKey behind what is held, up to `size`.
  __device__ void pad(int size) {
    for (int i = state_->held + static_cast<int>(threadIdx.x); i < size; i += threads) keys_[i] = kNoKey;
    __syncthreads();
  }

  // Bitonic: each pass compares pairs whose positions differ in one bit. total: a power of 2. 32 pairs that differ by
  // 32 places or less are those of 64 places, which one warp takes through all such passes.
  __device__ void sort(int total) {
    for (int size = 2; size <= total; size *= 2) {
      int step = size / 2;
      for (; step > kWarp; step /= 2) {
        for (int pair = threadIdx.x; pair < total / 2; pair += threads) order(pair, step, size);
        __syncthreads();
      }
      for (int first = static_cast<int>(threadIdx.x) - lane(); first < total / 2; first += threads)
        for (int near = step; near > 0; near /= 2) {
          if (first + lane() < total / 2) order(first + lane(), near, size);
          __syncwarp();
        }
      if (size > kWarp || size == total) __syncthreads();
    }
  }

  __device__ void order(int pair, int step, int size) {
    const int low = 2 * pair - (pair & (step - 1)), high = low + step;
    const Key a = keys_[low], b = keys_[high];
    if ((b < a) == ((low & size) == 0)) keys_[low] = b, keys_[high] = a;
  }

  Key* keys_;
  State* state_;
  int capacity_, k_, most_held_;
  bool full_ = false;  // whether this thread has seen more than most_held_ in this round
  Key limit_ = kNoKey;
  float limit_value_ = INFINITY;  // at least that of each key below the limit
};

}  // namespace qinco::kernels::cuda
