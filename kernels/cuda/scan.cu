// Scan by look-up tables. The vectors of a query, list after list, are scored a piece at a time; the k best so far join
// the next piece, and sorts by id, then score, then query, each stable, find the k best again. In groups of queries, so
// that scratch memory is bounded.
#include <vector>

#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan_lists.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kGroupElements = int64_t{1} << 23, kPiece = int64_t{1} << 18;
constexpr uint32_t kNoId = 0xffffffffu;  // beyond every id, so that it comes last among equal scores

// A list and where it begins among the vectors of its query.
template <class T>
struct PlacedList {
  ScanList<T> list;
  int64_t begin;
};

// A query: its tables, its lists in the array of all, and the number of its vectors.
template <class T>
struct PlacedQuery {
  const T* tables;
  int64_t first_list, lists, n;
};

// A group of queries at one piece: `stride` elements for each, k best so far and then a piece of its vectors.
template <class T>
struct Piece {
  int64_t queries, M, k, stride;
  int64_t begin;  // of the piece among the vectors of a query
  const PlacedQuery<T>* query;
  const PlacedList<T>* list;
  T* best_scores;      // [queries,k]
  uint32_t* best_ids;  // [queries,k]
  T* scores;           // [queries,stride]
  uint32_t* ids;       // [queries,stride]
};

template <class T>
__device__ void score_vector(const Piece<T>& p, const PlacedQuery<T>& query, int64_t vector, T& score, uint32_t& id) {
  const PlacedList<T>& placed = list_at(p.list + query.first_list, query.lists, vector);
  const ScanList<T>& list = placed.list;
  const int64_t i = vector - placed.begin;
  const uint8_t* const codes = list.codes + i / kScanBlock * p.M * kScanBlock + i % kScanBlock;
  T total = list.bias;
  if (list.norms) total += list.norms[i];
  for (int64_t m = 0; m < p.M; ++m) total += query.tables[m * 256 + codes[m * kScanBlock]];
  if (total != total) return;
  score = total + T(0);  // -0 is 0
  id = static_cast<uint32_t>(list.first + i);
}

template <class T>
__global__ void score_kernel(Piece<T> p, int32_t* places) {
  for (int64_t e = grid_thread(); e < p.queries * p.stride; e += grid_threads()) {
    const Place at = place(e, p.stride);
    const PlacedQuery<T>& query = p.query[at.row];
    const int64_t vector = p.begin + at.col - p.k;
    T score = kInfinity<T>;
    uint32_t id = kNoId;
    if (at.col >= p.k) {
      if (vector < query.n) score_vector(p, query, vector, score, id);
    } else if (p.begin > 0) {
      score = p.best_scores[at.row * p.k + at.col];
      id = p.best_ids[at.row * p.k + at.col];
    }
    p.scores[e] = score;
    p.ids[e] = id;
    places[e] = static_cast<int32_t>(e);
  }
}

template <class T>
__global__ void take_scores_kernel(int64_t n, const int32_t* places, const T* scores, T* keys) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads()) keys[e] = scores[places[e]];
}

__global__ void query_of_kernel(int64_t n, int64_t stride, const int32_t* places, uint32_t* keys) {
  for (int64_t e = grid_thread(); e < n; e += grid_threads())
    keys[e] = static_cast<uint32_t>(place(places[e], stride).row);
}

template <class T>
__global__ void keep_kernel(Piece<T> p, const int32_t* places) {
  for (int64_t e = grid_thread(); e < p.queries * p.k; e += grid_threads()) {
    const Place at = place(e, p.k);
    const int32_t from = places[at.row * p.stride + at.col];
    p.best_scores[e] = p.scores[from];
    p.best_ids[e] = p.ids[from];
  }
}

template <class T>
__global__ void write_kernel(Piece<T> p, int64_t* ids, T* scores) {
  for (int64_t e = grid_thread(); e < p.queries * p.k; e += grid_threads()) {
    ids[e] = p.best_ids[e] == kNoId ? -1 : static_cast<int64_t>(p.best_ids[e]);
    scores[e] = p.best_scores[e];
  }
}

