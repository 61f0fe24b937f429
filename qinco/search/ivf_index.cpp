#include "qinco/search/ivf_index.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "qinco/quantizers/checks.h"
#include "qinco/search/ivf_limits.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"
#include "tensor/ops.h"

namespace qinco {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kShortLists = int64_t{1} << 20;     // candidates held together
constexpr int64_t kTablesInCache = int64_t{1} << 16;  // floats of look-up tables that a core's L2 cache keeps
constexpr int64_t kMaxId = int64_t{std::numeric_limits<uint32_t>::max()} - 1;

/// The fixed codebooks of the file with its levels of norms.
ScanTables tables_of(const IvfParameters& p, Device device) {
  return ScanTables(p.codebooks, NormQuantizer(p.levels), device);
}

/// The graph in the file at `path`.
Hnsw graph_of(const std::string& path, const IvfParameters& p) {
  try {
    return Hnsw::from_bytes(p.d, p.graph);
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
}

}  // namespace

IvfIndex::IvfIndex(const std::string& path, std::shared_ptr<const IvfCoder> coder)
    : coder_(given_coder(std::move(coder))),
      file_(IvfFile::open(path)),
      tables_(tables_of(file_.parameters(), coder_->device())),
      kernels_(&kernels::table<float>(coder_->device())),
      directory_(file_.parameters().K_ivf) {
  const IvfParameters& p = file_.parameters();
  const QincoConfig& config = coder_->config();
  check(p.d == config.d && p.M <= config.M && p.K == config.K && p.K_ivf == config.K_ivf,
        "{}: index of d={} M={} K={} K_ivf={}, the model has d={} M={} K={} K_ivf={}", path, p.d, p.M, p.K, p.K_ivf,
        config.d, config.M, config.K, config.K_ivf);
  check(p.model == coder_->fingerprint(), "{}: the index was built for another model of the same sizes", path);
  if (!p.graph.empty()) graph_ = graph_of(path, p);
  check(!graph_ || graph_->size() == p.K_ivf, "{}: damaged index: a graph of {} centroids, expected {}", path,
        graph_ ? graph_->size() : 0, p.K_ivf);
  const kernels::Context& host = kernels::Context::cpu();
  host_norms_.resize(static_cast<size_t>(p.K_ivf));
  kernels::table<float>().row_squared_norm(host, p.K_ivf, p.d, coder_->centroids().data<float>(), host_norms_.data());
  if (!graph_) {
    centroid_norms_ = from_vector(host_norms_).to(coder_->device());
    const Tensor centroids = scale(coder_->centroids(), -2).to(coder_->device());
    coarse_.allocate(*kernels_, coder_->device(), p.K_ivf, p.d, kernels::Precision::fast);
    coarse_.pack(*kernels_, kernels::Context::of(coder_->device()), centroids.data<float>(), p.d);
  }
  check_blocks(path, file_.blocks());
  directory_.take(file_);
}

IvfIndex::Directory::Directory(int64_t K_ivf)
    : first(static_cast<size_t>(K_ivf), kNone), last(static_cast<size_t>(K_ivf), kNone) {}

void IvfIndex::Directory::take(const IvfFile& file) {
  size_t number = pieces.size(), more = 0;
  for (size_t s = segments; s < file.segments().size(); ++s) more += static_cast<size_t>(file.segments()[s].pieces);
  pieces.resize(number + more);
  for (; segments < file.segments().size(); ++segments) {
    const IvfSegment& segment = file.segments()[segments];
    uint32_t block = 0;
    for (int64_t i = 0; i < segment.pieces; ++i, ++number) {
      const uint32_t list = segment.lists[i], count = segment.counts[i], before = last[list];
      pieces[number] = {list, count, kNone, segments, block, static_cast<uint32_t>(blocks) + block};
      (before == kNone ? first[list] : pieces[before].next) = static_cast<uint32_t>(number);
      last[list] = static_cast<uint32_t>(number);
      block += static_cast<uint32_t>((int64_t{count} + kernels::kScanBlock - 1) / kernels::kScanBlock);
    }
    blocks += segment.blocks;
  }
}

void IvfIndex::add(std::span<const float> x, int64_t first_id) {
  const int64_t d = file_.parameters().d;
  const auto n = static_cast<int64_t>(x.size()) / d;
  check(static_cast<int64_t>(x.size()) == n * d, "index: {} values are not vectors of dimension {}", x.size(), d);
  check_ids(n, first_id);
  check_finite("index", n, d, x.data());
  const int64_t entries = file_.parameters().M + 1;
  std::vector<int32_t> codes(static_cast<size_t>(n * entries));
  coder_->codec().encode(n, x.data(), codes.data(), nullptr, nullptr, entries);
  add_codes(codes, first_id, entries);
}

void IvfIndex::add_codes(std::span<const int32_t> codes, int64_t first_id, std::optional<int64_t> entries_given) {
  const IvfParameters& p = file_.parameters();
  const int64_t most = coder_->config().codes(), entries_each = entries_given.value_or(most);
  check(p.M + 1 <= entries_each && entries_each <= most, "index: codes of {} entries, expected {} to {}", entries_each,
        p.M + 1, most);
  const auto n = static_cast<int64_t>(codes.size()) / entries_each;
  check(static_cast<int64_t>(codes.size()) == n * entries_each, "index: {} entries are not codes of {} entries",
        codes.size(), entries_each);
  check_ids(n, first_id);
  check_codes(coder_->config(), n, codes.data(), entries_each);
  if (n == 0) return;
  std::vector<int32_t> lists(static_cast<size_t>(n)), within(static_cast<size_t>(n * p.M));
  split_codes(entries_each, p.M, n, codes.data(), lists.data(), within.data());
  std::vector<float> norms(static_cast<size_t>(n));
  residual_norms(*coder_, p.codebooks, n, lists.data(), within.data(), norms.data());
  IvfEntries entries;
  entries.ranges = {{first_id, first_id + n}};
  entries.bytes.resize(static_cast<size_t>(n * p.width()));
  tables_.to_bytes(n, within.data(), norms.data(), entries.bytes.data());
  entries.lists.assign(lists.begin(), lists.end());
  entries.ids.resize(static_cast<size_t>(n));
  std::iota(entries.ids.begin(), entries.ids.end(), static_cast<uint32_t>(first_id));
  IvfFile longer = file_;
  if (!longer.append(entries)) {  // somebody else has written to it
    Directory all(p.K_ivf);
    all.take(longer);
    directory_ = std::move(all);
    lists_->codes.clear();
  } else {
    directory_.take(longer);
  }
  file_ = std::move(longer);
}

void IvfIndex::check_ids(int64_t n, int64_t first_id) const {
  check(first_id >= 0 && n <= kMaxId && first_id <= kMaxId - n, "index: {} ids from {} on, expected ids below {}", n,
        first_id, kMaxId);
  for (const IvfSegment& segment : file_.segments())
    check_disjoint(file_.path(), segment.ranges, {{first_id, first_id + n}});
  if (n > 0) file_.check_writable();
}

const IvfIndex::Piece& IvfIndex::piece_of(int64_t slot) const {
  const int64_t block = slot / kernels::kScanBlock;
  const std::vector<Piece>& pieces = directory_.pieces;
  const auto after = std::upper_bound(pieces.begin(), pieces.end(), block,
                                      [](int64_t wanted, const Piece& piece) { return wanted < piece.first_block; });
  return *(after - 1);
}

const uint8_t* IvfIndex::codes_in_file(const Piece& piece) const {
  return file_.segments()[piece.segment].codes + piece.block * file_.parameters().width() * kernels::kScanBlock;
}

void IvfIndex::codes_of(int64_t slot, int32_t* codes) const {
  const Piece& piece = piece_of(slot);
  const uint8_t* const bytes = codes_in_file(piece);
  const int64_t i = slot - piece.first_block * kernels::kScanBlock, width = file_.parameters().width();
  *codes++ = static_cast<int32_t>(piece.list);
  for (int64_t m = 0; m + 1 < width; ++m) *codes++ = bytes[kernels::scan_place(i, m, width)];
}

int64_t IvfIndex::id_of(int64_t slot) const {
  const Piece& piece = piece_of(slot);
  return file_.segments()[piece.segment].ids[slot - (piece.first_block - piece.block) * kernels::kScanBlock];
}

// The segments' codes on the coder's device, which is not the CPU.
const std::vector<Tensor>& IvfIndex::device_codes() const {
  const std::lock_guard lock(lists_->mutex);
  const std::vector<IvfSegment>& segments = file_.segments();
  if (lists_->codes.size() == segments.size()) return lists_->codes;
  std::vector<Tensor> copies = lists_->codes;  // all or none of the others: there may be no room for the next one
  while (copies.size() < segments.size()) {
    const IvfSegment& segment = segments[copies.size()];
    const int64_t bytes = segment.blocks * file_.parameters().width() * kernels::kScanBlock;
    copies.push_back(Tensor::empty({bytes}, DType::u8, coder_->device()));
    kernels::copy_bytes(coder_->device(), copies.back().bytes(), Device{}, segment.codes, static_cast<size_t>(bytes));
  }
  lists_->codes = std::move(copies);
  return lists_->codes;
}

// The nprobe nearest lists [nq,nprobe] and their ||c||^2 - 2 <q,c>. The distances to all centroids are those of a few
// queries at a time.
void IvfIndex::coarse(int64_t nq, const float* queries, int64_t nprobe, int32_t* lists, float* biases) const {
  const kernels::Context& context = kernels::Context::of(coder_->device());
  const int64_t d = file_.parameters().d, K = file_.parameters().K_ivf;
  const int64_t block = std::clamp<int64_t>(ivf_limits::coarse_floats / K, 1, nq);
  kernels::ScratchFrame frame(context);
  float* const distances = frame.get<float>(block * K);
  const float* const vectors = to_device(context, frame, queries, nq * d);
  int32_t* const found = result_of(context, frame, lists, nq * nprobe);
  float* const best = result_of(context, frame, biases, nq * nprobe);
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    kernels::Linear<float> product = coarse_.product(count, vectors + begin * d, distances);
    product.residual = centroid_norms_.data<float>(), product.ldr = 0;
    kernels_->linear(context, product);
    kernels_->topk(context, count, K, nprobe, distances, found + begin * nprobe, best + begin * nprobe);
  }
  to_host(context, found, lists, nq * nprobe);
  to_host(context, best, biases, nq * nprobe);
}

