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
constexpr int64_t kMseRows = 1024, kDeviceMseRows = 65536;  // vectors worked on together

// All vectors as floats, or `limit` of them spread evenly.
Tensor sample(const VectorSet& vectors, int64_t limit) {
  const int64_t n = std::min(vectors.size(), limit);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>(i * vectors.size() / n);
  const Tensor out = Tensor::empty({n, vectors.dim()});
  vectors.gather(n, ids.data(), out.data<float>());
  return out;
}

int64_t rows_together(Device device, int64_t n) {
  return std::min(n, device.type == DeviceType::cpu ? kMseRows : kDeviceMseRows);
}

}  // namespace

ResidualQuantizer train_initial_rq(const VectorSet& vectors, int64_t M, int64_t K, const RqOptions& options,
                                   Device device) {
  const Tensor x = sample(vectors, kRqPointsPerCentroid * K).to(device);
  return train_rq(kernels::Context::of(device), x.size(0), x.size(1), x.data<float>(), M, K, options);
}

VectorSet coarse_residuals(const VectorSet& vectors, const Tensor& centroids, Device device) {
  const kernels::Context& context = kernels::Context::of(device);
  const kernels::Table<float>& kernel = kernels::table<float>(device);
  const int64_t n = vectors.size(), d = vectors.dim(), block = rows_together(device, n);
  check(centroids.dim() == 2 && centroids.size(1) == d, "centroids: expected [K_ivf,{}], found {}", d,
        centroids.shape());
  const Tensor rows = Tensor::empty({n, d}), own = centroids.to(device);
  const float* const c = own.data<float>();
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    const Tensor out = rows.slice(0, begin, begin + count);
    vectors.copy(begin, begin + count, out.data<float>());
    const Tensor x = out.to(device);  // on the CPU, the rows themselves
    kernels::ScratchFrame frame(context);
    int32_t* const ids = frame.get<int32_t>(count);
    float* const nearest = frame.get<float>(count * d);
    kernel.nearest(context, count, d, own.size(0), x.data<float>(), c, ids, nullptr);
    kernel.gather_rows(context, count, d, c, ids, nearest);
    kernel.axpby(context, count * d, -1.0f, nearest, 1.0f, x.data<float>());
    if (!x.shares_storage(out)) out.copy_from(x);
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

double rq_mse(const ResidualQuantizer& rq, const VectorSet& vectors, int64_t beam_size, Device device) {
  const kernels::Context& context = kernels::Context::of(device);
  const int64_t block = rows_together(device, vectors.size());
  const Tensor x = Tensor::empty({block, rq.d()});
  const Tensor xhat = Tensor::empty({block, rq.d()});
  const Tensor codes = Tensor::empty({block, rq.M()}, DType::i32);
  double total = 0;
  for (int64_t begin = 0; begin < vectors.size(); begin += block) {
    const int64_t n = std::min(block, vectors.size() - begin);
    vectors.copy(begin, begin + n, x.data<float>());
    rq.encode(context, n, x.data<float>(), beam_size, codes.data<int32_t>());
    rq.decode(context, n, codes.data<int32_t>(), rq.M(), rq.M(), xhat.data<float>());
    total += sum_squared_difference(x.slice(0, 0, n), xhat.slice(0, 0, n));
  }
  return total / static_cast<double>(vectors.size());
}

}  // namespace qinco
