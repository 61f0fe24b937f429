#include "qinco/quantizers/kmeans_init.h"

#include <algorithm>
#include <limits>

#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

constexpr float kShrink = 0.25f;
constexpr int64_t kChunk = 4096;  // rows whose masses are summed together

/// The masses (weight times squared distance to the nearest row drawn) of all rows, and their sums by chunk.
class Masses {
 public:
  Masses(int64_t n, const float* weights)
      : n_(n),
        weights_(weights),
        distances_(static_cast<size_t>(n), std::numeric_limits<float>::max()),
        fresh_(static_cast<size_t>(n)),
        sums_(static_cast<size_t>((n + kChunk - 1) / kChunk)) {
    for (int64_t i = 0; i < n; ++i) sums_[i / kChunk] += mass(i);
  }

  /// Takes in the row that was drawn last.
  void add(const kernels::Context& context, int64_t d, const float* x, const float* row) {
    kernels::ScratchFrame frame(context);
    float* const fresh = result_of(context, frame, fresh_.data(), n_);
    kernels::table<float>(context.device).row_squared_distance(context, n_, d, x, row, fresh);
    to_host(context, fresh, fresh_.data(), n_);
    kernels::parallel_for(host_context(context), n_, kChunk, [&](int64_t begin, int64_t end, int) {
      double sum = 0;
      for (int64_t i = begin; i < end; ++i) {
        distances_[i] = std::min(distances_[i], fresh_[i]);
        sum += mass(i);
      }
      sums_[begin / kChunk] = sum;
    });
  }

  /// The row where the running sum of masses passes `share` (in [0,1)) of the total; a uniform one where that is 0.
  int64_t draw(double share) const {
    double total = 0;
    for (const double sum : sums_) total += sum;
    if (!(total > 0)) return static_cast<int64_t>(share * static_cast<double>(n_));
    double left = share * total;
    size_t chunk = 0;
    while (chunk + 1 < sums_.size() && left >= sums_[chunk]) left -= sums_[chunk++];
    const int64_t begin = static_cast<int64_t>(chunk) * kChunk, end = std::min(n_, begin + kChunk);
    int64_t last = begin;  // the last row of some mass: rounding may carry `left` past the end
    for (int64_t i = begin; i < end; ++i) {
      if (!(mass(i) > 0)) continue;
      last = i;
      if (left < mass(i)) break;
      left -= mass(i);
    }
    return last;
  }

 private:
  double mass(int64_t i) const {
    return static_cast<double>(distances_[i]) * (weights_ ? static_cast<double>(weights_[i]) : 1.0);
  }

  int64_t n_;
  const float* weights_;
  std::vector<float> distances_, fresh_;  // to the nearest row drawn, and to the last one
  std::vector<double> sums_;
};

}  // namespace

// As they are, rows of large norm (outliers among residuals, which have little structure) are nearest to nothing but
// themselves and stay so: on SIFT's 8th residual half of the clusters end with one point, and an RQ 8x8 with 14% more
// error.
Tensor shrunk_rows(const kernels::Context& context, int64_t n, int64_t d, const float* x,
                   const std::vector<int32_t>& ids) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  const auto k = static_cast<int64_t>(ids.size());
  kernels::ScratchFrame frame(context);
  Tensor centroids = Tensor::empty({k, d});
  std::vector<float> sum(static_cast<size_t>(d));
  float* const c = centroids.data<float>();
  float* const rows = result_of(context, frame, c, k * d);
  float* const sums = result_of(context, frame, sum.data(), d);
  kernel.gather_rows(context, k, d, x, to_device(context, frame, ids.data(), k), rows);
  kernel.column_sum(context, n, d, x, sums);
  to_host(context, rows, c, k * d);
  to_host(context, sums, sum.data(), d);
  for (int64_t i = 0; i < k * d; ++i) {
    const float mean = sum[i % d] / static_cast<float>(n);
    c[i] = mean + kShrink * (c[i] - mean);
  }
  return centroids.to(context.device);
}

Tensor plus_plus_rows(const kernels::Context& context, int64_t n, int64_t d, const float* x, const float* weights,
                      int64_t k, Random& random, const std::function<void()>& poll) {
  Tensor centroids = Tensor::empty({k, d}, DType::f32, context.device);
  Masses masses(n, weights);
  for (int64_t c = 0; c < k; ++c) {
    if (poll) poll();
    // Before the first, all distances are equal: the weights alone decide.
    const float* const row = x + masses.draw(random.uniform()) * d;
    float* const centroid = centroids.data<float>() + c * d;
    kernels::copy_bytes(context.device, centroid, context.device, row, static_cast<size_t>(d) * sizeof(float));
    if (c + 1 < k) masses.add(context, d, x, centroid);
  }
  return centroids;
}

}  // namespace qinco
