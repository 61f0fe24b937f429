// The k best of a query by itself, from float tables: block by block, neighbouring vectors in the lanes of a register.
#pragma once

#include "kernels/cpu/heap.h"
#include "kernels/kernels.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kVecs = kScanBlock / kLanes;
constexpr uint64_t kNone = ~uint64_t{0};  // above every key

// Enters those of the lanes in `below` that are still among the k best.
inline void enter(const float* scores, uint32_t below, int64_t first, uint64_t* heap, int64_t k) {
  for (; below != 0; below &= below - 1) {
    const int lane = __builtin_ctz(below);
    offer(scores[lane], first + lane, heap, k);
  }
}

inline float worst(const uint64_t* heap) {
  return heap[0] == kNone ? __builtin_inff() : value_of(heap[0]);
}

// Vectors [first, last) of a list; `first` begins a block.
template <bool gathered>
void scan_blocks(int64_t M, const float* tables, const ScanList<float>& list, int64_t first, int64_t last,
                 uint64_t* heap, int64_t k) {
  alignas(64) float scores[kScanBlock];
  float limit = worst(heap);
  for (int64_t begin = first; begin < last; begin += kScanBlock) {
    const uint8_t* const codes = list.codes + begin * M;
    Vec sum[kVecs];
    for (int64_t v = 0; v < kVecs; ++v) {
      const int64_t left = list.n - begin - v * kLanes;
      sum[v] = Vec(list.bias);
      if (!list.norms || left <= 0) continue;
      const float* const norms = list.norms + begin + v * kLanes;
      sum[v] = sum[v] + (left >= kLanes ? load(norms) : load_partial(norms, left));
    }
    for (int64_t m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVecs; ++v)
        sum[v] = sum[v] + look_up<gathered>(tables + m * kScanEntries, codes + m * kScanBlock + v * kLanes);
    uint32_t below = 0;
#pragma GCC unroll 4
    for (int64_t v = 0; v < kVecs; ++v) below |= bits_of(sum[v] <= Vec(limit)) << (v * kLanes);
    if (list.n - begin < kScanBlock) below = _bzhi_u32(below, static_cast<uint32_t>(list.n - begin));
    if (below == 0) continue;
    for (int64_t v = 0; v < kVecs; ++v) store(scores + v * kLanes, sum[v]);
    enter(scores, below, list.first + begin, heap, k);
    limit = worst(heap);
  }
}

using ScanBlocks = void (*)(int64_t M, const float* tables, const ScanList<float>& list, int64_t first, int64_t last,
                            uint64_t* heap, int64_t k);

QINCO_CPU_NAMESPACE_END
