// Where training starts: a residual quantizer's codebooks, and PyTorch's default initialisation of the networks.
#pragma once

#include <cstdint>
#include <functional>

#include "qinco/model/qinco.h"
#include "qinco/quantizers/rq.h"
#include "qinco/training/vector_set.h"

namespace qinco {

// The work is done on `device`; vectors and results are in the host's memory.

/// Trains the residual quantizer of the initialisation on the vectors (kRqPointsPerCodeword K of them, spread
/// evenly, where there are more), with `centroids` on their coarse residuals.
ResidualQuantizer train_initial_rq(const VectorSet& vectors, int64_t M, int64_t K, const RqOptions& options,
                                   Device device = {}, const Tensor& centroids = {});

/// What a coarse quantizer leaves, f32 [n,d]: x - the nearest of centroids f32 [K_ivf,d]. Throws Error when d differs.
/// `poll`, if set, is called between blocks of vectors and may throw, which ends the work.
Tensor coarse_residuals(const VectorSet& vectors, const Tensor& centroids, Device device = {},
                        const std::function<void()>& poll = {});

/// A model whose codebooks are the quantizer's divided by db_scale and whose networks are drawn from `seed`.
/// IVF-QINCo (config.K_ivf > 0) takes `centroids` f32 [K_ivf,d] of the original space as well, and a quantizer of
/// their residuals. Throws Error when the quantizer's M, K or d or the centroids' sizes are not the config's.
Qinco initial_model(const QincoConfig& config, const ResidualQuantizer& rq, uint64_t seed,
                    const Tensor& centroids = {});

/// The quantizer's own error: mean ||x - xhat||^2 over the vectors, encoded with `beam_size`; with `centroids`, over
/// their coarse residuals. `poll` as in coarse_residuals.
double rq_mse(const ResidualQuantizer& rq, const VectorSet& vectors, int64_t beam_size, Device device = {},
              const Tensor& centroids = {}, const std::function<void()>& poll = {});

}  // namespace qinco
