// Scan by lower bounds first. Entries of the tables are rounded down to 8 bits (scan_levels.cuh), and what look-ups
// give is summed as integers. A sample of the vectors says how far down the k best of all must be at least; the few
// whose lower bound is not above that are scored in float and listed, and the k best of the list are those of all
// vectors. Nothing is selected while vectors pass. Of lists that many queries share, a look-up of 16 bytes serves 16 of
// them; queries with lists of their own look up a byte each.
//
// A query whose list is too short (thousands of vectors that score like its k-th) has all its vectors scored in float
// at the end, as has every query of a group with entries that are not finite.
//
// Floor, 16 queries: shared memory looks up 16 bytes for a quarter of a warp at once, and 8 random codes meet 2.6-fold
// in its 8 places: 16 look-ups of 32 vectors take 10.3 clocks, 50 a clock, 1.2 x 10^13 a second on an H100 at 1.75 GHz;
// the pass with one look-up of 4 bytes each (scan_block.cu) makes 9 a clock. The integer work is about half of that
// time.
//
// Floor, one query: 32 random codes meet 2-fold in a table's 64 words, which is 64 wavefronts of shared memory and L1
// for 128 vectors of M = 8, where entries of 4 bytes take 113; beside 8 of codes, 8 of shuffles that bring them to
// their lanes, and 4 of norms. (32 for the 16 where M % 4 != 0.) That is 12 bytes of codes a clock and SM, 2.8 x 10^12
// a second. Norms of 4 bytes beside 8 codes: from memory it is two thirds of the device's rate at most.
#include <cmath>
#include <vector>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/scan_sample.cuh"
#include "kernels/cuda/scan_slices.cuh"

