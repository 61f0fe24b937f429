#include "qinco/training/initialise.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/training/mean_error.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco {

ResidualQuantizer train_initial_rq(const VectorSet& vectors, int64_t M, int64_t K, const RqOptions& options,
                                   Device device, const Tensor& centroids) {
  Tensor x = vectors.sample(kRqPointsPerCodeword * K);
  if (centroids.defined()) x = coarse_residuals(VectorSet(x), centroids, device, options.poll);
  x = x.to(device);
  return train_rq(kernels::Context::of(device), x.size(0), x.size(1), x.data<float>(), M, K, options);
}

Tensor coarse_residuals(const VectorSet& vectors, const Tensor& centroids, Device device,
                        const std::function<void()>& poll) {
  const kernels::Context& context = kernels::Context::of(device);
  const kernels::Table<float>& kernel = kernels::table<float>(device);
  const int64_t n = vectors.size(), d = vectors.dim(), block = vectors.block_rows(device);
  check(centroids.dim() == 2 && centroids.size(1) == d, "centroids: expected [K_ivf,{}], found {}", d,
        centroids.shape());
  const Tensor rows = Tensor::empty({n, d}), own = centroids.to(device).contiguous();
  const float* const c = own.data<float>();
  for (int64_t begin = 0; begin < n; begin += block) {
    if (poll) poll();
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
  return rows;
}

Qinco initial_model(const QincoConfig& config, const ResidualQuantizer& rq, uint64_t seed, const Tensor& centroids) {
  check(rq.M() == config.M && rq.K() == config.K && rq.d() == config.d,
        "RQ codebooks: expected M={} K={} d={}, found M={} K={} d={}", config.M, config.K, config.d, rq.M(), rq.K(),
        rq.d());
  check(centroids.defined() || config.K_ivf == 0, "centroids: expected [{},{}], found none", config.K_ivf, config.d);
  Random random(seed);
  Qinco model(config, random);
  model.set_codebooks(div(rq.codebooks, scalar(config.db_scale)));
  if (config.K_ivf > 0) model.set_centroids(div(centroids, scalar(config.db_scale)));
  return model;
}

double rq_mse(const ResidualQuantizer& rq, const VectorSet& vectors, int64_t beam_size, Device device,
              const Tensor& centroids, const std::function<void()>& poll) {
  if (centroids.defined())
    return rq_mse(rq, VectorSet(coarse_residuals(vectors, centroids, device, poll)), beam_size, device, {}, poll);
  const kernels::Context& context = kernels::Context::of(device);
  const Tensor codes = Tensor::empty({vectors.block_rows(device), rq.M()}, DType::i32);
  return mean_error(vectors, device, [&](int64_t n, const float* x, float* xhat) {
    if (poll) poll();
    rq.encode(context, n, x, beam_size, codes.data<int32_t>());
    rq.decode(context, n, codes.data<int32_t>(), rq.M(), rq.M(), xhat);
  });
}

}  // namespace qinco
