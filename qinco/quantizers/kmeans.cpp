#include "qinco/quantizers/kmeans.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "tensor/create.h"
#include "tensor/random.h"

namespace qinco {
namespace {

constexpr float kSplit = 1.0f / 1024;  // the two halves of a split cluster differ by this factor, as in Faiss
constexpr float kShrink = 0.25f;
constexpr uint64_t kSampleStream = 0x6b6d65616e73;

/// Rows x[ids] as a new tensor [ids.size(), d].
Tensor gather(const kernels::Context& context, int64_t d, const float* x, const std::vector<int32_t>& ids) {
  const auto n = static_cast<int64_t>(ids.size());
  Tensor rows = Tensor::empty({n, d});
  kernels::table<float>().gather_rows(context, n, d, x, ids.data(), rows.data<float>());
  return rows;
}

/// Gives every empty cluster half of the largest one (counted after the splits before it): both keep its centroid,
/// moved apart by a relative kSplit in alternating directions.
void split_empty(int64_t k, int64_t d, std::vector<int64_t>& counts, float* centroids) {
  using Sized = std::pair<int64_t, int64_t>;  // count, -cluster: the lowest index first among equals
  std::priority_queue<Sized> largest;
  for (int64_t c = 0; c < k; ++c)
    if (counts[c] > 1) largest.push({counts[c], -c});
  for (int64_t c = 0; c < k; ++c) {
    if (counts[c] != 0 || largest.empty()) continue;
    const auto [count, negative] = largest.top();
    const int64_t parent = -negative;
    largest.pop();
    for (int64_t j = 0; j < d; ++j) {
      const float value = centroids[parent * d + j];
      const float sign = j % 2 == 0 ? 1.0f : -1.0f;
      centroids[c * d + j] = value * (1 + sign * kSplit);
      centroids[parent * d + j] = value * (1 - sign * kSplit);
    }
    counts[c] = count / 2;
    counts[parent] = count - count / 2;
    if (counts[c] > 1) largest.push({counts[c], -c});
    if (counts[parent] > 1) largest.push({counts[parent], -parent});
  }
}

/// Centroids = means of their points.
void update(const kernels::Context& context, int64_t n, int64_t d, const float* x, const std::vector<int32_t>& ids,
            int64_t k, float* centroids) {
  const kernels::Table<float>& kernel = kernels::table<float>();
  std::vector<int64_t> counts(static_cast<size_t>(k), 0);
  for (const int32_t id : ids) ++counts[id];
  kernel.fill(context, k * d, 0.0f, centroids);
  kernel.scatter_add_rows(context, n, d, k, ids.data(), x, centroids);
  for (int64_t c = 0; c < k; ++c) {
    if (counts[c] == 0) continue;
    const float scale = 1.0f / static_cast<float>(counts[c]);
    for (int64_t j = 0; j < d; ++j) centroids[c * d + j] *= scale;
  }
  split_empty(k, d, counts, centroids);
}

/// The rows drawn, pulled towards the mean of x. As they are, rows of large norm (outliers among residuals, which have
/// little structure) are nearest to nothing but themselves and stay so: on SIFT's 8th residual half of the clusters end
/// with one point, and an RQ 8x8 with 14% more error.
Tensor initial_centroids(const kernels::Context& context, int64_t n, int64_t d, const float* x,
                         const std::vector<int32_t>& ids) {
  Tensor centroids = gather(context, d, x, ids);
  std::vector<float> sum(static_cast<size_t>(d));
  kernels::table<float>().column_sum(context, n, d, x, sum.data());
  float* c = centroids.data<float>();
  for (int64_t i = 0; i < centroids.numel(); ++i) {
    const float mean = sum[i % d] / static_cast<float>(n);
    c[i] = mean + kShrink * (c[i] - mean);
  }
  return centroids;
}

Kmeans lloyd(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t k, Tensor centroids,
             int iterations) {
  Kmeans result;
  result.centroids = std::move(centroids);
  float* c = result.centroids.data<float>();
  std::vector<int32_t> ids(static_cast<size_t>(n), -1), earlier;
  Tensor distances = Tensor::empty({n});
  for (int i = 0; i < iterations; ++i) {
    earlier = ids;
    kernels::table<float>().nearest(context, n, d, k, x, c, ids.data(), distances.data<float>());
    result.mse = kernels::table<float>().sum(context, n, distances.data<float>()) / static_cast<double>(n);
    result.iterations = i + 1;
    if (ids == earlier) break;
    update(context, n, d, x, ids, k, c);
  }
  return result;
}

}  // namespace

Kmeans kmeans(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t k,
              const KmeansOptions& options) {
  check(k >= 1 && d >= 1, "k-means: k = {} and d = {} must be at least 1", k, d);
  check(n >= k, "k-means: {} centroids need at least as many vectors, found {}", k, n);
  check(n <= std::numeric_limits<int32_t>::max(), "k-means: {} vectors are more than 2^31 - 1", n);
  check(options.iterations >= 1, "k-means: {} iterations, expected at least 1", options.iterations);
  std::vector<int32_t> order = Random(options.seed, kSampleStream).permutation(n);

  const int64_t limit = options.max_points_per_centroid;
  Tensor sample;
  if (limit > 0 && n / limit >= k && n > limit * k) {
    order.resize(static_cast<size_t>(limit * k));
    sample = gather(context, d, x, order);
    n = limit * k;
    x = sample.data<float>();
    for (int64_t i = 0; i < k; ++i) order[i] = static_cast<int32_t>(i);
  }
  order.resize(static_cast<size_t>(k));
  return lloyd(context, n, d, x, k, initial_centroids(context, n, d, x, order), options.iterations);
}

}  // namespace qinco
