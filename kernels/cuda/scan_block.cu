// Scan by look-up tables in float. A block takes a slice of a query's vectors: the query's tables in shared memory, 4
// vectors a thread, whose codes come 4 by a load of 32 bits, and the k best so far in shared memory (block_select.cuh).
// A second kernel joins the slices.
//
// Floor: M bytes of codes per vector from memory, or M look-ups in shared memory, of which an SM makes 32 per clock
// where no two meet in a bank; random codes meet about 3.5-fold. For M = 8 that is about one vector per clock and SM.
#include <cstddef>
#include <vector>

#include "kernels/cuda/block_select.cuh"
#include "kernels/cuda/float_kernels.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int kRoundBlocks = kRound / kScanBlock;     // of 32 vectors, in a round of a thread block
constexpr int64_t kSharedBudget = int64_t{96} << 10;  // of 99 KiB, for the state of the selection
constexpr int64_t kPartialKeys = int64_t{8} << 20;    // between the two kernels

// A list of a query; `begin`: the blocks of 32 in the lists before.
struct Segment {
  const uint8_t* codes;
  const float* norms;
  int64_t n, begin;
  uint32_t first;
  float bias;
};

struct Query {
  const float* tables;
  int64_t segments;  // where they begin
  int64_t blocks;
};

struct ScanWork {
  int M, k, slices, capacity;
  const Query* queries;  // [grid / slices]
  const Segment* segments;
  Key* partial;  // [queries][slices][k]
};

template <bool words>
__device__ uint32_t load_codes(const uint8_t* from) {
  if constexpr (words) return __ldg(reinterpret_cast<const uint32_t*>(from));
  return from[0] | from[1] << 8 | from[2] << 16 | static_cast<uint32_t>(from[3]) << 24;
}

// The scores of the 4 vectors from `at` on in block `block` of a list. As everywhere: bias, norm, codes in order.
template <bool words>
__device__ void score_four(int M, const Segment& list, const float* tables, int64_t block, int at, float (&scores)[4]) {
  const int64_t i = block * kScanBlock + at;
#pragma unroll
  for (int v = 0; v < 4; ++v)
    scores[v] = list.norms && i + v < list.n ? list.bias + __ldg(list.norms + i + v) : list.bias;
  const uint8_t* codes = list.codes + block * M * kScanBlock + at;
#pragma unroll 8
  for (int m = 0; m < M; ++m, codes += kScanBlock, tables += kScanEntries) {
    const uint32_t four = load_codes<words>(codes);
#pragma unroll
    for (int v = 0; v < 4; ++v) scores[v] += tables[four >> 8 * v & 255];
  }
}

// shared_tables: whether the tables fit shared memory. words: whether codes lie at multiples of 4 bytes.
template <bool shared_tables, bool words>
__global__ void __launch_bounds__(kBlock) scan_kernel(ScanWork s) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  const Query query = s.queries[blockIdx.x / s.slices];
  const int64_t slice = blockIdx.x % s.slices;
  const int64_t begin = query.blocks * slice / s.slices, end = query.blocks * (slice + 1) / s.slices;
  const float* tables = query.tables;
  if constexpr (shared_tables) {
    float* const own = reinterpret_cast<float*>(keys + s.capacity);
    const int entries = begin < end ? s.M * static_cast<int>(kScanEntries) : 0;  // a query without lists has no tables
    for (int i = threadIdx.x; i < entries; i += kBlock) own[i] = query.tables[i];
    tables = own;
  }
  BlockSelect best(keys, &state, s.capacity, s.k);

  const int at = threadIdx.x % 8 * 4;
  const Segment* next = s.segments + query.segments;
  Segment list{};
  int64_t list_end = 0;  // block of the query behind the list's
  for (int64_t round = begin; round < end; round += kRoundBlocks) {
    const int64_t block = round + threadIdx.x / 8;
    if (block < end) {
      for (; block >= list_end; ++next) {
        list = *next;
        list_end = list.begin + (list.n + kScanBlock - 1) / kScanBlock;
      }
      float scores[4];
      score_four<words>(s.M, list, tables, block - list.begin, at, scores);
      const int64_t i = (block - list.begin) * kScanBlock + at;
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (i + v < list.n && scores[v] == scores[v])
          best.offer(make_key(scores[v], list.first + static_cast<uint32_t>(i + v)));
    }
    best.end_round();
  }
  best.finish();
  Key* const out = s.partial + static_cast<int64_t>(blockIdx.x) * s.k;
  for (int i = threadIdx.x; i < s.k; i += kBlock) out[i] = keys[i];
}

