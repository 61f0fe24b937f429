// Scan of lists that many queries share. Entries of the tables are rounded down to 8 bits (scan_levels.cuh), those of
// 16 queries side by side: one look-up of 16 bytes serves all 16, and what it gives is summed as integers, 2 to a
// register. A sample of the vectors says how far down the k best of all must be at least; the few whose lower bound is
// not above that are scored in float and listed, and the k best of the list are those of all vectors. Nothing is
// selected while vectors pass.
//
// A query whose list is too short (thousands of vectors that score like its k-th) has all its vectors scored by one
// block at the end, as has every query of a group with entries that are not finite.
//
// Floor: shared memory looks up 16 bytes for a quarter of a warp at once, and 8 random codes meet 2.6-fold in its 8
// places: 16 look-ups of 32 vectors take 10.3 clocks, 50 a clock, 1.2 x 10^13 a second on an H100 at 1.75 GHz; the pass
// with one look-up of 4 bytes each (scan_block.cu) makes 9 a clock. The integer work is about half of that time.
#include <cmath>
#include <vector>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/scan_sample.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kListedKeys = int64_t{16} << 20;    // of a batch of queries
constexpr int64_t kFewestVectors = int64_t{1} << 15;  // to be worth a sample

// Which queries a vector passes for, as bits: those with sum + below <= room, where room is what the vector's offset
// leaves of the highest limit. kLargestRoom - room is added to a half's sum, so that its bit 15 says no.
__device__ unsigned passes(const LevelSums& sums, const Limits& limits, int room) {
  const int bounded = room < -1 ? -1 : room > kLargestRoom ? kLargestRoom : room;
  const unsigned lift = static_cast<unsigned>(kLargestRoom - bounded) * 0x10001u;  // bit 15 of a half: it does not pass
  unsigned lifted[8], none = ~0u;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    lifted[e] = sums.pair(e / 2, e % 2) + limits.below[e / 2][e % 2] + lift;
    none &= lifted[e];
  }
  if ((~none & 0x80008000u) == 0) return 0;
  unsigned queries = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const unsigned passed = ~lifted[e];
    queries |= (passed >> 15 & 1) << query_of(e / 2, e % 2, 0) | (passed >> 31) << query_of(e / 2, e % 2, 1);
  }
  return queries;
}

// Scores a vector in float for the queries of these bits, and lists it.
__device__ void list_vector(const TogetherWork& w, int group, const CurrentList& list, int block, int at,
                            unsigned queries) {
  const uint8_t* const codes = list.codes(block, at, w.M);
  for (; queries; queries &= queries - 1) {
    const int query = w.query(group, __ffs(static_cast<int>(queries)) - 1);
    if (query >= w.queries) return;
    const float* tables = w.tables[query];
    float score = list.offset(block, at);
#pragma unroll 4
    for (int m = 0; m < w.M; ++m, tables += kScanEntries) score += tables[codes[m * kScanBlock]];
    if (score != score) continue;
    const unsigned place = atomicAdd(&w.found[query * kFoundStride], 1u);
    if (place < static_cast<unsigned>(w.capacity))
      w.keys[int64_t{query} * w.capacity + place] = make_key(score, list.id(block, at));
  }
}

template <bool words>
__global__ void __launch_bounds__(kTogetherThreads, 2) screen_kernel(TogetherWork w) {
  __shared__ Limits limits;
  const int group = static_cast<int>(blockIdx.x) / w.slices, slice = static_cast<int>(blockIdx.x) % w.slices;
  const LevelScale scale = w.scales[group];
  if (!scale.screened) return;
  const uint4* const levels = load_levels(w, group, dynamic_shared<uint4>());
  find_limits(w, group, scale, limits);
  __syncthreads();
  const auto begin = static_cast<int>(int64_t{w.lists.blocks} * slice / w.slices);
  const auto end = static_cast<int>(int64_t{w.lists.blocks} * (slice + 1) / w.slices);
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int block = begin + static_cast<int>(threadIdx.x) / 8; block < end; block += kRoundOfBlocks) {
    list.move_to(block, w.lists, w.M);
    LevelSums sums[4];
    sum_levels<words>(w.M, list.codes(block, at, w.M), levels, sums);
    float offsets[4];
    list.offsets<words>(block, at, offsets);
    unsigned found[4];  // bits of queries
#pragma unroll
    for (int v = 0; v < 4; ++v)
      found[v] = list.has(block, at + v) ? passes(sums[v], limits, limits.highest - units_down(scale, offsets[v])) : 0;
    if ((found[0] | found[1] | found[2] | found[3]) == 0) continue;
#pragma unroll 1
    for (int v = 0; v < 4; ++v)
      list_vector(w, group, list, block, at + v, v == 0 ? found[0] : v == 1 ? found[1] : v == 2 ? found[2] : found[3]);
  }
}

// The k best of what a query has listed; of all vectors, where that does not hold them.
template <bool words>
__global__ void __launch_bounds__(kBlock) finish_kernel(TogetherWork w, int buffer, int64_t* ids, float* scores) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  const int64_t query = blockIdx.x;
  const unsigned found = w.found[query * kFoundStride];
  const bool all_listed = found <= static_cast<unsigned>(w.capacity);
  BlockSelect best(keys, &state, buffer, w.k, all_listed);
  if (!all_listed) {
    offer_vectors<words>(best, w.M, w.lists, w.tables[query], 0, w.lists.blocks);
  } else {
    best.offer_all(w.keys + query * w.capacity, found);
  }
  write_best(best, keys, w.k, ids + query * w.k, scores + query * w.k);
}

