// Scores of a batch of queries in float, in slices of their vectors: the k best of every slice, then those of all.
#pragma once

#include "kernels/cuda/scan_lists.cuh"

namespace qinco::kernels::cuda {

constexpr int kSlicesEach = 6;  // blocks of a multiprocessor that find the best of a slice

struct SliceWork {
  int M, k, slices;
  Batch::OnDevice batch;
  Key* keys;       // [queries][stride]: the k best of every slice, or what was listed before
  int64_t stride;  // slices * k or more
  /// Null; or query q has listed all that its best may be among, which are listed[q * listed_stride], unless these are
  /// more than `stride`.
  const unsigned* listed;
  int listed_stride;

  __device__ bool is_listed(int64_t query) const {
    return listed && listed[query * listed_stride] <= static_cast<unsigned>(stride);
  }
  __device__ int64_t count(int64_t query) const {
    return is_listed(query) ? int64_t{listed[query * listed_stride]} : int64_t{slices} * k;
  }
};

/// The k best of every slice of those queries that have not listed theirs. words: Batch's.
void scan_slices(const Context& context, const SliceWork& work, int64_t queries, bool words);

/// The k best of every query's keys, as results ids and scores [queries,k].
void join_slices(const Context& context, const SliceWork& work, int64_t queries, int64_t* ids, float* scores);

}  // namespace qinco::kernels::cuda