// The k best of a query's slices.
__global__ void __launch_bounds__(kBlock) join_kernel(ScanWork s, int64_t* ids, float* scores) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  BlockSelect best(keys, &state, s.capacity, s.k);
  const int64_t q = blockIdx.x, size = int64_t{s.slices} * s.k;
  const Key* const partial = s.partial + q * size;
  for (int64_t round = 0; round < size; round += kRound) {
    for (int64_t i = round + threadIdx.x; i < round + kRound && i < size; i += kBlock) best.offer(partial[i]);
    best.end_round();
  }
  best.finish_sorted();
  for (int i = threadIdx.x; i < s.k; i += kBlock) {
    const bool found = keys[i] != kNoKey;
    ids[q * s.k + i] = found ? static_cast<int64_t>(index_of(keys[i])) : -1;
    scores[q * s.k + i] = found ? value_of(keys[i]) : INFINITY;
  }
}

// The queries [first, first + count) for the device, and where they are.
struct Batch {
  std::vector<Query> queries;
  std::vector<Segment> segments;
  int64_t most_blocks = 0;
  bool words = true;

  Batch(const Scan<float>& all, int64_t first, int64_t count) {
    for (int64_t q = first; q < first + count; ++q) {
      const ScanQuery<float>& query = all.queries[q];
      int64_t blocks = 0;
      queries.push_back({query.tables, static_cast<int64_t>(segments.size()), 0});
      for (int64_t l = 0; l < query.lists; ++l) {
        const ScanList<float>& list = query.list[l];
        if (list.n == 0) continue;
        words = words && reinterpret_cast<uintptr_t>(list.codes) % 4 == 0;
        segments.push_back({list.codes, list.norms, list.n, blocks, static_cast<uint32_t>(list.first), list.bias});
        blocks += (list.n + kScanBlock - 1) / kScanBlock;
      }
      queries.back().blocks = blocks;
      if (blocks > most_blocks) most_blocks = blocks;
    }
  }
};

template <class T>
T* to_device(const Context& context, ScratchFrame& frame, const std::vector<T>& host) {
  T* const device = frame.get<T>(static_cast<int64_t>(host.size()));
  copy_bytes(context.device, device, {}, host.data(), host.size() * sizeof(T));
  return device;
}

void scan_batch(const Context& context, const Scan<float>& all, int64_t first, int64_t count, int64_t most_slices) {
  const Batch batch(all, first, count);
  ScratchFrame frame(context);
  const int64_t rounds = (batch.most_blocks + kRoundBlocks - 1) / kRoundBlocks;
  ScanWork s{};
  s.M = static_cast<int>(all.M), s.k = static_cast<int>(all.k);
  s.slices = static_cast<int>(rounds < 1 ? 1 : rounds < most_slices ? rounds : most_slices);
  s.capacity = select_capacity(all.k);
  const int64_t select_bytes = s.capacity * static_cast<int64_t>(sizeof(Key));
  const int64_t table_bytes = all.M * kScanEntries * static_cast<int64_t>(sizeof(float));
  const bool shared_tables = select_bytes + table_bytes <= kSharedBudget;
  s.queries = to_device(context, frame, batch.queries);
  s.segments = to_device(context, frame, batch.segments);
  s.partial = frame.get<Key>(count * s.slices * all.k);
  const auto kernel = shared_tables ? batch.words ? scan_kernel<true, true> : scan_kernel<true, false>
                      : batch.words ? scan_kernel<false, true>
                                    : scan_kernel<false, false>;
  launch(context, kernel, static_cast<unsigned>(count * s.slices), kBlock,
         static_cast<size_t>(select_bytes + (shared_tables ? table_bytes : 0)), s);
  launch(context, join_kernel, static_cast<unsigned>(count), kBlock, static_cast<size_t>(select_bytes), s,
         all.ids + first * all.k, all.scores + first * all.k);
}

}  // namespace

void block_scan(const Context& context, const Scan<float>& all) {
  if (all.k == 0 || all.nq == 0) return;
  const int64_t blocks_wanted = 4 * processors(context);
  const int64_t slices = (blocks_wanted + all.nq - 1) / all.nq;
  const int64_t batch = kPartialKeys / (slices * all.k) < 1 ? 1 : kPartialKeys / (slices * all.k);
  for (int64_t first = 0; first < all.nq; first += batch)
    scan_batch(context, all, first, all.nq - first < batch ? all.nq - first : batch, slices);
}

}  // namespace qinco::kernels::cuda
