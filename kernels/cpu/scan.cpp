// Scan by look-up tables: a vector of scores at a time, one load per code from a table that stays in the L1 or L2
// cache, then one comparison with the worst of the k best. Codes lie code by code in blocks of 32 vectors, so that
// a vector of sums takes neighbouring bytes.
#include "kernels/cpu/heap.h"
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kVecs = kScanBlock / kLanes;
constexpr uint64_t kNone = ~uint64_t{0};  // above every key

// Enters those of the lanes in `below` that are still among the k best.
void enter(const float* scores, uint32_t below, int64_t first, uint64_t* heap, int64_t k) {
  for (; below != 0; below &= below - 1) {
    const int lane = __builtin_ctz(below);
    const uint64_t key = make_key(scores[lane], first + lane);
    if (key < heap[0]) sift_down(heap, k, 0, key);
  }
}

float worst(const uint64_t* heap) {
  return heap[0] == kNone ? __builtin_inff() : value_of(heap[0]);
}

void scan_list(int64_t M, const float* tables, const ScanList<float>& list, uint64_t* heap, int64_t k) {
  alignas(64) float scores[kScanBlock];
  float limit = worst(heap);
  for (int64_t begin = 0; begin < list.n; begin += kScanBlock) {
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
        sum[v] = sum[v] + look_up(tables + m * kScanEntries, codes + m * kScanBlock + v * kLanes);
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

void scan(const Context& context, const Scan<float>& all) {
  if (all.k == 0) return;
  const int64_t k = all.k;
  ScratchFrame frame(context);
  uint64_t* const heaps = frame.get<uint64_t>(context.threads * k);
  parallel_for(context, all.nq, 1, [&](int64_t begin, int64_t end, int worker) {
    uint64_t* const heap = heaps + worker * k;
    for (int64_t q = begin; q < end; ++q) {
      const ScanQuery<float>& query = all.queries[q];
      for (int64_t i = 0; i < k; ++i) heap[i] = kNone;
      for (int64_t l = 0; l < query.lists; ++l) scan_list(all.M, query.tables, query.list[l], heap, k);
      sort_heap(heap, k);
      for (int64_t i = 0; i < k; ++i) {
        const bool found = heap[i] != kNone;
        all.ids[q * k + i] = found ? index_of(heap[i]) : -1;
        all.scores[q * k + i] = found ? value_of(heap[i]) : __builtin_inff();
      }
    }
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_scan(Table<float>& t) {
  t.scan = scan;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
