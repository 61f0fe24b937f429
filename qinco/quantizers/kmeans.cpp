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
#include "tensor/host_rows.h"
#include "tensor/random.h"

namespace qinco {
namespace {

constexpr float kSplit = 1.0f / 1024;     // the two halves of a split cluster differ by this factor, as in Faiss
constexpr int64_t kWeightRows = 1 << 16;  // rows multiplied by their weights at a time
// Multiplications between two polls: a fraction of a second on a core, and of a GPU's.
constexpr int64_t kPollWork = int64_t{1} << 33, kDevicePollWork = int64_t{1} << 39;
constexpr uint64_t kKmeansStream = 0x6b6d65616e73;

/// Rows x[ids] as a new tensor [ids.size(), d].
Tensor gather(const kernels::Context& context, int64_t d, const float* x, const std::vector<int32_t>& ids) {
  const auto n = static_cast<int64_t>(ids.size());
  Tensor rows = Tensor::empty({n, d}, DType::f32, context.device);
  kernels::ScratchFrame frame(context);
  kernels::table<float>(context.device)
      .gather_rows(context, n, d, x, to_device(context, frame, ids.data(), n), rows.data<float>());
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

/// What is clustered: x [n,d] on the device, with the host's weights [n] or null.
struct Points {
  int64_t n, d;
  const float* x;
  const float* weights;
};

/// sums[id] += weight * row for all points: without weights one scatter, with them block by block. ids and sums are on
/// the device.
void add_rows(const kernels::Context& context, const Points& points, const int32_t* ids, int64_t k, float* sums) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  const auto [n, d, x, weights] = points;
  if (!weights) return kernel.scatter_add_rows(context, n, d, k, ids, x, sums);
  kernels::ScratchFrame frame(context);
  const float* const factors = to_device(context, frame, weights, n);
  float* const block = frame.get<float>(std::min(n, kWeightRows) * d);
  for (int64_t begin = 0; begin < n; begin += kWeightRows) {
    const int64_t count = std::min(kWeightRows, n - begin);
    kernel.binary(context, kernels::BinaryOp::mul, count, d, {x + begin * d, d, 1}, {factors + begin, 1, 0}, block);
    kernel.scatter_add_rows(context, count, d, k, ids + begin, block, sums);
  }
}

/// Centroids = weighted means of their points, whose ids are there on the device and for the host.
void update(const kernels::Context& context, const Points& points, const int32_t* device_ids,
            const std::vector<int32_t>& ids, int64_t k, const Tensor& centroids) {
  const int64_t d = points.d;
  std::vector<int64_t> counts(static_cast<size_t>(k), 0);
  std::vector<double> masses(static_cast<size_t>(k), 0);
  for (int64_t i = 0; i < points.n; ++i) {
    const double weight = points.weights ? static_cast<double>(points.weights[i]) : 1.0;
    masses[ids[i]] += weight;
    counts[ids[i]] += weight > 0;
  }
  kernels::table<float>(context.device).fill(context, k * d, 0.0f, centroids.data<float>());
  add_rows(context, points, device_ids, k, centroids.data<float>());
  const Tensor means = centroids.to(Device{});  // on the CPU, the centroids themselves
  float* const values = means.data<float>();
  for (int64_t c = 0; c < k; ++c) {
    if (counts[c] == 0) continue;
    const auto scale = static_cast<float>(1 / masses[c]);
    for (int64_t j = 0; j < d; ++j) values[c * d + j] *= scale;
  }
  split_empty(k, d, counts, values);
  if (!means.shares_storage(centroids)) centroids.copy_from(means);
}

double mean_distance(const kernels::Context& context, const Points& points, const Tensor& distances) {
  if (!points.weights)
    return kernels::table<float>(context.device).sum(context, points.n, distances.data<float>()) /
           static_cast<double>(points.n);
  const Tensor values = distances.to(Device{});
  double total = 0, mass = 0;
  for (int64_t i = 0; i < points.n; ++i) {
    total += static_cast<double>(points.weights[i]) * static_cast<double>(values.data<float>()[i]);
    mass += static_cast<double>(points.weights[i]);
  }
  return total / mass;
}

// Points that are assigned between two polls.
int64_t poll_rows(Device device, int64_t k, int64_t d, const KmeansOptions& options) {
  if (options.poll_rows > 0) return options.poll_rows;
  return std::max<int64_t>(1, (device.type == DeviceType::cpu ? kPollWork : kDevicePollWork) / k / d);
}

// ids and squared distances [n] of the nearest centroids.
void assign(const kernels::Context& context, const Points& points, const Tensor& centroids, int32_t* ids,
            float* distances, const KmeansOptions& options) {
  const int64_t k = centroids.size(0), d = points.d, n = points.n;
  const int64_t block = options.poll ? poll_rows(context.device, k, d, options) : n;
  for (int64_t begin = 0; begin < n; begin += block) {
    kernels::table<float>(context.device)
        .nearest(context, std::min(block, n - begin), d, k, points.x + begin * d, centroids.data<float>(), ids + begin,
                 distances + begin);
    if (!options.poll) continue;
    kernels::synchronize(context.device);
    options.poll();
  }
}

Kmeans lloyd(const kernels::Context& context, const Points& points, int64_t k, Tensor centroids,
             const KmeansOptions& options) {
  Kmeans result;
  result.centroids = std::move(centroids);
  std::vector<int32_t> ids(static_cast<size_t>(points.n), -1), earlier;
  const Tensor distances = Tensor::empty({points.n}, DType::f32, context.device);
  kernels::ScratchFrame frame(context);
  int32_t* const device_ids = result_of(context, frame, ids.data(), points.n);
  for (int i = 0; i < options.iterations; ++i) {
    earlier = ids;
    assign(context, points, result.centroids, device_ids, distances.data<float>(), options);
    to_host(context, device_ids, ids.data(), points.n);
    result.mse = mean_distance(context, points, distances);
    result.iterations = i + 1;
    check(std::isfinite(result.mse),
          "k-means: the vectors or the initial centroids hold NaN or infinity, or values too large for their squares");
    if (options.on_update) options.on_update(i + 1, result.mse);
    if (ids == earlier) return result;
    update(context, points, device_ids, ids, k, result.centroids);
  }
  if (!options.measure) return result;
  assign(context, points, result.centroids, device_ids, distances.data<float>(), options);
  result.mse = mean_distance(context, points, distances);
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
        initial.shape(), Shape{k, d});
  if (options.weights) check_weights(n, options.weights);
  Random random(options.seed, kKmeansStream);
  std::vector<int32_t> order = random.permutation(n);

  Points points{n, d, x, options.weights};
  Tensor sample;
  std::vector<float> sample_weights;
  points.n = training_points(n, k, options.max_points_per_centroid);
  if (points.n < n) {
    order.resize(static_cast<size_t>(points.n));
    sample = gather(context, d, x, order);
    points.x = sample.data<float>();
    if (options.weights) {
      for (const int32_t id : order) sample_weights.push_back(options.weights[id]);
      points.weights = sample_weights.data();
      check_weights(points.n, points.weights);
    }
    std::iota(order.begin(), order.end(), 0);
  }
  if (initial.defined()) return lloyd(context, points, k, initial.clone(context.device), options);
  if (options.init == KmeansInit::plus_plus) {
    Tensor rows = plus_plus_rows(context, points.n, d, points.x, points.weights, k, random, options.poll);
    return lloyd(context, points, k, std::move(rows), options);
  }
  order.resize(static_cast<size_t>(k));
  return lloyd(context, points, k, shrunk_rows(context, points.n, d, points.x, order), options);
}

}  // namespace qinco