// --- launching

// Queries [first, first + count), with w.lists, w.samples and w.capacity as they are.
template <bool words>
void scan_group(const Context& context, const Scan<float>& all, int64_t first, int64_t count, TogetherWork w) {
  const int64_t groups = (count + kTogether - 1) / kTogether;
  std::vector<const float*> tables;
  for (int64_t q = first; q < first + count; ++q) tables.push_back(all.queries[q].tables);
  ScratchFrame frame(context);
  w.queries = static_cast<int>(count);
  w.tables = to_device(context, frame, tables);
  w.scales = frame.get<LevelScale>(groups);
  w.levels = frame.get<uint4>(groups * all.M * kScanEntries);
  w.histograms = frame.get<int>(groups * kTogether * kHistogramBins);
  w.found = frame.get<unsigned>(groups * kTogether * kFoundStride);
  w.keys = frame.get<Key>(count * w.capacity);
  w.slices = groups < 32 ? 4 : 1;
  launch(context, level_kernel, static_cast<unsigned>(groups * w.slices), kTogetherThreads, 0, w);

  const auto level_bytes = static_cast<size_t>(all.M * kScanEntries) * sizeof(uint4);
  const int64_t multiprocessors = processors(context);
  // Of at least `fewest` blocks of 32 each, if there are to be `wanted` thread blocks.
  const auto slices = [&](int64_t blocks, int64_t fewest, int64_t wanted) {
    const int64_t most = (blocks + fewest - 1) / fewest, each = wanted / groups;
    return static_cast<int>(each < 1 ? 1 : each < most ? each : most);
  };
  TogetherWork sample = w;
  sample.slices = slices(w.samples, kRoundOfBlocks / 8, multiprocessors);
  const int64_t needed = w.samples / (0xffff / kScanBlock) + 1;  // for counts of 16 bits
  if (sample.slices < needed) sample.slices = static_cast<int>(needed);
  launch(context, sample_kernel<words>, static_cast<unsigned>(groups * sample.slices), kTogetherThreads,
         level_bytes + kTogether * kHistogramBins / 2 * sizeof(unsigned), sample);
  w.slices = slices(w.lists.blocks, kRoundOfBlocks, 2 * multiprocessors);
  launch(context, screen_kernel<words>, static_cast<unsigned>(groups * w.slices), kTogetherThreads, level_bytes, w);
  const int select = join_capacity(all.k, w.capacity);
  launch(context, finish_kernel<words>, static_cast<unsigned>(count), kBlock, static_cast<size_t>(select) * sizeof(Key),
         w, select, all.ids + first * all.k, all.scores + first * all.k);
}

bool same_lists(const Scan<float>& all) {
  const auto same = [](const ScanList<float>& a, const ScanList<float>& b) {
    return a.n == b.n && a.codes == b.codes && a.norms == b.norms && a.bias == b.bias && a.first == b.first;
  };
  const ScanQuery<float>& one = all.queries[0];
  for (int64_t q = 1; q < all.nq; ++q) {
    const ScanQuery<float>& other = all.queries[q];
    if (other.lists != one.lists) return false;
    if (other.list == one.list) continue;
    for (int64_t l = 0; l < one.lists; ++l)
      if (!same(other.list[l], one.list[l])) return false;
  }
  return true;
}

}  // namespace

bool scans_together(const Context& context, const Scan<float>& all) {
  if (all.nq < kTogether / 2 || all.M < 1 || all.M > kMostCodes || !same_lists(all)) return false;
  int64_t n = 0;
  for (int64_t l = 0; l < all.queries[0].lists; ++l) n += all.queries[0].list[l].n;
  int shared = 0;
  check_status(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device.index),
               "shared memory");
  const int64_t wanted = all.M * kScanEntries * int64_t{sizeof(uint4)} + kTogether * kHistogramBins * 2 + 1024;
  return n >= kFewestVectors && n >= 64 * all.k && shared >= wanted;
}

void together_scan(const Context& context, const Scan<float>& all) {
  SegmentList lists;
  TogetherWork w{};
  w.M = static_cast<int>(all.M), w.k = static_cast<int>(all.k);
  w.lists.blocks = lists.append(all.queries[0]);
  w.lists.count = static_cast<int>(lists.segments.size());
  ScratchFrame frame(context);
  w.lists.list = to_device(context, frame, lists.segments);
  // n k / sample vectors are listed, each at the cost of some 30 of the sample.
  const auto n = static_cast<double>(int64_t{w.lists.blocks} * kScanBlock), k = static_cast<double>(all.k);
  const double sample = std::sqrt(30 * n * k);
  w.samples = sample < n ? static_cast<int>(sample / kScanBlock) + 1 : w.lists.blocks;
  w.capacity = static_cast<int>(4 * n * k / (static_cast<double>(w.samples * kScanBlock))) + 4096;
  int64_t batch = kListedKeys / w.capacity / kTogether * kTogether;
  if (batch < kTogether) batch = kTogether;
  for (int64_t first = 0; first < all.nq; first += batch) {
    const int64_t count = all.nq - first < batch ? all.nq - first : batch;
    (lists.words ? scan_group<true> : scan_group<false>)(context, all, first, count, w);
  }
}

}  // namespace qinco::kernels::cuda
