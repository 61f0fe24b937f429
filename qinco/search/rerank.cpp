#include "qinco/search/rerank.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kRowsTogether = 1 << 15;         // candidates decoded together
constexpr int64_t kCandidates = int64_t{1} << 22;  // of the queries scanned together, 12 bytes each ..
constexpr int64_t kScanQueries = 1024;             // .. which are no more than these, unless kRowsTogether is for more

double lap(Clock::time_point& start) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start).count();
  start = now;
  return seconds;
}

/// Queries whose candidates are decoded together.
int64_t queries_together(int64_t nshort) {
  return std::max<int64_t>(1, kRowsTogether / nshort);
}

/// The candidates of some queries that are there at all, by id: those of query q are [first[q], first[q+1]).
struct Gathered {
  std::vector<int64_t> ids, first;
};

Gathered gather(const kernels::Context& host, int64_t n, int64_t nshort, const int64_t* candidates) {
  Gathered all;
  all.first.assign(static_cast<size_t>(n) + 1, 0);
  for (int64_t q = 0; q < n; ++q)
    all.first[static_cast<size_t>(q) + 1] =
        all.first[static_cast<size_t>(q)] +
        std::count_if(candidates + q * nshort, candidates + (q + 1) * nshort, [](int64_t id) { return id >= 0; });
  all.ids.resize(static_cast<size_t>(all.first.back()));
  kernels::parallel_for(host, n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t q = begin; q < end; ++q) {
      const auto from = all.ids.begin() + all.first[static_cast<size_t>(q)];
      const auto to = std::copy_if(candidates + q * nshort, candidates + (q + 1) * nshort, from,
                                   [](int64_t id) { return id >= 0; });
      std::sort(from, to);
    }
  });
  return all;
}

/// distances of queries [n,d] to their decoded candidates x [.,d], all in the device's memory.
void candidate_distances(const kernels::Context& context, const Gathered& all, int64_t n, int64_t d,
                         const float* queries, const float* x, float* distances) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  for_rows(context, n, 1, [&](const kernels::Context& own, int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      const int64_t first = all.first[static_cast<size_t>(q)], count = all.first[static_cast<size_t>(q) + 1] - first;
      kernel.row_squared_distance(own, count, d, x + first * d, queries + q * d, distances + first);
    }
  });
}

/// The k nearest of `count` candidates by their distances, -1 and +infinity where there are fewer.
void order_candidates(const kernels::Context& context, int64_t count, const int64_t* candidates, const float* all,
                      int64_t k, int64_t* ids, float* distances) {
  const int64_t there = std::min(k, count);
  kernels::ScratchFrame frame(context);
  int32_t* const best = frame.get<int32_t>(there);
  kernels::table<float>().topk(context, 1, count, there, all, best, distances);
  for (int64_t i = 0; i < there; ++i) ids[i] = candidates[best[i]];
  std::fill(ids + there, ids + k, -1);
  std::fill(distances + there, distances + k, std::numeric_limits<float>::infinity());
}

}  // namespace

void rerank(const kernels::Context& context, const Decoder& decode, const CodeReader& codes_of, int64_t M, int64_t d,
            int64_t nq, const float* queries, int64_t nshort, const int64_t* candidates, int64_t k, int64_t* ids,
            float* distances, SearchSeconds& seconds) {
  check(1 <= k && k <= nshort, "search: {} neighbours asked for of {} candidates", k, nshort);
  const int64_t block = std::min(queries_together(nshort), nq);
  const kernels::Context& host = host_context(context);
  Clock::time_point start = Clock::now();
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    const Gathered all = gather(host, count, nshort, candidates + begin * nshort);
    const auto found = static_cast<int64_t>(all.ids.size());
    std::vector<int32_t> codes(static_cast<size_t>(found * M));
    std::vector<float> computed(static_cast<size_t>(found));
    kernels::parallel_for(host, found, nshort, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) codes_of(all.ids[static_cast<size_t>(i)], codes.data() + i * M);
    });
    kernels::ScratchFrame frame(context);
    float* const x = frame.get<float>(found * d);
    decode(found, codes.data(), x);
    kernels::synchronize(context.device);  // so that its time is its own
    seconds.decode += lap(start);
    float* const result = result_of(context, frame, computed.data(), found);
    candidate_distances(context, all, count, d, to_device(context, frame, queries + begin * d, count * d), x, result);
    to_host(context, result, computed.data(), found);
    for_rows(host, count, 1, [&](const kernels::Context& own, int64_t first, int64_t last) {
      for (int64_t q = first; q < last; ++q) {
        const int64_t at = all.first[static_cast<size_t>(q)], there = all.first[static_cast<size_t>(q) + 1] - at;
        order_candidates(own, there, all.ids.data() + at, computed.data() + at, k, ids + (begin + q) * k,
                         distances + (begin + q) * k);
      }
    });
    seconds.distances += lap(start);
  }
}