// The same by the graph; -1 and no bias where it found fewer.
void IvfIndex::coarse_by_graph(int64_t nq, const float* queries, int64_t nprobe, int64_t ef, int32_t* lists,
                               float* biases) const {
  const int64_t d = file_.parameters().d;
  const float* const centroids = coder_->centroids().data<float>();
  kernels::parallel_for(kernels::Context::cpu(), nq, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t q = begin; q < end; ++q) {
      graph_->search(queries + q * d, nprobe, ef, lists + q * nprobe);
      for (int64_t i = q * nprobe; i < (q + 1) * nprobe && lists[i] >= 0; ++i) {
        float product = 0;
        for (int64_t j = 0; j < d; ++j) product += queries[q * d + j] * centroids[lists[i] * d + j];
        biases[i] = host_norms_[static_cast<size_t>(lists[i])] - 2 * product;
      }
    }
  });
}

// What each query visits, of its nprobe lists.
std::vector<IvfIndex::Visits> IvfIndex::visits_of(int64_t nq, int64_t nprobe, const int32_t* lists,
                                                  const float* biases) const {
  const bool cpu = coder_->device().type == DeviceType::cpu;
  const std::vector<Tensor>& copies = cpu ? lists_->codes : device_codes();
  const int64_t block_bytes = file_.parameters().width() * kernels::kScanBlock;
  std::vector<Visits> all(static_cast<size_t>(nq));
  for (int64_t i = 0; i < nq * nprobe; ++i) {
    if (lists[i] < 0) continue;
    for (uint32_t at = directory_.first[static_cast<size_t>(lists[i])]; at != kNone; at = directory_.pieces[at].next) {
      const Piece& piece = directory_.pieces[at];
      const uint8_t* const codes =
          cpu ? codes_in_file(piece) : copies[piece.segment].data<uint8_t>() + piece.block * block_bytes;
      all[static_cast<size_t>(i / nprobe)].push_back(
          {piece.count, codes, nullptr, biases[i], piece.first_block * kernels::kScanBlock});
    }
  }
  return all;
}

