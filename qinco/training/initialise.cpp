#include "qinco/training/initialise.h"

#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

constexpr int64_t kRqPointsPerCentroid = 1024;
constexpr int64_t kMseRows = 1024;

// All vectors as floats, or `limit` of them spread evenly.
Tensor sample(const VectorSet& vectors, int64_t limit) {
  const int64_t n = std::min(vectors.size(), limit);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i * vectors.size() / n);
  const Tensor out = Tensor::empty({n, vectors.dim()});
  vectors.gather(n, ids.data(), out.data<float>());
  return out;
}

}  // namespace

ResidualQuantizer train_initial_rq(const VectorSet& vectors, int64_t M, int64_t K, const RqOptions& options) {
  const Tensor x = sample(vectors, kRqPointsPerCentroid * K);
  return train_rq(kernels::Context::cpu(), x.size(0), x.size(1), x.data<float>(), M, K, options);
}

VectorSet coarse_residuals(const VectorSet& vectors, const Tensor& centroids) {
  const kernels::Context& context = kernels::Context::cpu();
  const kernels::Table<float>& kernel = kernels::table<float>();
  const int64_t n = vectors.size(), d = vectors.dim(), block = std::min(n, kMseRows);
  check(centroids.dim() == 2 && centroids.size(1) == d, "centroids: expected [K_ivf,{}], found {}", d,
        centroids.shape().str());
  const Tensor rows = Tensor::empty({n, d}), nearest = Tensor::empty({block, d});
  std::vector<int32_t> ids(static_cast<size_t>(block));
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    float* const x = rows.data<float>() + begin * d;
    vectors.copy(begin, begin + count, x);
    kernel.nearest(context, count, d, centroids.size(0), x, centroids.data<float>(), ids.data(), nullptr);
    kernel.gather_rows(context, count, d, centroids.data<float>(), ids.data(), nearest.data<float>());
    kernel.axpby(context, count * d, -1.0f, nearest.data<float>(), 1.0f, x);
  }
  return VectorSet(rows);
}

Qinco initial_model(const QincoConfig& config, const ResidualQuantizer& rq, uint64_t seed, const Tensor& centroids) {
  check(rq.M() == config.M && rq.K() == config.K && rq.d() == config.d,
        "RQ codebooks: expected M={} K={} d={}, found M={} K={} d={}", config.M, config.K, config.d, rq.M(), rq.K(),
        rq.d());
  Random random(seed);
  Qinco model(config, random);
  model.set_codebooks(div(rq.codebooks, scalar(config.db_scale)));
  if (config.K_ivf > 0) model.set_centroids(div(centroids, scalar(config.db_scale)));
  return model;
}

double rq_mse(const ResidualQuantizer& rq, const VectorSet& vectors, int64_t beam_size) {
  const kernels::Context& context = kernels::Context::cpu();
  const Tensor x = Tensor::empty({kMseRows, rq.d()});
  const Tensor xhat = Tensor::empty({kMseRows, rq.d()});
  const Tensor codes = Tensor::empty({kMseRows, rq.M()}, DType::i32);
  double total = 0;
  for (int64_t begin = 0; begin < vectors.size(); begin += kMseRows) {
    const int64_t n = std::min(kMseRows, vectors.size() - begin);
    vectors.copy(begin, begin + n, x.data<float>());
    rq.encode(context, n, x.data<float>(), beam_size, codes.data<int32_t>());
    rq.decode(context, n, codes.data<int32_t>(), rq.M(), rq.M(), xhat.data<float>());
    total += sum_squared_difference(x.slice(0, 0, n), xhat.slice(0, 0, n));
  }
  return total / static_cast<double>(vectors.size());
}

}  // namespace qinco
