// k-means (Lloyd's algorithm) on the fused nearest-centroid kernel.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

struct KmeansOptions {
  int iterations = 25;
  uint64_t seed = 1;
  int64_t max_points_per_centroid = 256;  // more points than k times this are subsampled; 0 uses all
};

struct Kmeans {
  Tensor centroids;    // f32 [k,d]
  double mse = 0;      // mean squared distance of the points used to their nearest centroid, before the last update
  int iterations = 0;  // fewer than asked for when the assignment no longer changed
};

/// Clusters x [n,d] into k centroids, starting from k distinct rows drawn at random and pulled towards the mean; an
/// empty cluster takes half of the largest one. Deterministic: same data, options and ISA give the same bits at any
/// thread count. Throws Error when n < k or a size is below 1.
Kmeans kmeans(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t k,
              const KmeansOptions& options = {});

}  // namespace qinco
