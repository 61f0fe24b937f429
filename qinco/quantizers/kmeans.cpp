#include "qinco/quantizers/kmeans.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/quantizers/kmeans_init.h"
#include "tensor/random.h"

namespace qinco {
namespace {

constexpr float kSplit = 1.0f / 1024;     // the two halves of a split cluster differ by this factor, as in Faiss
constexpr int64_t kWeightRows = 1 << 16;  // rows multiplied by their weights at a time
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

/// What is clustered: x [n,d] with weights [n] or null.
struct Points {
  int64_t n, d;
  const float* x;
  const float* weights;
};

/// sums[id] += weight * row for all points: without weights one scatter, with them block by block.
void add_rows(const kernels::Context& context, const Points& points, const int32_t* ids, int64_t k, float* sums) {
  const kernels::Table<float>& kernel = kernels::table<float>();
  const auto [n, d, x, weights] = points;
  if (!weights) return kernel.scatter_add_rows(context, n, d, k, ids, x, sums);
  std::vector<float> block(static_cast<size_t>(std::min(n, kWeightRows) * d));
  for (int64_t begin = 0; begin < n; begin += kWeightRows) {
    const int64_t count = std::min(kWeightRows, n - begin);
    kernel.binary(context, kernels::BinaryOp::mul, count, d, {x + begin * d, d, 1}, {weights + begin, 1, 0},
                  block.data());
    kernel.scatter_add_rows(context, count, d, k, ids + begin, block.data(), sums);
  }
}

/// Centroids = weighted means of their points.
void update(const kernels::Context& context, const Points& points, const std::vector<int32_t>& ids, int64_t k,
            float* centroids) {
  const int64_t d = points.d;
  std::vector<int64_t> counts(static_cast<size_t>(k), 0);
  std::vector<double> masses(static_cast<size_t>(k), 0);
  for (int64_t i = 0; i < points.n; ++i) {
    const double weight = points.weights ? static_cast<double>(points.weights[i]) : 1.0;
    masses[ids[i]] += weight;
    counts[ids[i]] += weight > 0;
  }
  kernels::table<float>().fill(context, k * d, 0.0f, centroids);
  add_rows(context, points, ids.data(), k, centroids);
  for (int64_t c = 0; c < k; ++c) {
    if (counts[c] == 0) continue;
    const auto scale = static_cast<float>(1 / masses[c]);
    for (int64_t j = 0; j < d; ++j) centroids[c * d + j] *= scale;
  }
  split_empty(k, d, counts, centroids);
}

double mean_distance(const kernels::Context& context, const Points& points, const float* distances) {
  if (!points.weights) return kernels::table<float>().sum(context, points.n, distances) / static_cast<double>(points.n);
  double total = 0, mass = 0;
  for (int64_t i = 0; i < points.n; ++i) {
    total += static_cast<double>(points.weights[i]) * static_cast<double>(distances[i]);
    mass += static_cast<double>(points.weights[i]);
  }
  return total / mass;
}

Kmeans lloyd(const kernels::Context& context, const Points& points, int64_t k, Tensor centroids,
             const KmeansOptions& options) {
  Kmeans result;
  result.centroids = std::move(centroids);
  float* c = result.centroids.data<float>();
  std::vector<int32_t> ids(static_cast<size_t>(points.n), -1), earlier;
  Tensor distances = Tensor::empty({points.n});
  for (int i = 0; i < options.iterations; ++i) {
    earlier = ids;
    kernels::table<float>().nearest(context, points.n, points.d, k, points.x, c, ids.data(), distances.data<float>());
    result.mse = mean_distance(context, points, distances.data<float>());
    result.iterations = i + 1;
    if (options.on_update) options.on_update(i + 1, result.mse);
    if (ids == earlier) break;
    update(context, points, ids, k, c);
  }
  return result;
}

void check_weights(int64_t n, const float* weights) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    check(std::isfinite(weights[i]) && weights[i] >= 0, "k-means: weight {} is {}, expected a finite value >= 0", i,
          weights[i]);
    total += static_cast<double>(weights[i]);
  }
  check(total > 0, "k-means: all weights are 0");
}

}  // namespace

Kmeans kmeans(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t k,
              const KmeansOptions& options) {
  check(k >= 1 && d >= 1, "k-means: k = {} and d = {} must be at least 1", k, d);
  check(n >= k, "k-means: {} centroids need at least as many vectors, found {}", k, n);
  check(n <= std::numeric_limits<int32_t>::max(), "k-means: {} vectors are more than 2^31 - 1", n);
  check(options.iterations >= 1, "k-means: {} iterations, expected at least 1", options.iterations);
  const Tensor& initial = options.initial;
  check(!initial.defined() || initial.shape() == Shape{k, d}, "k-means: initial centroids {}, expected {}",
        initial.shape().str(), Shape{k, d}.str());
  if (options.weights) check_weights(n, options.weights);
  Random random(options.seed, kSampleStream);
  std::vector<int32_t> order = random.permutation(n);

  Points points{n, d, x, options.weights};
  const int64_t limit = options.max_points_per_centroid;
  Tensor sample, sample_weights;
  if (limit > 0 && n / limit >= k && n > limit * k) {
    points.n = limit * k;
    order.resize(static_cast<size_t>(points.n));
    sample = gather(context, d, x, order);
    points.x = sample.data<float>();
    if (options.weights) {
      sample_weights = gather(context, 1, options.weights, order);
      points.weights = sample_weights.data<float>();
      check_weights(points.n, points.weights);
    }
    std::iota(order.begin(), order.end(), 0);
  }
  if (initial.defined()) return lloyd(context, points, k, initial.clone(), options);
  if (options.init == KmeansInit::plus_plus) {
    Tensor rows = plus_plus_rows(context, points.n, d, points.x, points.weights, k, random);
    return lloyd(context, points, k, std::move(rows), options);
  }
  order.resize(static_cast<size_t>(k));
  return lloyd(context, points, k, shrunk_rows(context, points.n, d, points.x, order), options);
}

}  // namespace qinco