namespace qinco::kernels::cuda {

namespace {

constexpr int kTogether = 16;                       // queries that share their lists
constexpr int64_t kListedKeys = int64_t{16} << 20;  // of a batch of queries

// Vectors that a query has, or queries with lists of their own have on average, to be worth a sample of sqrt(30 n k),
// which is sqrt(30 k / n) of a pass: of 64 k vectors two thirds. That is little to 16 queries, whose pass is much
// shorter than that of scan_block.cu; one by itself saves a third of it, and at 256 k the sample takes a third. What is
// done before and after a pass counts, too: on an H100 256 queries of 2^20 vectors and k = 100 gain a tenth to a
// quarter, of 2^16 and k = 10 they lose a tenth.
struct Fewest {
  int64_t vectors;  // times fewest_screened_vectors
  int64_t each;     // times k
};
constexpr Fewest kFewestShared = {1, 64}, kFewestOwn = {8, 256};

// Scores a vector in float for the queries of these bits, and lists it.
template <int G>
__device__ void list_vector(const ScreenWork<G>& w, int group, const CurrentList& list, int block, int at,
                            unsigned queries) {
  [[maybe_unused]] constexpr int kAhead = G == 1 ? 2 : 4;  // as many as leave the pass its registers
  const uint8_t* const codes = list.codes(block, at, w.M);
  for (; queries; queries &= queries - 1) {
    const int query = w.query(group, G == 1 ? 0 : __ffs(static_cast<int>(queries)) - 1);
    if (query >= w.queries) return;
    const float* tables = w.tables(query);
    float score = list.offset(block, at);
#pragma unroll kAhead
    for (int m = 0; m < w.M; ++m, tables += kScanEntries) score += tables[codes[m * kScanBlock]];
    if (score != score) continue;
    const unsigned place = atomicAdd(&w.found[query * kFoundStride], 1u);
    if (place < static_cast<unsigned>(w.capacity))
      w.keys[int64_t{query} * w.capacity + place] = make_key(score, list.id(block, at));
  }
}

// kM: M, or 0 for any.
template <bool words, int G, int kM>
__global__ void __launch_bounds__(kThreads<G>, kBlocksEach<G>) screen_kernel(ScreenWork<G> w) {
  __shared__ Limits<G> limits;
  const auto group = static_cast<int>(blockIdx.y);
  if (!w.scales[group].screened) return;
  const Levels<G>* const levels = load_levels(w, group, dynamic_shared<Levels<G>>());
  find_limits(w, group, limits);
  __syncthreads();
  const LevelScale scale = w.scales[group];  // read here, as find_limits needs the registers
  const Segments lists = w.lists(group);
  const int M = kM > 0 ? kM : w.M;
  const auto begin = static_cast<int>(int64_t{lists.blocks} * blockIdx.x / gridDim.x);
  const auto end = static_cast<int>(int64_t{lists.blocks} * (blockIdx.x + 1) / gridDim.x);
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int block = begin + static_cast<int>(threadIdx.x) / 8; block - lane() / 8 < end; block += kRoundOfBlocks<G>) {
    const int first = block - lane() / 8;
    bool whole = false;  // the warp's blocks, of one list, and not its last
    if constexpr (words && G == 1) {
      list.move_to(first, lists, M);
      whole = M % 4 == 0 && first + 3 < end && list.has_block(first + 4);
    }
    unsigned found[4] = {};  // bits of queries
    if (whole) {
      if constexpr (words && G == 1) {
        float offsets[4];
        list.offsets_of_all(block, at, offsets);
        LevelSums<G> sums[4];
        sum_levels_of_warp<kM>(M, list.codes(first, 4 * lane(), M), levels, sums);
#pragma unroll
        for (int v = 0; v < 4; ++v) found[v] = limits.passes(sums[v], scale, offsets[v]);
      }
    } else {
      if (block >= end) continue;
      list.move_to(block, lists, M);
      LevelSums<G> sums[4];
      sum_levels<words, G>(M, list.codes(block, at, M), levels, sums);
      float offsets[4];
      list.offsets<words>(block, at, offsets);
#pragma unroll
      for (int v = 0; v < 4; ++v)
        if (list.has(block, at + v)) found[v] = limits.passes(sums[v], scale, offsets[v]);
    }
    if ((found[0] | found[1] | found[2] | found[3]) == 0) continue;
#pragma unroll 1
    for (int v = 0; v < 4; ++v)
      list_vector(w, group, list, block, at + v, v == 0 ? found[0] : v == 1 ? found[1] : v == 2 ? found[2] : found[3]);
  }
}

// --- launching

int64_t vectors_of(const ScanQuery<float>& query) {
  int64_t n = 0;
  for (int64_t l = 0; l < query.lists; ++l) n += query.list[l].n;
  return n;
}

// Blocks in the sample of a query: n k / sample vectors are listed, each at the cost of some 30 of the sample.
int samples_of(int64_t blocks, int64_t k) {
  const auto n = static_cast<double>(blocks * kScanBlock);
  const double sample = std::sqrt(30 * n * static_cast<double>(k));
  return static_cast<int>(sample < n ? static_cast<int64_t>(sample / kScanBlock) + 1 : blocks);
}

// Of queries [first, first + count), a group of G after the other.
template <int G>
Batch batch_of(const Scan<float>& all, int64_t first, int64_t count) {
  Batch batch;
  for (int64_t q = 0; q < count; ++q) {
    batch.add(all.queries + first + q, G > 1 && q > 0 ? 0 : -1);  // what queries share, all share
    BatchQuery& query = batch.queries.back();
    query.samples = samples_of(query.blocks, all.k);
  }
  return batch;
}

// Blocks of threads that pass over blocks of 32 vectors, for each of the groups.
struct Grid {
  int64_t groups;

