// What scan_screened.cu knows before it passes over the vectors: a group's units and levels (scan_levels.cuh), and from
// a sample of the vectors how far down the k best of all are at least.
#pragma once

#include "kernels/cuda/scan_levels.cuh"
#include "kernels/cuda/scan_lists.cuh"

namespace qinco::kernels::cuda {

// Sums for 16 queries take 64 registers, with which a multiprocessor holds two blocks; a warp looks after each query.
// Those for one leave room for half as many warps again.
template <int G>
inline constexpr int kThreads = G == 1 ? 256 : 512;
template <int G>
inline constexpr int kBlocksEach = G == 1 ? 6 : 2;  // of a multiprocessor, and of sample_kernel
template <int G>
inline constexpr int kSampleBlocksEach = G == 1 ? 4 : 1;
template <int G>
inline constexpr int kRoundOfBlocks = kThreads<G> / 8;  // of 32 vectors: 4 a thread

template <int G>
inline constexpr int kHistogramBins = G == 1 ? 512 : 1024;  // of a query's histogram
template <int G>
inline constexpr int kOwnBins = kHistogramBins<G> / kWarp;  // of a lane, in its registers
constexpr int kFoundStride = 64;                            // so that counters do not meet in a part of the L2 cache

template <int G>
struct ScreenWork {
  int M, k, queries, capacity;
  Batch::OnDevice batch;  // queries of a group have the same lists
  LevelScale* scales;     // [groups]
  Levels<G>* levels;      // [groups][M][256]
  int* histograms;        // [groups][G][kHistogramBins<G>]
  unsigned* found;        // [groups * G][kFoundStride]: listed, or more than there is room for
  Key* keys;              // [queries][capacity] of what is listed

  __device__ int query(int group, int of) const { return group * G + of; }
  __device__ const float* tables(int query) const { return batch.queries[query].tables; }
  __device__ Segments lists(int group) const { return batch.queries[query(group, 0)].lists(batch.segments); }
  __device__ int samples(int group) const { return batch.queries[query(group, 0)].samples; }
};

// --- a group's units and levels

// Tables of one query: what a warp finds in them.
struct TableSpan {
  float widest = 0, sum = 0, amount = 0;  // the widest and all of their widths, the sum of their largest amounts
  bool finite = true;

  __device__ void add(const TableSpan& other) {
    widest = fmaxf(widest, other.widest), sum += other.sum, amount += other.amount;
    finite = finite && other.finite;
  }
};

// Of tables first, first + step, ...
__device__ inline TableSpan span_of(const float* tables, int M, int first, int step, float* least) {
  TableSpan span;
  tables += first * kScanEntries;
#pragma unroll 4
  for (int m = first; m < M; m += step, tables += step * kScanEntries) {
    float low = INFINITY, high = -INFINITY;
#pragma unroll
    for (int c = 0; c < kScanEntries; c += kWarp) {
      const float entry = tables[c + lane()];
      low = fminf(low, entry), high = fmaxf(high, entry);
      if (!(fabsf(entry) <= FLT_MAX)) span.finite = false;
    }
    low = warp_fold(low, Minimum{}), high = warp_fold(high, Maximum{});
    if (lane() == 0) least[m] = low;
    span.widest = fmaxf(span.widest, high - low);
    span.sum += high - low;
    span.amount += fmaxf(fabsf(low), fabsf(high));
  }
  span.finite = __all_sync(kFullMask, span.finite);
  return span;
}

// Bias and norm of a thread's share of a sample of vectors.
struct OffsetSpan {
  float least = INFINITY, sum = 0;
};

template <int threads>
__device__ OffsetSpan offset_span(const Segments& lists, int M) {
  constexpr int kEach = 4, kCount = kEach * threads;
  OffsetSpan span;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int block = static_cast<int>(int64_t{lists.blocks} * (threadIdx.x * kEach + j) / kCount);
    CurrentList list;
    list.move_to(block, lists, M);
    const float offset = list.offset(block, 0);
    if (!(fabsf(offset) <= FLT_MAX)) continue;
    span.least = fminf(span.least, offset);
    span.sum += offset / kCount;
  }
  return span;
}

