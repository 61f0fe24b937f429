// The second stage of two-stage search: candidates are decoded by the network and ordered by exact distance.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/context.h"
#include "qinco/search/additive_index.h"
#include "tensor/tensor.h"

namespace qinco {

/// codes [n,M], the host's -> x [n,d] in the original space, in the memory of the context's device.
using Decoder = std::function<void(int64_t n, const int32_t* codes, float* x)>;
/// Writes the codes [M] of vector `id`; called from several threads.
using CodeReader = std::function<void(int64_t id, int32_t* codes)>;

/// Seconds spent in the parts of a search.
struct SearchSeconds {
  double scan = 0, pairs = 0, decode = 0, distances = 0;
  double total() const { return scan + pairs + decode + distances; }
};

/// Re-ranks candidates [nq,nshort] (-1: none) of queries [nq,d]: decodes them and gives the k <= nshort nearest of each
/// query, ids [nq,k] and squared distances [nq,k], the lower id first among equal ones; -1 and +infinity where there
/// are fewer. Pointers are to the host's memory; the context's device decodes and computes distances, which the CPU
/// orders. Adds its time to `seconds`.
void rerank(const kernels::Context& context, const Decoder& decode, const CodeReader& codes_of, int64_t M, int64_t d,
            int64_t nq, const float* queries, int64_t nshort, const int64_t* candidates, int64_t k, int64_t* ids,
            float* distances, SearchSeconds& seconds);

/// A stage between the scan and the network: of `candidates` that the scan finds, those go on that come nearest as
/// `decode` has them (PairwiseDecoder). None where `candidates` is 0.
struct MiddleStage {
  int64_t candidates = 0;
  Decoder decode = {};

  /// How many candidates of the scan it takes to keep nshort: throws Error for fewer than that, unless none.
  int64_t scanned(int64_t nshort) const;
};

/// The nshort best of candidates [nq,stage.scanned(nshort)], by rerank(): where there is no middle stage, themselves.
/// Adds its time to seconds.pairs.
void keep_nearest(const kernels::Context& context, const MiddleStage& stage, const CodeReader& codes_of, int64_t M,
                  int64_t d, int64_t nq, const float* queries, int64_t nshort, std::vector<int64_t>& candidates,
                  SearchSeconds& seconds);

struct TwoStageResult {
  Tensor before, after;  // ids i32 [nq,k] in the order of the short-list, and re-ranked; -1 where there are fewer
  SearchSeconds seconds;
};

/// Scans the index for the nshort best of queries f32 [nq,d], or those that the middle stage leaves, and re-ranks them;
/// keeps the k <= nshort first. Throws Error for sizes that do not fit.
TwoStageResult two_stage_search(const kernels::Context& context, const AdditiveIndex& index, const Decoder& decode,
                                const Tensor& queries, int64_t nshort, int64_t k, const MiddleStage& middle = {});

}  // namespace qinco
