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

constexpr int64_t kRows = 1 << 15;  // candidates decoded together

double lap(Clock::time_point& start) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start).count();
  start = now;
  return seconds;
}

/// Queries whose candidates are decoded together.
int64_t queries_together(int64_t nshort) {
  return std::max<int64_t>(1, kRows / nshort);
}

/// distances [n,nshort] of queries [n,d] to their decoded candidates x [n,nshort,d], which are overwritten; all in the
/// device's memory.
void candidate_distances(const kernels::Context& context, int64_t n, int64_t d, const float* queries, int64_t nshort,
                         float* x, float* distances) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  for_rows(context, n, 1, [&](const kernels::Context& own, int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      float* const rows = x + q * nshort * d;
      kernel.binary(own, kernels::BinaryOp::sub, nshort, d, {rows, d, 1}, {queries + q * d, 0, 1}, rows);
      kernel.row_squared_norm(own, nshort, d, rows, distances + q * nshort);
    }
  });
}

/// The k nearest of the candidates [nshort] of one query by their distances, which are overwritten.
void order_candidates(const kernels::Context& context, int64_t nshort, const int64_t* candidates, float* all, int64_t k,
                      int64_t* ids, float* distances) {
  kernels::ScratchFrame frame(context);
  int32_t* const best = frame.get<int32_t>(k);
  for (int64_t i = 0; i < nshort; ++i)
    if (candidates[i] < 0) all[i] = std::numeric_limits<float>::infinity();
  kernels::table<float>().topk(context, 1, nshort, k, all, best, distances);
  for (int64_t i = 0; i < k; ++i) ids[i] = candidates[best[i]];
}

}  // namespace

void rerank(const kernels::Context& context, const Decoder& decode, const CodeReader& codes_of, int64_t M, int64_t d,
            int64_t nq, const float* queries, int64_t nshort, const int64_t* candidates, int64_t k, int64_t* ids,
            float* distances, SearchSeconds& seconds) {
  check(1 <= k && k <= nshort, "search: {} neighbours asked for of {} candidates", k, nshort);
  const int64_t block = std::min(queries_together(nshort), nq);
  std::vector<int64_t> sorted(static_cast<size_t>(block * nshort));
  std::vector<int32_t> codes(static_cast<size_t>(block * nshort * M));
  std::vector<float> all(static_cast<size_t>(block * nshort));
  const kernels::Context& host = host_context(context);
  Clock::time_point start = Clock::now();
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    std::copy_n(candidates + begin * nshort, count * nshort, sorted.data());
    kernels::parallel_for(host, count, 1, [&](int64_t first, int64_t last, int) {
      for (int64_t q = first; q < last; ++q) {
        int64_t* const row = sorted.data() + q * nshort;  // by id, those that are none last: -1 is the largest unsigned
        std::sort(row, row + nshort, [](int64_t a, int64_t b) { return uint64_t(a) < uint64_t(b); });
        for (int64_t i = 0; i < nshort; ++i) {
          int32_t* const out = codes.data() + (q * nshort + i) * M;
          row[i] < 0 ? void(std::fill_n(out, M, 0)) : codes_of(row[i], out);
        }
      }
    });
    kernels::ScratchFrame frame(context);
    float* const x = frame.get<float>(count * nshort * d);
    decode(count * nshort, codes.data(), x);
    if (context.device.type != DeviceType::cpu) kernels::synchronize(context.device);  // so that its time is its own
    seconds.decode += lap(start);
    float* const computed = result_of(context, frame, all.data(), count * nshort);
    candidate_distances(context, count, d, to_device(context, frame, queries + begin * d, count * d), nshort, x,
                        computed);
    to_host(context, computed, all.data(), count * nshort);
    for_rows(host, count, 1, [&](const kernels::Context& own, int64_t first, int64_t last) {
      for (int64_t q = first; q < last; ++q)
        order_candidates(own, nshort, sorted.data() + q * nshort, all.data() + q * nshort, k, ids + (begin + q) * k,
                         distances + (begin + q) * k);
    });
    seconds.distances += lap(start);
  }
}

TwoStageResult two_stage_search(const kernels::Context& context, const AdditiveIndex& index, const Decoder& decode,
                                const Tensor& queries, int64_t nshort, int64_t k) {
  check(1 <= k && k <= nshort, "search: {} neighbours asked for of {} candidates", k, nshort);
  const Tensor rows = queries.contiguous().to(Device{});
  const int64_t nq = rows.size(0), d = rows.size(1), block = std::min(queries_together(nshort), nq);
  TwoStageResult result{Tensor::empty({nq, k}, DType::i32), Tensor::empty({nq, k}, DType::i32), {}};
  std::vector<int64_t> candidates(static_cast<size_t>(block * nshort)), ids(static_cast<size_t>(block * k));
  std::vector<float> scores(candidates.size()), distances(ids.size());
  const auto codes_of = [&index](int64_t id, int32_t* codes) { index.codes(id, codes); };
  for (int64_t begin = 0; begin < nq; begin += block) {
    const int64_t count = std::min(block, nq - begin);
    const float* const part = rows.data<float>() + begin * d;
    Clock::time_point start = Clock::now();
    index.search(context, count, part, nshort, candidates.data(), scores.data());
    result.seconds.scan += lap(start);
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