// By a warp: of the spans that it has one or none a lane.
template <int G>
__device__ LevelScale scale_of(int M, TableSpan all, OffsetSpan offset) {
  all.widest = warp_fold(all.widest, Maximum{}), all.sum = warp_fold(all.sum, Maximum{});
  all.amount = warp_fold(all.amount, Maximum{}), all.finite = __all_sync(kFullMask, all.finite);
  offset.least = warp_fold(offset.least, Minimum{}), offset.sum = warp_sum(offset.sum);
  LevelScale scale{};
  scale.units = kLevels / all.widest;
  scale.relative = static_cast<float>(M + 8) * 0x1p-23f;
  scale.error = all.amount * scale.units * scale.relative + 0.01f;
  const float base = offset.least * scale.units, mean = offset.sum * scale.units;
  // Few of the best have more than the average for an offset.
  const float span = all.sum * scale.units + 2 * (mean - base) + static_cast<float>(2 * M) + 2 * scale.error;
  scale.screened = all.finite && scale.units > 1e-30f && scale.units < 1e30f && fabsf(base) < kFarUnits / 4 &&
                   span < kFarUnits / 4 && scale.error < kFarUnits / 4;
  if (!scale.screened) return scale;
  scale.base = static_cast<int>(floorf(base));
  while (static_cast<float>(kHistogramBins<G> << scale.shift) < span) ++scale.shift;
  return scale;
}

// By all warps of a block: the scale, in the first of them, and the least entries of the tables.
template <int G>
__device__ LevelScale find_scale(const ScreenWork<G>& w, int group, float (&least)[G][kMostCodes]) {
  constexpr int kWarpsHere = kThreads<G> / kWarp, kParts = kWarpsHere / G;  // of a query's tables
  __shared__ TableSpan tables[kWarpsHere];
  __shared__ OffsetSpan offsets[kWarpsHere];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, of = warp % G, query = w.query(group, of);
  TableSpan own;
  if (query < w.queries)
    own = span_of(w.tables(query), w.M, warp / G, kParts, least[of]);
  else
    for (int m = lane(); m < w.M; m += kWarp) least[of][m] = 0;
  OffsetSpan offset = offset_span<kThreads<G>>(w.lists(group), w.M);
  offset.least = warp_fold(offset.least, Minimum{});
  offset.sum = warp_sum(offset.sum);
  if (lane() == 0) tables[warp] = own, offsets[warp] = offset;
  __syncthreads();
  if (warp != 0) return {};
  TableSpan all;
  if (lane() < G)
    for (int part = 0; part < kParts; ++part) all.add(tables[part * G + lane()]);
  return scale_of<G>(w.M, all, lane() < kWarpsHere ? offsets[lane()] : OffsetSpan{});
}

// Here and below blockIdx.y is the group and blockIdx.x the share of its work. Finds its scale, a share of its levels,
// and clears what is counted.
template <int G>
__global__ void __launch_bounds__(kThreads<G>) level_kernel(ScreenWork<G> w) {
  __shared__ float least[G][kMostCodes];
  __shared__ LevelScale scale;
  const auto group = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  // Without lists there may be no tables, and nothing is to be found.
  const LevelScale found = w.lists(group).blocks > 0 ? find_scale(w, group, least) : LevelScale{};
  if (thread == 0) scale = w.scales[group] = found;
  __syncthreads();
  if (thread < G && blockIdx.x == 0)
    w.found[w.query(group, thread) * kFoundStride] = scale.screened ? 0 : static_cast<unsigned>(w.capacity) + 1;
  if (!scale.screened) return;
  int* const histograms = w.histograms + int64_t{group} * G * kHistogramBins<G>;
  const int own = static_cast<int>(blockIdx.x) * kThreads<G> + thread, all = static_cast<int>(gridDim.x) * kThreads<G>;
  for (int i = own; i < G * kHistogramBins<G>; i += all) histograms[i] = 0;
  for (int e = own; e < w.M * kScanEntries; e += all) {
    float entries[G];
#pragma unroll
    for (int j = 0; j < G; ++j)
      entries[j] = w.query(group, j) < w.queries ? w.tables(w.query(group, j))[e] : least[j][e / kScanEntries];
    unsigned words[(G + 3) / 4] = {};
#pragma unroll
    for (int j = 0; j < G; ++j) {
      const float above = (entries[j] - least[j][e / kScanEntries]) * scale.units;
      words[j / 4] |= static_cast<unsigned>(fminf(floorf(above), kLevels)) << 8 * (j % 4);
    }
    w.levels[int64_t{group} * w.M * kScanEntries + e] = LevelsOf<G>::pack(words);
  }
}

