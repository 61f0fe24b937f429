// Exhaustive search by squared L2 distance.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

/// The k nearest base vectors of each query, found while the base passes by block after block: memory does not grow
/// with the base.
class FlatSearch {
 public:
  /// queries f32 [nq,d], on any device; k >= 1.
  FlatSearch(const kernels::Context& context, const Tensor& queries, int64_t k);

  /// Searches the next n base vectors x [n,d], the host's, whose ids follow those of the vectors before. Does not wait
  /// for a GPU; x may change at once.
  void add(int64_t n, const float* x);

  /// i32 [nq,min(k, vectors added)], nearest first, the lower id first among equal computed distances.
  Tensor ids() const;

 private:
  void add_tile(int64_t n, const float* x, const float* norms, int64_t first_query);

  const kernels::Context& context_;
  int64_t nq_, d_, k_;
  int64_t query_block_, base_block_;  // sizes of a tile of distances
  int64_t held_ = 0;                  // vectors added
  // On the context's device:
  Tensor queries_;  // [nq,d]  -2 q
  Tensor tile_;     // distances
  Tensor values_;   // [nq,k]  ||y||^2 - 2 q.y of the best so far, ascending
  Tensor ids_;      // i32 [nq,k]
};

/// The k nearest of base f32 [n,d] for each of queries f32 [nq,d]: ids i32 [nq,k] as FlatSearch gives them. Throws
/// Error unless the d's agree and 1 <= k <= n.
Tensor flat_search(const kernels::Context& context, const Tensor& base, const Tensor& queries, int64_t k);

}  // namespace qinco
