// Scan by look-up tables: one load per code from a table that stays in the L1 or L2 cache, then one comparison with the
// worst of the k best. A query by itself takes the scores of neighbouring vectors in the lanes of a register: codes lie
// code by code in blocks of 32 vectors; or, where there are such instructions, looks up bytes first. Queries that visit
// the same lists take a lane each: with their tables side by side, a load and an addition serve all of them.
#include "kernels/cpu/byte_scan.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/scan_blocks.h"
#include "kernels/dispatch.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

void take_results(uint64_t* heap, int64_t k, int64_t* ids, float* scores) {
  sort_heap(heap, k);
  for (int64_t i = 0; i < k; ++i) {
    const bool found = heap[i] != kNone;
    ids[i] = found ? index_of(heap[i]) : -1;
    scores[i] = found ? value_of(heap[i]) : __builtin_inff();
  }
}

void scan_apart(const Context& context, const Scan<float>& all) {
  const int64_t k = all.k;
  ScratchFrame frame(context);
  uint64_t* const heaps = frame.get<uint64_t>(context.threads * k);
  const ScanBlocks scan_floats = kGathers && cpu_has(Feature::fast_gather) ? scan_blocks<kGathers> : scan_blocks<false>;
  const int64_t rounded = byte_scan_size(all.M);
  uint8_t* const bytes = frame.get<uint8_t>(context.threads * rounded);
  parallel_for(context, all.nq, 1, [&](int64_t begin, int64_t end, int worker) {
    uint64_t* const heap = heaps + worker * k;
    for (int64_t q = begin; q < end; ++q) {
      const ScanQuery<float>& query = all.queries[q];
      for (int64_t i = 0; i < k; ++i) heap[i] = kNone;
      if (rounded == 0 || !scan_by_bytes(all.M, query, bytes + worker * rounded, scan_floats, heap, k))
        for (int64_t l = 0; l < query.lists; ++l)
          scan_floats(all.M, query.tables, query.list[l], 0, query.list[l].n, heap, k);
      take_results(heap, k, all.ids + q * k, all.scores + q * k);
    }
  });
}

/// Up to kLanes queries of the same lists, one a lane.
class LaneQueries {
 public:
  // tables holds M * kScanEntries * kLanes floats, heaps count * k.
  LaneQueries(const Scan<float>& all, int64_t first, int64_t count, float* tables, uint64_t* heaps)
      : M_(all.M), k_(all.k), count_(count), tables_(tables), heaps_(heaps) {
    for (int64_t e = 0; e < M_ * kScanEntries; e += kLanes) {
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int64_t q = 0; q < kLanes; ++q) block[q] = q < count ? load(all.queries[first + q].tables + e) : Vec(0.0f);
      transpose(block);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) store(tables_ + (e + i) * kLanes, block[i]);
    }
    for (int64_t i = 0; i < count_ * k_; ++i) heaps_[i] = kNone;
    for (int64_t q = 0; q < kLanes; ++q) limits_[q] = q < count ? __builtin_inff() : __builtin_nanf("");
  }

  void scan_list(const ScanList<float>& list) {
    for (int64_t begin = 0; begin < list.n; begin += kTogether) {
      Vec sum[kTogether];
      score(list, begin, sum);
      const Vec limit = load(limits_);
      uint32_t any = 0;
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTogether; ++i) any |= bits_of(sum[i] <= limit);
      if (any == 0) continue;
      alignas(64) float scores[kTogether * kLanes];
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTogether; ++i) store(scores + i * kLanes, sum[i]);
      for (int64_t i = 0; i < smaller(kTogether, list.n - begin); ++i)
        enter(scores + i * kLanes, list.first + begin + i);
    }
  }

  void give_results(int64_t* ids, float* scores) {
    for (int64_t q = 0; q < count_; ++q) take_results(heaps_ + q * k_, k_, ids + q * k_, scores + q * k_);
  }

 private:
  static constexpr int64_t kTogether = 8;  // vectors

  QINCO_INLINE void score(const ScanList<float>& list, int64_t begin, Vec (&sum)[kTogether]) const {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kTogether; ++i) {
      sum[i] = Vec(list.bias);
      if (list.norms && begin + i < list.n) sum[i] = sum[i] + Vec(list.norms[begin + i]);
    }
    const uint8_t* codes = list.codes + scan_place(begin, 0, M_);
    const float* table = tables_;
    for (int64_t m = 0; m < M_; ++m, codes += kScanBlock, table += kScanEntries * kLanes) {
      uint64_t eight;
      __builtin_memcpy(&eight, codes, sizeof(eight));
#pragma GCC unroll 8
      for (int64_t i = 0; i < kTogether; ++i) sum[i] = sum[i] + load(table + (eight >> (8 * i) & 255) * kLanes);
    }
  }

  void enter(const float* scores, int64_t index) {
    for (uint32_t below = bits_of(load(scores) <= load(limits_)); below != 0; below &= below - 1) {
      const int q = __builtin_ctz(below);
      uint64_t* const heap = heaps_ + q * k_;
      if (offer(scores[q], index, heap, k_)) limits_[q] = worst(heap);
    }
  }

  int64_t M_, k_, count_;
  float* tables_;  // [M,kScanEntries,kLanes]
  uint64_t* heaps_;
  alignas(64) float limits_[kLanes];  // NaN, which nothing is below, where there is no query
};

void scan_together(const Context& context, const Scan<float>& all, int64_t count) {
  const int64_t table = all.M * kScanEntries * kLanes, workers = smaller(context.threads, blocks_of(all.nq, count));
  ScratchFrame frame(context);
  float* const tables = frame.get<float>(workers * table);
  uint64_t* const heaps = frame.get<uint64_t>(workers * count * all.k);
  parallel_for(context, all.nq, count, [&](int64_t begin, int64_t end, int worker) {
    LaneQueries queries(all, begin, end - begin, tables + worker * table, heaps + worker * count * all.k);
    for (int64_t l = 0; l < all.queries[begin].lists; ++l) queries.scan_list(all.queries[begin].list[l]);
    queries.give_results(all.ids + begin * all.k, all.scores + begin * all.k);
  });
}

// How many queries to scan together: as many as there are for each thread (a query's result does not depend on it), or
// 1 where they do not all visit the same lists, or are so few that most lanes would be idle.
int64_t queries_together(const Context& context, const Scan<float>& all) {
  constexpr int64_t kLeast = kLanes == 8 ? 2 : 4;
  for (int64_t q = 1; q < all.nq; ++q)
    if (all.queries[q].list != all.queries[0].list || all.queries[q].lists != all.queries[0].lists) return 1;
  const int64_t count = smaller(kLanes, blocks_of(all.nq, context.threads));
  return count >= kLeast ? count : 1;
}

void scan(const Context& context, const Scan<float>& all) {
  if (all.k == 0 || all.nq == 0) return;
  const int64_t count = queries_together(context, all);
  if (count > 1)
    scan_together(context, all, count);
  else
    scan_apart(context, all);
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_scan(Table<float>& t) {
  t.scan = scan;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