// The `best` of the lists that each query visits: slots [nq,best]. Pointers are to the host's memory.
void IvfIndex::scan(int64_t nq, const float* queries, const IvfSearchOptions& options, int64_t best,
                    int64_t* slots) const {
  const kernels::Context& context = kernels::Context::of(coder_->device());
  const int64_t nprobe = std::min(options.nprobe, file_.parameters().K_ivf), d = tables_.d(),
                table = tables_.width() * kernels::kScanEntries;
  std::vector<int32_t> lists(static_cast<size_t>(nq * nprobe));
  std::vector<float> biases(lists.size());
  if (graph_) {
    coarse_by_graph(nq, queries, nprobe, options.ef_search, lists.data(), biases.data());
  } else {
    coarse(nq, queries, nprobe, lists.data(), biases.data());
  }
  const std::vector<Visits> visits = visits_of(nq, nprobe, lists.data(), biases.data());
  const bool cpu = context.device.type == DeviceType::cpu;
  const int64_t together = cpu ? std::clamp<int64_t>(context.threads * kTablesInCache / table, 1, nq) : nq;
  kernels::ScratchFrame frame(context);
  const float* const vectors = to_device(context, frame, queries, nq * d);
  float* const tables = frame.get<float>(together * table);
  int64_t* const found = result_of(context, frame, slots, nq * best);
  float* const scores = frame.get<float>(together * best);
  std::vector<kernels::ScanQuery<float>> scans;
  for (int64_t begin = 0; begin < nq; begin += together) {
    const int64_t count = std::min(together, nq - begin);
    tables_.make(context, count, vectors + begin * d, tables);
    scans.clear();
    for (int64_t q = 0; q < count; ++q) {
      const Visits& visited = visits[static_cast<size_t>(begin + q)];
      scans.push_back({tables + q * table, static_cast<int64_t>(visited.size()), visited.data()});
    }
    kernels_->scan(context, {count, tables_.width(), best, scans.data(), found + begin * best, scores});
  }
  to_host(context, found, slots, nq * best);
}

