// k-means (Lloyd's algorithm) on the fused nearest-centroid kernel.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

enum class KmeansInit : uint8_t {
  random,     // k distinct rows, pulled towards the mean
  plus_plus,  // k-means++ (Arthur & Vassilvitskii, SODA 2007): O(n k d) before the first iteration, k passes over x
};

/// Of n points those that training K centroids uses, at most `per_centroid` each: all where that is 0 or less.
constexpr int64_t training_points(int64_t n, int64_t K, int64_t per_centroid) {
  return per_centroid > 0 && n / per_centroid >= K ? per_centroid * K : n;
}

struct KmeansOptions {
  int iterations = 25;
  uint64_t seed = 1;
  int64_t max_points_per_centroid = 256;  // more points than k times this are subsampled; 0 uses all
  KmeansInit init = KmeansInit::random;
  Tensor initial = {};             // f32 [k,d] to start from instead; undefined: as init says
  const float* weights = nullptr;  // the host's [n], finite, >= 0, not all 0; null: all 1
  // Called after each iteration with the MSE before its update, if set.
  std::function<void(int iteration, double mse)> on_update = {};
  bool measure = true;  // give the MSE of the last update's centroids, for one more assignment; else that before it
  std::function<void()> poll = {};  // called between points while they are assigned, or drawn by plus_plus, if set: may
                                    // throw, which ends the clustering
  int64_t poll_rows = 0;            // points assigned between two calls; 0: a fraction of a second's
};

struct Kmeans {
  Tensor centroids;    // f32 [k,d] on the context's device
  double mse = 0;      // (weighted) mean squared distance of the points used to their nearest centroid
  int iterations = 0;  // fewer than asked for when the assignment no longer changed
};

/// Clusters x [n,d], in the memory of the context's device, into k centroids; a cluster without points (of a weight
/// above 0) takes half of the largest one. Memory beside x and the centroids: O(n), whatever k; and the subsample where
/// there is one. Distances and sums are the device's, counts and the splitting of clusters the CPU's. Deterministic:
/// same data, options and ISA or device give the same bits at any thread count. Throws Error when n < k, a size is
/// below 1, `initial` has another shape, a weight is not as said or a value not finite. Vectors whose mean is a
/// thousand times their spread should be centred first: distances come from products in float.
Kmeans kmeans(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t k,
              const KmeansOptions& options = {});

}  // namespace qinco