int64_t MiddleStage::scanned(int64_t nshort) const {
  check(candidates == 0 || candidates >= nshort, "search: the best {} of {} candidates", nshort, candidates);
  return std::max(candidates, nshort);
}

void keep_nearest(const kernels::Context& context, const MiddleStage& stage, const CodeReader& codes_of, int64_t M,
                  int64_t d, int64_t nq, const float* queries, int64_t nshort, std::vector<int64_t>& candidates,
                  SearchSeconds& seconds) {
  if (stage.candidates == 0) return;
  std::vector<int64_t> kept(static_cast<size_t>(nq * nshort));
  std::vector<float> distances(kept.size());
  SearchSeconds spent;
  rerank(context, stage.decode, codes_of, M, d, nq, queries, stage.candidates, candidates.data(), nshort, kept.data(),
         distances.data(), spent);
  std::copy(kept.begin(), kept.end(), candidates.begin());
  seconds.pairs += spent.total();
}

TwoStageResult two_stage_search(const kernels::Context& context, const AdditiveIndex& index, const Decoder& decode,
                                const Tensor& queries, int64_t nshort, int64_t k, const MiddleStage& middle) {
  check(1 <= k && k <= nshort, "search: {} neighbours asked for of {} candidates", k, nshort);
  check(queries.dim() == 2 && queries.size(1) == index.d(), "search: queries {}, expected [nq,{}]", queries.shape(),
        index.d());
  const Tensor rows = queries.contiguous().to(Device{});
  const int64_t nq = rows.size(0), d = rows.size(1);
  const int64_t scanned = middle.scanned(nshort);
  const int64_t together = std::clamp<int64_t>(kCandidates / scanned, 1, kScanQueries);
  const int64_t block = std::min(std::max(queries_together(scanned), together), nq);
  TwoStageResult result{Tensor::empty({nq, k}, DType::i32), Tensor::empty({nq, k}, DType::i32), {}};
  std::vector<int64_t> candidates(static_cast<size_t>(block * scanned)), ids(static_cast<size_t>(block * k));
  std::vector<float> scores(candidates.size()), distances(ids.size());
  const auto codes_of = [&index](int64_t id, int32_t* codes) { index.codes(id, codes); };
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    const float* const part = rows.data<float>() + begin * d;
    Clock::time_point start = Clock::now();
    index.search(context, count, part, scanned, candidates.data(), scores.data());
    result.seconds.scan += lap(start);
    keep_nearest(context, middle, codes_of, index.M(), d, count, part, nshort, candidates, result.seconds);
    rerank(context, decode, codes_of, index.M(), d, count, part, nshort, candidates.data(), k, ids.data(),
           distances.data(), result.seconds);
    for (int64_t q = 0; q < count; ++q)
      for (int64_t i = 0; i < k; ++i) {
        const int64_t at = (begin + q) * k + i;
        result.before.data<int32_t>()[at] = static_cast<int32_t>(candidates[static_cast<size_t>(q * nshort + i)]);
        result.after.data<int32_t>()[at] = static_cast<int32_t>(ids[static_cast<size_t>(q * k + i)]);
      }
  }
  return result;
}

}  // namespace qinco