void IvfIndex::make_pairwise_decoder(int64_t entries) {
  check(entries >= 1, "index: a pairwise decoder fitted to {} entries", entries);
  check(size() > 0, "{}: an empty index, nothing to fit a pairwise decoder to", file_.path());
  const int64_t width = file_.parameters().M + 1, stride = (size() - 1) / entries + 1;
  std::vector<int32_t> codes;
  int64_t next = 0;  // of the entries, in the order of the file
  for (const Piece& piece : directory_.pieces) {
    for (; next < piece.count; next += stride) {
      codes.resize(codes.size() + static_cast<size_t>(width));
      codes_of(piece.first_block * kernels::kScanBlock + next, codes.data() + codes.size() - width);
    }
    next -= piece.count;
  }
  pairs_.emplace(coder_->codec(), std::ssize(codes) / width, codes.data(), width);
}

IvfResult IvfIndex::search(std::span<const float> queries, const IvfSearchOptions& options) const {
  const IvfParameters& p = file_.parameters();
  const int64_t d = p.d, k = options.k, nshort = options.nshort, codes = p.M + 1;
  const int64_t decoded = options.M_used == 0 ? codes : options.M_used + 1;
  const auto nq = static_cast<int64_t>(queries.size()) / d;
  check(static_cast<int64_t>(queries.size()) == nq * d, "search: {} values are not queries of dimension {}",
        queries.size(), d);
  check(1 <= k && k <= nshort, "search: {} neighbours asked for of {} candidates", k, nshort);
  const MiddleStage middle{options.npairs,
                           [&](int64_t n, const int32_t* all, float* x) { pairs_->decode_to_device(n, all, x); }};
  const int64_t scanned = middle.scanned(nshort);
  check(scanned <= kMaxId, "search: {} candidates, expected at most {}, which is all that an index can hold", scanned,
        kMaxId);
  check(options.nprobe >= 1, "search: nprobe {}, expected at least 1", options.nprobe);
  check(options.ef_search >= 1, "search: efSearch {}, expected at least 1", options.ef_search);
  check(1 <= decoded && decoded <= codes, "search: {} codes to decode, the index keeps {}", options.M_used, p.M);
  check(options.npairs == 0 || pairs_, "search: {} candidates for a pairwise decoder that has not been made",
        options.npairs);
  const Decoder decode = [&](int64_t n, const int32_t* all, float* x) {
    coder_->codec().decode_to_device(n, all, codes, decoded, x);
  };
  const CodeReader read = [&](int64_t slot, int32_t* out) { codes_of(slot, out); };
  const auto id = [&](int64_t slot) { return slot < 0 ? -1 : id_of(slot); };
  const kernels::Context& context = kernels::Context::of(coder_->device());
  IvfResult result;
  result.ids.resize(static_cast<size_t>(nq * k));
  result.short_list.resize(result.ids.size());
  result.distances.resize(result.ids.size());
  const int64_t block = std::clamp<int64_t>(kShortLists / scanned, 1, 256);
  std::vector<int64_t> slots(static_cast<size_t>(block * scanned)), best(static_cast<size_t>(block * k));
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    const float* const part = queries.data() + begin * d;
    float* const distances = result.distances.data() + begin * k;
    const Clock::time_point start = Clock::now();
    scan(count, part, options, scanned, slots.data());
    result.seconds.scan += std::chrono::duration<double>(Clock::now() - start).count();
    keep_nearest(context, middle, read, codes, d, count, part, nshort, slots, result.seconds);
    rerank(context, decode, read, codes, d, count, part, nshort, slots.data(), k, best.data(), distances,
           result.seconds);
    for (int64_t i = 0; i < count * k; ++i) {
      const bool found = best[static_cast<size_t>(i)] >= 0 && std::isfinite(distances[i]);
      result.ids[static_cast<size_t>(begin * k + i)] = found ? id(best[static_cast<size_t>(i)]) : -1;
      if (!found) distances[i] = std::numeric_limits<float>::infinity();
      result.short_list[static_cast<size_t>(begin * k + i)] = id(slots[static_cast<size_t>(i / k * nshort + i % k)]);
    }
  }
  return result;
}

}  // namespace qinco