// --- a pass over vectors

// The group's levels in shared memory.
template <int G>
__device__ const Levels<G>* load_levels(const ScreenWork<G>& w, int group, Levels<G>* shared) {
  constexpr int kEach = sizeof(uint4) / sizeof(Levels<G>);
  const auto* const from = reinterpret_cast<const uint4*>(w.levels + int64_t{group} * w.M * kScanEntries);
  for (int i = threadIdx.x; i < w.M * kScanEntries / kEach; i += kThreads<G>)
    reinterpret_cast<uint4*>(shared)[i] = from[i];
  return shared;
}

// The sums of the 4 vectors whose codes are at `codes`.
template <bool words, int G>
__device__ void sum_levels(int M, const uint8_t* codes, const Levels<G>* levels, LevelSums<G> (&sums)[4]) {
  [[maybe_unused]] constexpr int kAhead = G == 1 ? 8 : 4;  // loads under way
#pragma unroll kAhead
  for (int m = 0; m < M; ++m, codes += kScanBlock, levels += kScanEntries) {
    const uint32_t four = load_codes<words>(codes);
#pragma unroll
    for (int v = 0; v < 4; ++v) sums[v].add(levels[four >> 8 * v & 255]);
  }
}

// Among the four eights of a warp's lanes: word r of eight e and word e of eight r change places.
__device__ inline void transpose_eights(uint32_t (&words)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = lane() / 8 & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t other = __shfl_xor_sync(kFullMask, upper ? words[i] : words[i + bit], 8 * bit);
      (upper ? words[i] : words[i + bit]) = other;
    }
  }
}

// The same by a warp, of one query, for M % 4 == 0 and 4 consecutive blocks of a list, of which each eight of lanes
// takes one. codes: of the first, at the lane. 4 codes of a block's vectors lie 128 bytes together, a wavefront, where
// those that the lanes use at a time lie in 4 lines. kM: M, or 0; where the compiler knows it, all loads come first,
// and a look-up needs no addition for its address.
template <int kM>
__device__ void sum_levels_of_warp(int any_M, const uint8_t* codes, const uint8_t* levels, LevelSums<1> (&sums)[4]) {
  [[maybe_unused]] constexpr int kUnrolled = kM > 0 ? kM / 4 : 1;
  const int M = kM > 0 ? kM : any_M, next = M * static_cast<int>(kScanBlock);
#pragma unroll kUnrolled
  for (int m = 0; m < M; m += 4) {
    uint32_t four[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) four[b] = load_codes<true>(codes + b * next + m * kScanBlock);
    transpose_eights(four);
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int v = 0; v < 4; ++v)
        sums[v].add(levels[(m + r) * kScanEntries + static_cast<int>(__byte_perm(four[r], 0, 0x4440 + v))]);
  }
}

// A bin's place in its histogram: lanes look at consecutive bins, and at consecutive places at a time.
template <int G>
__device__ int place_of(int bin) {
  return bin % kOwnBins<G> * kWarp + bin / kOwnBins<G>;
}

// By a warp: the bin at which the count over a histogram reaches k, kHistogramBins<G> if it does not. `own` are the
// lane's bins; before: what is in the bins of the lanes before.
template <int G>
__device__ int bin_of(int k, const int (&own)[kOwnBins<G>], int& before) {
  int sum = 0;
  for (const int count : own) sum += count;
  before = sum_of_lanes_before(sum);
  int bin = kHistogramBins<G>, reached = before;
#pragma unroll
  for (int i = 0; i < kOwnBins<G>; ++i) {
    if (reached < k && reached + own[i] >= k) bin = lane() * kOwnBins<G> + i;
    reached += own[i];
  }
  return warp_fold(bin, Minimum{});
}

