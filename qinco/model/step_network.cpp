#include "qinco/model/step_network.h"

#include <cmath>
#include <string>

#include "autograd/nn/layers.h"
#include "autograd/ops.h"
#include "kernels/check.h"
#include "tensor/create.h"

namespace qinco {

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 20;  // of d, h, M and L: far above any use, far below overflow
constexpr int64_t kMaxCodewords = 65536;
constexpr int64_t kMaxCentroids = int64_t{1} << 27;

void check_size(const char* name, int64_t value) {
  check(value >= 1 && value <= kMaxSize, "{}: expected 1 to {}, found {}", name, kMaxSize, value);
}

}  // namespace

void QincoConfig::validate() const {
  check_size("d", d);
  check_size("M", M);
  check_size("L", L);
  check_size("h", h);
  check(K >= 2 && K <= kMaxCodewords && (K & (K - 1)) == 0, "K: expected a power of two from 2 to {}, found {}",
        kMaxCodewords, K);
  check(K_ivf >= 0 && K_ivf <= kMaxCentroids, "K_ivf: expected 0 to {}, found {}", kMaxCentroids, K_ivf);
  check(K_ivf == 0 || !lowrank, "K_ivf: expected 0 in a low-rank model, found {}", K_ivf);
  check(std::isfinite(db_scale) && db_scale > 0, "db_scale: expected a finite value above 0, found {}", db_scale);
}

int64_t QincoConfig::parameter_count() const {
  constexpr const char* kWhat = "model";
  const int64_t codebook = checked_mul(K, d, kWhat);
  const int64_t concat = lowrank ? checked_mul(3 * h, d, kWhat) : checked_add(checked_mul(2 * d, d, kWhat), d, kWhat);
  const int64_t blocks = checked_mul(checked_mul(2 * h, d, kWhat), L, kWhat);
  const int64_t step = checked_add(checked_add(codebook, concat, kWhat), blocks, kWhat);
  return checked_add(checked_mul(K0(), d, kWhat), checked_mul(codes() - 1, step, kWhat), kWhat);
}

bool QincoConfig::same_sizes(const QincoConfig& other) const {
  return d == other.d && M == other.M && K == other.K && L == other.L && h == other.h && lowrank == other.lowrank &&
         K_ivf == other.K_ivf;
}

StepNetwork::StepNetwork(const QincoConfig& config, Random& random, DType dtype) {
  const int64_t d = config.d, h = config.h;
  const auto linear = [&](int64_t in, int64_t out, bool bias) { return nn::Linear(in, out, bias, random, dtype); };
  codebook = register_module("codebook", nn::Embedding(zeros({config.K, d}, dtype))).weight;
  if (config.lowrank) {
    nn::Sequential& factors = register_module("MLPconcat", nn::Sequential());
    concat_in = factors.append(linear(2 * d, h, false)).weight;
    concat_out = factors.append(linear(h, d, false)).weight;
  } else {
    const nn::Linear& layer = register_module("MLPconcat", linear(2 * d, d, true));
    concat = layer.weight;
    concat_bias = layer.bias;
  }
  for (int64_t l = 0; l < config.L; ++l) {
    nn::Sequential& block = register_module("residual_block" + std::to_string(l), nn::Sequential());
    up.push_back(block.append(linear(d, h, false)).weight);
    block.append(nn::ReLU());
    down.push_back(block.append(linear(h, d, false)).weight);
  }
}

Variable StepNetwork::forward(const Variable& c, const Variable& xhat) const {
  const Variable both = autograd::concat({c, xhat}, 1);
  Variable z = concat.defined() ? linear_residual(both, concat, c, concat_bias)
                                : linear_residual(linear(both, concat_in), concat_out, c);
  for (size_t l = 0; l < up.size(); ++l) z = linear_residual(linear_relu(z, up[l]), down[l], z);
  return z;
}

}  // namespace qinco
