// Models and vectors that the tests of models, codecs and training share.
#pragma once

#include <cmath>
#include <string>

#include "kernels/dispatch.h"
#include "qinco/model/qinco.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

namespace qinco::testing {

/// The sizes of a small model, plain, low-rank or IVF, for devices to be compared with the CPU.
inline QincoConfig small_config(int64_t M, bool lowrank, int64_t K_ivf) {
  return {.d = 12, .M = M, .K = 16, .L = 2, .h = lowrank ? 3 : 9, .lowrank = lowrank, .db_scale = 2.5f, .K_ivf = K_ivf};
}

/// A model whose every parameter is drawn from `seed`; the codebooks shrink from step to step, as an RQ's do.
inline Qinco random_model(const QincoConfig& config, uint64_t seed, DType dtype = DType::f32) {
  Random random(seed);
  Qinco model(config, random, dtype);
  for (int64_t m = 0; m < config.codes(); ++m)
    random.normal(model.codebook(m).value(), 0, 1.0 / static_cast<double>(m + 1));
  return model;
}

/// Vectors [n,d] in the original space, of the size of the model's reconstructions.
inline Tensor random_vectors(const QincoConfig& config, int64_t n, uint64_t seed) {
  const Tensor x = Tensor::empty({n, config.d});
  Random(seed, 77).normal(x, 0, 1.5 * static_cast<double>(config.db_scale));
  return x;
}

/// Codes i32 [n,M] drawn from `seed`.
inline Tensor random_codes(const QincoConfig& config, int64_t n, uint64_t seed) {
  const Tensor codes = Tensor::empty({n, config.M}, DType::i32);
  Random random(seed, 78);
  for (int64_t i = 0; i < codes.numel(); ++i)
    codes.data<int32_t>()[i] = static_cast<int32_t>(random.below(static_cast<uint64_t>(config.K)));
  return codes;
}

/// ||a - b|| / ||b|| over all elements (absolute where b is 0).
inline double relative_difference(const Tensor& a, const Tensor& b) {
  const Tensor exact = b.contiguous().to(Device{}).to(DType::f64);
  const double scale = sum_squared_difference(exact, zeros_like(exact));
  const double difference = sum_squared_difference(a.contiguous().to(Device{}).to(DType::f64), exact);
  return std::sqrt(difference / (scale > 0 ? scale : 1));
}

/// What single precision against double or PyTorch may differ by, in the codec on the active ISA: on the matrix unit
/// its products are sums of split operands.
inline double codec_rounding() {
  return kernels::active_isa() == kernels::Isa::amx ? 1e-5 : 2e-6;
}

using tests::same_bits;
using tests::TemporaryDirectory;

}  // namespace qinco::testing
