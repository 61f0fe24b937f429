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
    const float* tables = w.tables[query];
    float score = list.offset(block, at);
#pragma unroll kAhead
    for (int m = 0; m < w.M; ++m, tables += kScanEntries) score += tables[codes[m * kScanBlock]];
    if (score != score) continue;
    const unsigned place = atomicAdd(&w.found[query * kFoundStride], 1u);
    if (place < static_cast<unsigned>(w.capacity))
      w.keys[int64_t{query} * w.capacity + place] = make_key(score, list.id(block, at));
  }
}

template <bool words, int G>
__global__ void __launch_bounds__(kThreads<G>, kBlocksEach<G>) screen_kernel(ScreenWork<G> w) {
  __shared__ Limits<G> limits;
  const auto group = static_cast<int>(blockIdx.y);
  if (!w.scales[group].screened) return;
  const Levels<G>* const levels = load_levels(w, group, dynamic_shared<Levels<G>>());
  find_limits(w, group, limits);
  __syncthreads();
  const LevelScale scale = w.scales[group];  // read here, as find_limits needs the registers
  const Segments lists = w.groups[group].lists;
  const auto begin = static_cast<int>(int64_t{lists.blocks} * blockIdx.x / gridDim.x);
  const auto end = static_cast<int>(int64_t{lists.blocks} * (blockIdx.x + 1) / gridDim.x);
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int block = begin + static_cast<int>(threadIdx.x) / 8; block - lane() / 8 < end; block += kRoundOfBlocks<G>) {
    LevelSums<G> sums[4];
    bool consecutive = false;  // the warp's blocks, in one list
    const int first = block - lane() / 8;
    if constexpr (words && G == 1) {
      list.move_to(first, lists, w.M);
      consecutive = w.M % 4 == 0 && first + 3 < end && list.has_block(first + 3);
    }
    if (consecutive) {
      sum_levels_of_warp<G>(w.M, list.codes(first, 4 * lane(), w.M), levels, sums);
    } else {
      if (block >= end) continue;
      list.move_to(block, lists, w.M);
      sum_levels<words, G>(w.M, list.codes(block, at, w.M), levels, sums);
    }
    float offsets[4];
    list.offsets<words>(block, at, offsets);
    unsigned found[4];  // bits of queries
#pragma unroll
    for (int v = 0; v < 4; ++v)
      found[v] = list.has(block, at + v) ? limits.passes(sums[v], limits.highest - units_down(scale, offsets[v])) : 0;
    if ((found[0] | found[1] | found[2] | found[3]) == 0) continue;
#pragma unroll 1
    for (int v = 0; v < 4; ++v)
      list_vector(w, group, list, block, at + v, v == 0 ? found[0] : v == 1 ? found[1] : v == 2 ? found[2] : found[3]);
  }
}

// The k best of a slice of the vectors of query blockIdx.y, in the list's place where that does not hold them.
template <bool words, int G>
__global__ void __launch_bounds__(kBlock) unlisted_kernel(ScreenWork<G> w, int buffer) {
  __shared__ BlockSelect::State state;
  const int64_t query = blockIdx.y, slice = blockIdx.x;
  if (w.all_listed(query)) return;
  Key* const keys = dynamic_shared<Key>();
  BlockSelect best(keys, &state, buffer, w.k);
  const Segments lists = w.groups[query / G].lists;
  offer_vectors<words>(best, w.M, lists, w.tables[query], static_cast<int>(lists.blocks * slice / w.unlisted_slices),
                       static_cast<int>(lists.blocks * (slice + 1) / w.unlisted_slices));
  best.finish();
  for (int i = threadIdx.x; i < w.k; i += kBlock) w.keys[query * w.capacity + slice * w.k + i] = keys[i];
}

// The k best of what a query has listed.
template <int G>
__global__ void __launch_bounds__(kBlock) finish_kernel(ScreenWork<G> w, int buffer, int64_t* ids, float* scores) {
  __shared__ BlockSelect::State state;
  Key* const keys = dynamic_shared<Key>();
  const int64_t query = blockIdx.x;
  BlockSelect best(keys, &state, buffer, w.k, true);
  best.offer_all(w.keys + query * w.capacity,
                 w.all_listed(query) ? w.found[query * kFoundStride] : int64_t{w.unlisted_slices} * w.k);
  write_best(best, keys, w.k, ids + query * w.k, scores + query * w.k);
}

// --- launching

int64_t vectors_of(const ScanQuery<float>& query) {
  int64_t n = 0;
  for (int64_t l = 0; l < query.lists; ++l) n += query.list[l].n;
  return n;
}

int64_t blocks_of(const ScanQuery<float>& query) {
  int64_t blocks = 0;
  for (int64_t l = 0; l < query.lists; ++l) blocks += (query.list[l].n + kScanBlock - 1) / kScanBlock;
  return blocks;
}

// Blocks in the sample of a query: n k / sample vectors are listed, each at the cost of some 30 of the sample.
int samples_of(int64_t blocks, int64_t k) {
  const auto n = static_cast<double>(blocks * kScanBlock);
  const double sample = std::sqrt(30 * n * static_cast<double>(k));
  return static_cast<int>(sample < n ? static_cast<int64_t>(sample / kScanBlock) + 1 : blocks);
}