// Scores one piece and leaves the k best so far.
template <class T>
void scan_piece(const Context& context, const Piece<T>& p) {
  const int64_t n = p.queries * p.stride;
  ScratchFrame frame(context);
  int32_t *const places = frame.get<int32_t>(n), *const others = frame.get<int32_t>(n);
  uint32_t *const keys = frame.get<uint32_t>(n), *const sorted_keys = frame.get<uint32_t>(n);
  T *const score_keys = frame.get<T>(n), *const sorted_scores = frame.get<T>(n);
  launch(context, score_kernel<T>, blocks_for(n), kBlock, 0, p, places);
  sort_pairs(context, n, static_cast<const uint32_t*>(p.ids), places, sorted_keys, others);
  launch(context, take_scores_kernel<T>, blocks_for(n), kBlock, 0, n, others, p.scores, score_keys);
  sort_pairs(context, n, static_cast<const T*>(score_keys), others, sorted_scores, places);
  launch(context, query_of_kernel, blocks_for(n), kBlock, 0, n, p.stride, places, keys);
  sort_pairs(context, n, static_cast<const uint32_t*>(keys), places, sorted_keys, others, bits_for(p.queries));
  launch(context, keep_kernel<T>, blocks_for(p.queries * p.k), kBlock, 0, p, others);
}

// Queries [first, first + count) of a scan.
template <class T>
void scan_group(const Context& context, const Scan<T>& all, int64_t first, int64_t count) {
  std::vector<PlacedQuery<T>> queries;
  std::vector<PlacedList<T>> lists;
  int64_t longest = 0;
  for (int64_t q = first; q < first + count; ++q) {
    const ScanQuery<T>& query = all.queries[q];
    const auto first_list = static_cast<int64_t>(lists.size());
    int64_t n = 0;
    for (int64_t l = 0; l < query.lists; ++l) {
      lists.push_back({query.list[l], n});
      n += query.list[l].n;
    }
    queries.push_back({query.tables, first_list, query.lists, n});
    longest = n > longest ? n : longest;
  }
  const int64_t piece = longest < kPiece ? longest : kPiece;
  ScratchFrame frame(context);
  Piece<T> p{};
  p.queries = count, p.M = all.M, p.k = all.k, p.stride = all.k + piece;
  p.query = to_device(context, frame, queries);
  p.list = to_device(context, frame, lists);
  p.best_scores = frame.get<T>(count * p.k);
  p.best_ids = frame.get<uint32_t>(count * p.k);
  p.scores = frame.get<T>(count * p.stride);
  p.ids = frame.get<uint32_t>(count * p.stride);
  do {
    scan_piece(context, p);
    p.begin += piece;
  } while (p.begin < longest);
  launch(context, write_kernel<T>, blocks_for(count * p.k), kBlock, 0, p, all.ids + first * p.k,
         all.scores + first * p.k);
}

template <class T>
void scan(const Context& context, const Scan<T>& all) {
  if (all.k == 0) return;
  for (int64_t first = 0; first < all.nq;) {
    // As many queries as fit, if each is as long as the longest of them.
    int64_t count = 0, longest = 0;
    for (; first + count < all.nq; ++count) {
      const ScanQuery<T>& query = all.queries[first + count];
      int64_t n = 0;
      for (int64_t l = 0; l < query.lists; ++l) n += query.list[l].n;
      longest = n > longest ? n : longest;
      const int64_t piece = longest < kPiece ? longest : kPiece;
      if (count > 0 && (count + 1) * (all.k + piece) > kGroupElements) break;
    }
    scan_group(context, all, first, count);
    first += count;
  }
}

void float_scan(const Context& context, const Scan<float>& all) {
  if (all.k == 0 || all.nq == 0) return;
  if (all.k > kLargestBlockK)
    scan(context, all);
  else if (!screened_scan(context, all))
    block_scan(context, all);
}

}  // namespace

template <>
void fill_scan(Table<float>& t) {
  t.scan = float_scan;
}

template <>
void fill_scan(Table<double>& t) {
  t.scan = scan<double>;
}

}  // namespace qinco::kernels::cuda
