// Scan by look-up tables in float. A block takes a slice of a query's vectors: the query's tables in shared memory, 4
// vectors a thread, whose codes come 4 by a load of 32 bits, and the k best so far in shared memory (block_select.cuh).
// A second kernel joins the slices.
//
// Floor: M bytes of codes per vector from memory, or M look-ups in shared memory, of which an SM makes 32 per clock
// where no two meet in a bank; random codes meet about 3.5-fold. For M = 8 that is about one vector per clock and SM.
#include <cstddef>
#include <vector>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/scan_lists.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kSharedBudget = int64_t{96} << 10;  // of 99 KiB, for the state of the selection
constexpr int64_t kPartialKeys = int64_t{8} << 20;    // between the two kernels

constexpr int kBlocksEach = 6;  // of a multiprocessor

struct Query {
  const float* tables;
  int64_t first;  // of its segments
  int count;
  int blocks;
};

struct ScanWork {
  int M, k, slices, capacity, join_capacity;
  const Query* queries;  // [grid / slices]
  const Segment* segments;
  Key* partial;  // [queries][slices][k]
};

// shared_tables: whether the tables fit shared memory. words: SegmentList's.
template <bool shared_tables, bool words>
__global__ void __launch_bounds__(kBlock, kBlocksEach) scan_kernel(ScanWork s) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  const Query query = s.queries[blockIdx.x / s.slices];
  const int64_t slice = blockIdx.x % s.slices;
  const auto begin = static_cast<int>(query.blocks * slice / s.slices);
  const auto end = static_cast<int>(query.blocks * (slice + 1) / s.slices);
  const float* tables = query.tables;
  if constexpr (shared_tables) {
    float* const own = reinterpret_cast<float*>(keys + s.capacity);
    const int entries = begin < end ? s.M * static_cast<int>(kScanEntries) : 0;  // a query without lists has no tables
    for (int i = threadIdx.x; i < entries; i += kBlock) own[i] = query.tables[i];
    tables = own;
  }
  BlockSelect best(keys, &state, s.capacity, s.k);

  offer_vectors<words>(best, s.M, {s.segments + query.first, query.count, query.blocks}, tables, begin, end);
  best.finish();
  Key* const out = s.partial + static_cast<int64_t>(blockIdx.x) * s.k;
  for (int i = threadIdx.x; i < s.k; i += kBlock) out[i] = keys[i];
}

// The k best of a query's slices.
__global__ void __launch_bounds__(kBlock) join_kernel(ScanWork s, int64_t* ids, float* scores) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  BlockSelect best(keys, &state, s.join_capacity, s.k, true);
  const int64_t q = blockIdx.x, size = int64_t{s.slices} * s.k;
  best.offer_all(s.partial + q * size, size);
  write_best(best, keys, s.k, ids + q * s.k, scores + q * s.k);
}

// Queries [first, first + count).
void scan_batch(const Context& context, const Scan<float>& all, int64_t first, int64_t count, int64_t most_slices) {
  constexpr int64_t kRoundBlocks = kRound / kScanBlock;
  std::vector<Query> queries;
  SegmentList lists;
  int64_t most_blocks = 0;
  for (int64_t q = first; q < first + count; ++q) {
    const auto begin = static_cast<int64_t>(lists.segments.size());
    const int blocks = lists.append(all.queries[q]);
    queries.push_back(
        {all.queries[q].tables, begin, static_cast<int>(static_cast<int64_t>(lists.segments.size()) - begin), blocks});
    most_blocks = blocks > most_blocks ? blocks : most_blocks;
  }
  ScratchFrame frame(context);
  const int64_t rounds = (most_blocks + kRoundBlocks - 1) / kRoundBlocks;
  ScanWork s{};
  s.M = static_cast<int>(all.M), s.k = static_cast<int>(all.k);
  s.slices = static_cast<int>(rounds < 1 ? 1 : rounds < most_slices ? rounds : most_slices);
  s.capacity = select_capacity(all.k), s.join_capacity = join_capacity(all.k, s.slices * all.k);
  const int64_t select_bytes = s.capacity * static_cast<int64_t>(sizeof(Key));
  const int64_t table_bytes = all.M * kScanEntries * static_cast<int64_t>(sizeof(float));
  const bool shared_tables = select_bytes + table_bytes <= kSharedBudget;
  s.queries = to_device(context, frame, queries);
  s.segments = to_device(context, frame, lists.segments);
  s.partial = frame.get<Key>(count * s.slices * all.k);
  const auto kernel = shared_tables ? lists.words ? scan_kernel<true, true> : scan_kernel<true, false>
                      : lists.words ? scan_kernel<false, true>
                                    : scan_kernel<false, false>;
  launch(context, kernel, static_cast<unsigned>(count * s.slices), kBlock,
         static_cast<size_t>(select_bytes + (shared_tables ? table_bytes : 0)), s);
  launch(context, join_kernel, static_cast<unsigned>(count), kBlock, static_cast<size_t>(s.join_capacity) * sizeof(Key),
         s, all.ids + first * all.k, all.scores + first * all.k);
}

}  // namespace

void block_scan(const Context& context, const Scan<float>& all) {
  const int64_t blocks_wanted = kBlocksEach * processors(context);
  const int64_t slices = blocks_wanted / all.nq < 1 ? 1 : blocks_wanted / all.nq;  // all blocks at once
  const int64_t batch = kPartialKeys / (slices * all.k) < 1 ? 1 : kPartialKeys / (slices * all.k);
  for (int64_t first = 0; first < all.nq; first += batch)
    scan_batch(context, all, first, all.nq - first < batch ? all.nq - first : batch, slices);
}

}  // namespace qinco::kernels::cuda