// What a batch of queries has for lists, which are the device's.
struct BatchLists {
  std::vector<QueryGroup> groups;
  bool words = true;            // SegmentList's
  int blocks = 0, samples = 0;  // the most of a group
};

// Of queries [first, first + count).
template <int G>
BatchLists lists_of(const Context& context, ScratchFrame& frame, const Scan<float>& all, int64_t first, int64_t count) {
  BatchLists batch;
  SegmentList lists;
  int64_t segments_at_most = 0;
  for (int64_t q = 0; q < (G == 1 ? count : 1); ++q) segments_at_most += all.queries[first + q].lists;
  lists.segments.reserve(static_cast<size_t>(segments_at_most));
  std::vector<size_t> begins;
  for (int64_t q = 0; q < count; q += G) {
    if (G > 1 && q > 0) {  // all groups' lists are the first one's
      begins.push_back(0);
      batch.groups.push_back(batch.groups[0]);
      continue;
    }
    begins.push_back(lists.segments.size());
    const int blocks = lists.append(all.queries[first + q]), samples = samples_of(blocks, all.k);
    batch.groups.push_back({{nullptr, static_cast<int>(lists.segments.size() - begins.back()), blocks}, samples});
    batch.blocks = blocks > batch.blocks ? blocks : batch.blocks;
    batch.samples = samples > batch.samples ? samples : batch.samples;
  }
  const Segment* const segments = to_device(context, frame, lists.segments);
  for (size_t g = 0; g < begins.size(); ++g) batch.groups[g].lists.list = segments + begins[g];
  batch.words = lists.words;
  return batch;
}

template <bool words, int G>
void launch_kernels(const Context& context, const BatchLists& batch, ScreenWork<G> w, int64_t* ids, float* scores) {
  const auto groups = static_cast<int64_t>(batch.groups.size());
  const auto grid = [&](int64_t slices) { return dim3(static_cast<unsigned>(slices), static_cast<unsigned>(groups)); };
  // Of at least `fewest` blocks of 32 each, if there are to be `wanted` thread blocks.
  const auto slices = [&](int64_t blocks, int64_t fewest, int64_t wanted) {
    const int64_t most = (blocks + fewest - 1) / fewest, each = wanted / groups;
    return each < 1 ? 1 : each < most ? each : most;
  };
  const auto level_bytes = static_cast<size_t>(w.M * kScanEntries) * sizeof(Levels<G>);
  const int64_t resident = kBlocksEach<G> * processors(context);

  launch(context, level_kernel<G>, grid(groups < 32 ? 4 : 1), kThreads<G>, 0, w);
  const int64_t needed = batch.samples / (0xffff / kScanBlock) + 1;  // for counts of 16 bits
  const int64_t wanted = slices(batch.samples, kRoundOfBlocks<G> / 8, G == 1 ? resident : processors(context));
  launch(context, sample_kernel<words, G>, grid(wanted < needed ? needed : wanted), kThreads<G>,
         level_bytes + G * kHistogramBins<G> / 2 * sizeof(unsigned), w);
  // Lists of queries differ in length: with three blocks in the place of one those that end first take from the others.
  launch(context, screen_kernel<words, G>,
         grid(slices(batch.blocks, kRoundOfBlocks<G>, G == 1 ? 3 * resident : resident)), kThreads<G>, level_bytes, w);
  const int64_t each = resident / w.queries, room = w.capacity / w.k;
  w.unlisted_slices = static_cast<int>(each < 1 ? 1 : each < room ? each : room);
  const int unlisted = select_capacity(w.k), select = join_capacity(w.k, w.capacity);
  launch(context, unlisted_kernel<words, G>,
         dim3(static_cast<unsigned>(w.unlisted_slices), static_cast<unsigned>(w.queries)), kBlock,
         static_cast<size_t>(unlisted) * sizeof(Key), w, unlisted);
  launch(context, finish_kernel<G>, static_cast<unsigned>(w.queries), kBlock, static_cast<size_t>(select) * sizeof(Key),
         w, select, ids, scores);
}

// Queries [first, first + count).
template <int G>
void scan_batch(const Context& context, const Scan<float>& all, int64_t first, int64_t count, int64_t capacity) {
  ScratchFrame frame(context);
  const BatchLists batch = lists_of<G>(context, frame, all, first, count);
  const auto groups = static_cast<int64_t>(batch.groups.size());
  std::vector<const float*> tables;
  for (int64_t q = first; q < first + count; ++q) tables.push_back(all.queries[q].tables);
  ScreenWork<G> w{};
  w.M = static_cast<int>(all.M), w.k = static_cast<int>(all.k);
  w.queries = static_cast<int>(count), w.capacity = static_cast<int>(capacity);
  w.tables = to_device(context, frame, tables);
  w.groups = to_device(context, frame, batch.groups);
  w.scales = frame.get<LevelScale>(groups);
  w.levels = frame.get<Levels<G>>(groups * all.M * kScanEntries);
  w.histograms = frame.get<int>(groups * G * kHistogramBins<G>);
  w.found = frame.get<unsigned>(groups * G * kFoundStride);
  w.keys = frame.get<Key>(count * capacity);
  (batch.words ? launch_kernels<true, G> : launch_kernels<false, G>)(context, batch, w, all.ids + first * all.k,
                                                                     all.scores + first * all.k);
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