// Counts a vector's upper bounds: two counts of 16 bits to a word.
template <int G>
__device__ void count_bounds(const LevelScale& scale, const LevelSums<G>& sums, int offset, unsigned* counts) {
#pragma unroll
  for (int q = 0; q < G; ++q) {
    const int above = offset + sums.of(q) - scale.base, bin = above < 0 ? 0 : above >> scale.shift;
    const int at = q * kHistogramBins<G> + place_of<G>(bin);
    if (bin < kHistogramBins<G>) atomicAdd(&counts[at / 2], at % 2 ? 0x10000u : 1u);
  }
}

// By a warp: adds a block's counts of a query to its histogram, as far as the k lowest.
template <int G>
__device__ void add_counts(int k, const unsigned* counts, int* histogram) {
  int own[kOwnBins<G>], before;
#pragma unroll
  for (int i = 0; i < kOwnBins<G>; ++i)
    own[i] = static_cast<int>(counts[(i * kWarp + lane()) / 2] >> 16 * (lane() % 2) & 0xffff);
  const int last = bin_of<G>(k, own, before);
#pragma unroll
  for (int i = 0; i < kOwnBins<G>; ++i)
    if (own[i] != 0 && lane() * kOwnBins<G> + i <= last) atomicAdd(histogram + i * kWarp + lane(), own[i]);
}

// Upper bounds of a sample of vectors, counted in the queries' histograms.
template <bool words, int G>
__global__ void __launch_bounds__(kThreads<G>, kSampleBlocksEach<G>) sample_kernel(ScreenWork<G> w) {
  const auto group = static_cast<int>(blockIdx.y);
  const LevelScale scale = w.scales[group];
  const Segments lists = w.lists(group);
  const int samples = w.samples(group);
  const int64_t begin = int64_t{samples} * blockIdx.x / gridDim.x;
  const int64_t end = int64_t{samples} * (blockIdx.x + 1) / gridDim.x;
  if (!scale.screened || begin == end) return;
  auto* const shared = dynamic_shared<Levels<G>>();
  auto* const counts = reinterpret_cast<unsigned*>(shared + w.M * kScanEntries);
  const Levels<G>* const levels = load_levels(w, group, shared);
  for (int i = threadIdx.x; i < G * kHistogramBins<G> / 2; i += kThreads<G>) counts[i] = 0;
  __syncthreads();
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int64_t sample = begin + threadIdx.x / 8; sample < end; sample += kRoundOfBlocks<G>) {
    const auto block = static_cast<int>(lists.blocks * sample / samples);
    list.move_to(block, lists, w.M);
    LevelSums<G> sums[4];
    sum_levels<words, G>(w.M, list.codes(block, at, w.M), levels, sums);
    float offsets[4];
    list.offsets<words>(block, at, offsets);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (list.has(block, at + v)) count_bounds(scale, sums[v], units_up(scale, w.M, offsets[v]), counts);
  }
  __syncthreads();
  const int of = static_cast<int>(threadIdx.x) / kWarp;
  if (of < G)
    add_counts<G>(w.k, counts + of * kHistogramBins<G> / 2,
                  w.histograms + (int64_t{group} * G + of) * kHistogramBins<G>);
}

// How far lower bounds may go, for each query of a group.
template <int G>
__device__ void find_limits(const ScreenWork<G>& w, int group, Limits<G>& limits) {
  __shared__ int limit_of[G];
  const int of = static_cast<int>(threadIdx.x) / kWarp;
  if (of < G) {
    const int* const histogram = w.histograms + (int64_t{group} * G + of) * kHistogramBins<G> + lane();
    int own[kOwnBins<G>], before;
#pragma unroll
    for (int i = 0; i < kOwnBins<G>; ++i) own[i] = histogram[i * kWarp];
    const int bin = bin_of<G>(w.k, own, before);
    const LevelScale& scale = w.scales[group];
    if (lane() == 0) limit_of[of] = bin < kHistogramBins<G> ? scale.base + ((bin + 1) << scale.shift) - 1 : kNoLimit;
  }
  __syncthreads();
  const int present = w.queries - group * G;
  if (threadIdx.x == 0) limits.set(limit_of, present < G ? present : G, w.scales[group]);
}

}  // namespace qinco::kernels::cuda
