// Where training starts: a residual quantizer's codebooks, and PyTorch's default initialisation of the networks.
#pragma once

#include <cstdint>
#include <functional>

#include "qinco/model/qinco.h"
#include "qinco/quantizers/rq.h"
#include "qinco/training/vector_set.h"

namespace qinco {

// The work is done on `device`; vectors and results are in the host's memory.

/// Trains the residual quantizer of the initialisation on the vectors (a subsample of 1024 K of them where there are
/// more).
ResidualQuantizer train_initial_rq(const VectorSet& vectors, int64_t M, int64_t K, const RqOptions& options,
                                   Device device = {});

/// What a coarse quantizer leaves: x - the nearest of centroids f32 [K_ivf,d], as floats. Throws Error when d differs.
VectorSet coarse_residuals(const VectorSet& vectors, const Tensor& centroids, Device device = {});

/// A model whose codebooks are the quantizer's divided by db_scale and whose networks are drawn from `seed`.
/// IVF-QINCo (config.K_ivf > 0) takes `centroids` f32 [K_ivf,d] of the original space as well, and a quantizer of
/// their residuals. Throws Error when the quantizer's M, K or d or the centroids' sizes are not the config's.
Qinco initial_model(const QincoConfig& config, const ResidualQuantizer& rq, uint64_t seed,
                    const Tensor& centroids = {});

/// The quantizer's own error: mean ||x - xhat||^2 over the vectors, encoded with `beam_size`.
double rq_mse(const ResidualQuantizer& rq, const VectorSet& vectors, int64_t beam_size, Device device = {});

}  // namespace qinco