  // Each `fewest` vector blocks or more, if there are to be `wanted` thread blocks.
  int64_t slices(int64_t blocks, int64_t fewest, int64_t wanted) const {
    const int64_t most = (blocks + fewest - 1) / fewest, each = wanted / groups;
    return each < 1 ? 1 : each < most ? each : most;
  }
  dim3 of(int64_t slices) const { return dim3(static_cast<unsigned>(slices), static_cast<unsigned>(groups)); }
};

// The passes of a batch: levels, sample, and what passes listed.
template <bool words, int G>
void list_best(const Context& context, const Batch& batch, const ScreenWork<G>& w) {
  int64_t longest = 0, samples = 0, total = 0;
  for (size_t q = 0; q < batch.queries.size(); q += G) {
    const BatchQuery& query = batch.queries[q];
    longest = query.blocks > longest ? query.blocks : longest;
    samples = query.samples > samples ? query.samples : samples;
    total += query.blocks;
  }
  const Grid grid{(w.queries + G - 1) / G};
  const auto level_bytes = static_cast<size_t>(w.M * kScanEntries) * sizeof(Levels<G>);

  launch(context, level_kernel<G>, grid.of(grid.groups < 32 ? 4 : 1), kThreads<G>, 0, w);
  const int64_t needed = samples / (0xffff / kScanBlock) + 1;  // for counts of 16 bits
  const int64_t wanted = grid.slices(samples, kRoundOfBlocks<G> / 8, kSampleBlocksEach<G> * processors(context));
  launch(context, sample_kernel<words, G>, grid.of(wanted < needed ? needed : wanted), kThreads<G>,
         level_bytes + G * kHistogramBins<G> / 2 * sizeof(unsigned), w);
  // Where lists differ in length, three blocks in the place of one: those that end first take from the others.
  const int64_t resident = kBlocksEach<G> * processors(context);
  const int64_t parts = G == 1 && 4 * longest * grid.groups > 5 * total ? 3 : 1;
  auto* kernel = screen_kernel<words, G, 0>;
  if constexpr (words && G == 1) {
    if (w.M == 8) kernel = screen_kernel<words, G, 8>;
    if (w.M == 16) kernel = screen_kernel<words, G, 16>;
  }
  launch(context, kernel, grid.of(grid.slices(longest, kRoundOfBlocks<G>, parts * resident)), kThreads<G>, level_bytes,
         w);
}

// Queries [first, first + count).
template <int G>
void scan_batch(const Context& context, const Scan<float>& all, int64_t first, int64_t count, int64_t capacity) {
  ScratchFrame frame(context);
  const Batch batch = batch_of<G>(all, first, count);
  const int64_t groups = (count + G - 1) / G;
  ScreenWork<G> w{};
  w.M = static_cast<int>(all.M), w.k = static_cast<int>(all.k);
  w.queries = static_cast<int>(count), w.capacity = static_cast<int>(capacity);
  w.batch = batch.to_device(context, frame);
  w.scales = frame.get<LevelScale>(groups);
  w.levels = frame.get<Levels<G>>(groups * all.M * kScanEntries);
  w.histograms = frame.get<int>(groups * G * kHistogramBins<G>);
  w.found = frame.get<unsigned>(groups * G * kFoundStride);
  w.keys = frame.get<Key>(count * capacity);
  (batch.words ? list_best<true, G> : list_best<false, G>)(context, batch, w);
  const int64_t each = kSlicesEach * processors(context) / count, room = capacity / all.k;
  const int64_t slices = each < 1 ? 1 : each < room ? each : room;  // of queries that did not list all
  const SliceWork rest{w.M, w.k, static_cast<int>(slices), w.batch, w.keys, capacity, w.found, kFoundStride};
  scan_slices(context, rest, count, batch.words);
  join_slices(context, rest, count, all.ids + first * all.k, all.scores + first * all.k);
}

template <int G>
void scan(const Context& context, const Scan<float>& all) {
  int64_t longest = 1;
  for (int64_t q = 0; q < (G == 1 ? all.nq : 1); ++q) {
    const int64_t blocks = blocks_of(all.queries[q]);
    longest = blocks > longest ? blocks : longest;
  }
  const int64_t capacity = 4 * longest * all.k / samples_of(longest, all.k) + 4096;
  int64_t batch = kListedKeys / capacity / G * G;
  if (batch < G) batch = G;
  for (int64_t first = 0; first < all.nq; first += batch)
    scan_batch<G>(context, all, first, all.nq - first < batch ? all.nq - first : batch, capacity);
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

// Whether n vectors of a query are worth a sample.
bool enough(int64_t n, int64_t k, const Fewest& fewest) {
  return n >= fewest.vectors * fewest_screened_vectors && n >= fewest.each * k;
}

bool scans_together(const Context& context, const Scan<float>& all) {
  if (all.nq < kTogether / 2 || !same_lists(all)) return false;
  int shared = 0;
  check_status(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device.index),
               "shared memory");
  const int64_t wanted =
      all.M * kScanEntries * int64_t{sizeof(uint4)} + kTogether * kHistogramBins<kTogether> * 2 + 1024;
  return shared >= wanted && enough(vectors_of(all.queries[0]), all.k, kFewestShared);
}

}  // namespace

bool screened_scan(const Context& context, const Scan<float>& all) {
  if (all.M < 1 || all.M > kMostCodes) return false;
  if (scans_together(context, all)) {
    scan<kTogether>(context, all);
    return true;
  }
  int64_t vectors = 0;
  for (int64_t q = 0; q < all.nq; ++q) vectors += vectors_of(all.queries[q]);
  if (!enough(vectors / all.nq, all.k, kFewestOwn)) return false;
  scan<1>(context, all);
  return true;
}

}  // namespace qinco::kernels::cuda
