// What scan_together.cu knows before it passes over the vectors: a group's units and levels (scan_levels.cuh), and from
// a sample of the vectors how far down the k best of all are at least.
#pragma once

#include "kernels/cuda/scan_levels.cuh"
#include "kernels/cuda/scan_lists.cuh"

namespace qinco::kernels::cuda {

constexpr int kTogetherThreads = 512;
static_assert(kTogetherThreads / kWarp == kTogether);  // a warp for each query where queries are looked after
constexpr int kRoundOfBlocks = kTogetherThreads / 8;   // of 32 vectors: 4 a thread
constexpr int kHistogramBins = 1024;                   // of a query's histogram
constexpr int kOwnBins = kHistogramBins / kWarp;       // of a lane
constexpr int kFoundStride = 64;                       // so that counters do not meet in a part of the L2 cache

struct TogetherWork {
  int M, k, queries, slices, capacity;
  int samples;                 // blocks of 32 in the sample
  const float* const* tables;  // [queries]
  Segments lists;
  LevelScale* scales;  // [groups]
  uint4* levels;       // [groups][M][256]
  int* histograms;     // [groups][16][kHistogramBins]
  unsigned* found;     // [groups * 16]: listed, or more than there is room for
  Key* keys;           // [queries][capacity]

  __device__ int query(int group, int of) const { return group * kTogether + of; }
};

// --- a group's units and levels

// The tables of one query: what a warp finds in them.
struct TableSpan {
  float widest = 0, sum = 0, amount = 0;  // the widest and all of their widths, the sum of their largest amounts
  bool finite = true;
};

__device__ inline TableSpan span_of(const float* tables, int M, float* least) {
  TableSpan span;
#pragma unroll 4
  for (int m = 0; m < M; ++m, tables += kScanEntries) {
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

__device__ inline OffsetSpan offset_span(const Segments& lists, int M) {
  constexpr int kEach = 4, kCount = kEach * kTogetherThreads;
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
__device__ inline LevelScale scale_of(int M, TableSpan all, OffsetSpan offset) {
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
  while (static_cast<float>(kHistogramBins << scale.shift) < span) ++scale.shift;
  return scale;
}

// w.slices blocks for each group: its scale, a share of its levels, and nothing found yet.
__global__ void __launch_bounds__(kTogetherThreads) level_kernel(TogetherWork w) {
  __shared__ float least[kTogether][kMostCodes];
  __shared__ TableSpan tables[kTogether];
  __shared__ OffsetSpan offsets[kTogether];
  __shared__ LevelScale scale;
  const int group = static_cast<int>(blockIdx.x) / w.slices, slice = static_cast<int>(blockIdx.x) % w.slices;
  const int of = static_cast<int>(threadIdx.x) / kWarp, query = w.query(group, of);
  TableSpan own;
  if (query < w.queries)
    own = span_of(w.tables[query], w.M, least[of]);
  else
    for (int m = lane(); m < w.M; m += kWarp) least[of][m] = 0;
  OffsetSpan offset = offset_span(w.lists, w.M);
  offset.least = warp_fold(offset.least, Minimum{});
  offset.sum = warp_sum(offset.sum);
  if (lane() == 0) tables[of] = own, offsets[of] = offset;
  __syncthreads();
  if (of == 0) {
    const bool has = lane() < kTogether;
    const LevelScale found = scale_of(w.M, has ? tables[lane()] : TableSpan{}, has ? offsets[lane()] : OffsetSpan{});
    if (lane() == 0) scale = w.scales[group] = found;
  }
  __syncthreads();
  if (lane() == 0 && slice == 0)
    w.found[query * kFoundStride] = scale.screened ? 0 : static_cast<unsigned>(w.capacity) + 1;
  if (!scale.screened) return;
  int* const histograms = w.histograms + int64_t{group} * kTogether * kHistogramBins;
  const int share = w.slices * kTogetherThreads;
  for (int i = slice * kTogetherThreads + threadIdx.x; i < kTogether * kHistogramBins; i += share) histograms[i] = 0;
  for (int e = slice * kTogetherThreads + threadIdx.x; e < w.M * kScanEntries; e += share) {
    float entries[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j)
      entries[j] = w.query(group, j) < w.queries ? w.tables[w.query(group, j)][e] : least[j][e / kScanEntries];
    unsigned words[4] = {};
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const float above = (entries[j] - least[j][e / kScanEntries]) * scale.units;
      words[j / 4] |= static_cast<unsigned>(fminf(floorf(above), kLevels)) << 8 * (j % 4);
    }
    w.levels[int64_t{group} * w.M * kScanEntries + e] = {words[0], words[1], words[2], words[3]};
  }
}

// --- a pass over vectors

// The group's levels in shared memory.
__device__ inline const uint4* load_levels(const TogetherWork& w, int group, uint4* shared) {
  const uint4* const from = w.levels + int64_t{group} * w.M * kScanEntries;
  for (int i = threadIdx.x; i < w.M * kScanEntries; i += kTogetherThreads) shared[i] = from[i];
  return shared;
}

// The sums of the 4 vectors whose codes are at `codes`.
template <bool words>
__device__ void sum_levels(int M, const uint8_t* codes, const uint4* levels, LevelSums (&sums)[4]) {
#pragma unroll 4
  for (int m = 0; m < M; ++m, codes += kScanBlock, levels += kScanEntries) {
    const uint32_t four = load_codes<words>(codes);
#pragma unroll
    for (int v = 0; v < 4; ++v) sums[v].add(levels[four >> 8 * v & 255]);
  }
}

// A bin's place in its histogram: lanes look at consecutive bins, and at consecutive places at a time.
__device__ inline int place_of(int bin) {
  return bin % kOwnBins * kWarp + bin / kOwnBins;
}

// By a warp: the bin at which the count over a histogram reaches k, kHistogramBins if it does not. `own` are the lane's
// bins; before: what is in the bins of the lanes before.
__device__ inline int bin_of(int k, const int (&own)[kOwnBins], int& before) {
  int sum = 0;
  for (const int count : own) sum += count;
  before = sum_of_lanes_before(sum);
  int bin = kHistogramBins, reached = before;
#pragma unroll
  for (int i = 0; i < kOwnBins; ++i) {
    if (reached < k && reached + own[i] >= k) bin = lane() * kOwnBins + i;
    reached += own[i];
  }
  return warp_fold(bin, Minimum{});
}

// Counts a vector's upper bounds: two counts of 16 bits to a word.
__device__ inline void count_bounds(const LevelScale& scale, const LevelSums& sums, int offset, unsigned* counts) {
#pragma unroll
  for (int e = 0; e < kTogether; ++e) {
    const auto sum = static_cast<int>(sums.pair(e / 4, e / 2 % 2) >> 16 * (e % 2) & 0xffff);
    const int above = offset + sum - scale.base, bin = above < 0 ? 0 : above >> scale.shift;
    const int at = query_of(e / 4, e / 2 % 2, e % 2) * kHistogramBins + place_of(bin);
    if (bin < kHistogramBins) atomicAdd(&counts[at / 2], at % 2 ? 0x10000u : 1u);
  }
}

// Upper bounds of a sample of vectors, counted in the queries' histograms as far as the k lowest of the block's.
template <bool words>
__global__ void __launch_bounds__(kTogetherThreads, 1) sample_kernel(TogetherWork w) {
  const int group = static_cast<int>(blockIdx.x) / w.slices, slice = static_cast<int>(blockIdx.x) % w.slices;
  const LevelScale scale = w.scales[group];
  if (!scale.screened) return;
  uint4* const shared = dynamic_shared<uint4>();
  auto* const counts = reinterpret_cast<unsigned*>(shared + w.M * kScanEntries);
  const uint4* const levels = load_levels(w, group, shared);
  for (int i = threadIdx.x; i < kTogether * kHistogramBins / 2; i += kTogetherThreads) counts[i] = 0;
  __syncthreads();
  const int64_t begin = int64_t{w.samples} * slice / w.slices, end = int64_t{w.samples} * (slice + 1) / w.slices;
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int64_t sample = begin + threadIdx.x / 8; sample < end; sample += kRoundOfBlocks) {
    const auto block = static_cast<int>(w.lists.blocks * sample / w.samples);
    list.move_to(block, w.lists, w.M);
    LevelSums sums[4];
    sum_levels<words>(w.M, list.codes(block, at, w.M), levels, sums);
    float offsets[4];
    list.offsets<words>(block, at, offsets);
#pragma unroll
    for (int v = 0; v < 4; ++v)
      if (list.has(block, at + v)) count_bounds(scale, sums[v], units_up(scale, w.M, offsets[v]), counts);
  }
  __syncthreads();
  const int of = static_cast<int>(threadIdx.x) / kWarp;
  int own[kOwnBins], before;
#pragma unroll
  for (int i = 0; i < kOwnBins; ++i)
    own[i] = static_cast<int>(counts[(of * kHistogramBins + i * kWarp + lane()) / 2] >> 16 * (lane() % 2) & 0xffff);
  const int last = bin_of(w.k, own, before);
  int* const histogram = w.histograms + (int64_t{group} * kTogether + of) * kHistogramBins + lane();
#pragma unroll
  for (int i = 0; i < kOwnBins; ++i)
    if (own[i] != 0 && lane() * kOwnBins + i <= last) atomicAdd(histogram + i * kWarp, own[i]);
}

// How far lower bounds may go, for each query of a group.
struct Limits {
  int highest;           // of all queries
  unsigned below[4][2];  // by how much the others' are below it, in the halves of LevelSums::pair
};

__device__ inline void find_limits(const TogetherWork& w, int group, const LevelScale& scale, Limits& limits) {
  __shared__ int limit_of[kTogether];
  const int of = static_cast<int>(threadIdx.x) / kWarp;
  const int* const histogram = w.histograms + (int64_t{group} * kTogether + of) * kHistogramBins + lane();
  int own[kOwnBins], before;
#pragma unroll
  for (int i = 0; i < kOwnBins; ++i) own[i] = histogram[i * kWarp];
  const int bin = bin_of(w.k, own, before);
  if (lane() == 0) limit_of[of] = bin < kHistogramBins ? scale.base + ((bin + 1) << scale.shift) - 1 : kNoLimit;
  __syncthreads();
  if (threadIdx.x != 0) return;
  limits.highest = -kFarUnits;
  const int present = w.queries - group * kTogether < kTogether ? w.queries - group * kTogether : kTogether;
  for (int q = 0; q < present; ++q) limits.highest = limit_of[q] > limits.highest ? limit_of[q] : limits.highest;
  for (int e = 0; e < kTogether / 2; ++e) {
    unsigned halves = 0;
    for (int h = 0; h < 2; ++h) {
      const int q = query_of(e / 2, e % 2, h), below = q < present ? limits.highest - limit_of[q] : kLargestSum;
      halves |= static_cast<unsigned>(below < kLargestSum ? below : kLargestSum) << 16 * h;
    }
    limits.below[e / 2][e % 2] = halves;
  }
}

}  // namespace qinco::kernels::cuda
