// Scan by look-up tables in float. A block takes a slice of a query's vectors: the query's tables in shared memory, 4
// vectors a thread, whose codes come 4 by a load of 32 bits, and the k best so far in shared memory (block_select.cuh).
// A second kernel joins the slices.
//
// Floor: M bytes of codes per vector from memory, or M look-ups in shared memory, of which an SM makes 32 per clock
// where no two meet in a bank; random codes meet about 3.5-fold. For M = 8 that is about one vector per clock and SM.
#include <cstddef>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/scan_slices.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kSharedBudget = int64_t{96} << 10;  // of 99 KiB, for the state of the selection
constexpr int64_t kPartialKeys = int64_t{8} << 20;    // between the two kernels
constexpr int kJoinThreads = 1024;

// shared_tables: whether the tables fit shared memory.
template <bool shared_tables, bool words>
__global__ void __launch_bounds__(kBlock, kSlicesEach) scan_kernel(SliceWork s, int capacity) {
  __shared__ BlockSelect<>::State state;
  const int64_t q = blockIdx.x / s.slices, slice = blockIdx.x % s.slices;
  if (s.is_listed(q)) return;
  Key* const keys = dynamic_shared<Key>();
  const BatchQuery query = s.batch.queries[q];
  const auto begin = static_cast<int>(query.blocks * slice / s.slices);
  const auto end = static_cast<int>(query.blocks * (slice + 1) / s.slices);
  const float* tables = query.tables;
  if constexpr (shared_tables) {
    float* const own = reinterpret_cast<float*>(keys + capacity);
    const int entries = begin < end ? s.M * static_cast<int>(kScanEntries) : 0;  // a query without lists has no tables
    for (int i = threadIdx.x; i < entries; i += kBlock) own[i] = query.tables[i];
    tables = own;
  }
  BlockSelect<> best(keys, &state, capacity, s.k);

  offer_vectors<words>(best, s.M, query.lists(s.batch.segments), tables, begin, end);
  best.finish();
  Key* const out = s.keys + q * s.stride + slice * s.k;
  for (int i = threadIdx.x; i < s.k; i += kBlock) out[i] = keys[i];
}

__global__ void __launch_bounds__(kJoinThreads) join_kernel(SliceWork s, int capacity, int64_t* ids, float* scores) {
  __shared__ BlockSelect<kJoinThreads>::State state;
  Key* const keys = dynamic_shared<Key>();
  const int64_t q = blockIdx.x;
  BlockSelect<kJoinThreads> best(keys, &state, capacity, s.k);
  best.offer_all(s.keys + q * s.stride, s.count(q));
  best.finish_sorted();
  ids += q * s.k, scores += q * s.k;
  for (int i = threadIdx.x; i < s.k; i += kJoinThreads) {
    const bool found = keys[i] != kNoKey;
    ids[i] = found ? static_cast<int64_t>(index_of(keys[i])) : -1;
    scores[i] = found ? value_of(keys[i]) : INFINITY;
  }
}

// Queries [first, first + count).
void scan_batch(const Context& context, const Scan<float>& all, int64_t first, int64_t count, int64_t most_slices) {
  constexpr int64_t kRoundBlocks = kRound / kScanBlock;
  Batch batch;
  int64_t most_blocks = 0;
  for (int64_t q = first; q < first + count; ++q) {
    batch.add(all.queries + q);
    const int64_t blocks = batch.queries.back().blocks;
    most_blocks = blocks > most_blocks ? blocks : most_blocks;
  }
  ScratchFrame frame(context);
  const int64_t rounds = (most_blocks + kRoundBlocks - 1) / kRoundBlocks;
  SliceWork s{};
  s.M = static_cast<int>(all.M), s.k = static_cast<int>(all.k);
  s.slices = static_cast<int>(rounds < 1 ? 1 : rounds < most_slices ? rounds : most_slices);
  s.batch = batch.to_device(context, frame);
  s.stride = s.slices * all.k;
  s.keys = frame.get<Key>(count * s.stride);
  scan_slices(context, s, count, batch.words);
  join_slices(context, s, count, all.ids + first * all.k, all.scores + first * all.k);
}

}  // namespace

void scan_slices(const Context& context, const SliceWork& work, int64_t queries, bool words) {
  const int capacity = select_capacity(work.k);
  const int64_t select_bytes = capacity * static_cast<int64_t>(sizeof(Key));
  const int64_t table_bytes = work.M * kScanEntries * static_cast<int64_t>(sizeof(float));
  const bool shared_tables = select_bytes + table_bytes <= kSharedBudget;
  const auto kernel = shared_tables ? words ? scan_kernel<true, true> : scan_kernel<true, false>
                      : words ? scan_kernel<false, true>
                                    : scan_kernel<false, false>;
  launch(context, kernel, static_cast<unsigned>(queries * work.slices), kBlock,
         static_cast<size_t>(select_bytes + (shared_tables ? table_bytes : 0)), work, capacity);
}

void join_slices(const Context& context, const SliceWork& work, int64_t queries, int64_t* ids, float* scores) {
  const int capacity = join_capacity(work.k, work.stride);
  launch(context, join_kernel, static_cast<unsigned>(queries), kJoinThreads,
         static_cast<size_t>(capacity) * sizeof(Key), work, capacity, ids, scores);
}

void block_scan(const Context& context, const Scan<float>& all) {
  const int64_t blocks_wanted = kSlicesEach * processors(context);
  const int64_t slices = blocks_wanted / all.nq < 1 ? 1 : blocks_wanted / all.nq;  // all blocks at once
  const int64_t batch = kPartialKeys / (slices * all.k) < 1 ? 1 : kPartialKeys / (slices * all.k);
  for (int64_t first = 0; first < all.nq; first += batch)
    scan_batch(context, all, first, all.nq - first < batch ? all.nq - first : batch, slices);
}

}  // namespace qinco::kernels::cuda
