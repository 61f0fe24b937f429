// Beam search by its definition, in double, and what its tests share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "tests/qinco/codec_fixtures.h"

namespace qinco::testing {

/// Steps wide enough to be screened where registers screen.
inline const QincoConfig kScreenedConfigs[] = {
    {.d = 32, .M = 4, .K = 64, .L = 2, .h = 48},
    {.d = 17, .M = 3, .K = 32, .L = 1, .h = 33, .db_scale = 3.5F},
    {.d = 24, .M = 3, .K = 16, .L = 3, .h = 32, .lowrank = true},
    {.d = 20, .M = 2, .K = 64, .L = 1, .h = 40, .db_scale = 2.5F, .K_ivf = 21},
};

/// A codec that searches by `beam`.
inline Codec codec_with(const Qinco& model, const BeamSearch& beam,
                        kernels::Precision precision = kernels::Precision::exact) {
  return Codec(model, precision, {}, beam);
}

inline void set_zero(const Variable& parameter) {
  parameter.value().copy_from(zeros_like(parameter.value()));
}

/// The model in double, whose residual blocks add nothing.
inline Qinco without_blocks(const Qinco& model) {
  Qinco exact = in_double(model);
  for (int64_t m = 1; m < exact.config().codes(); ++m)
    for (const Variable& down : exact.step(m).down) set_zero(down);
  return exact;
}

struct BeamPath {
  std::vector<int32_t> codes;
  Tensor xhat;  // [1,d] in double, scaled
  double error = 0;
};

/// The definition, for one vector in scaled space.
class Definition {
 public:
  Definition(const Qinco& model, const BeamSearch& beam)
      : exact_(in_double(model)), before_(without_blocks(model)), beam_(beam) {}

  /// The squared error that it reaches with M_used codes, the first one being `first` unless that is -1.
  double error(const Tensor& x, int64_t M_used, int32_t first = -1) const {
    const autograd::NoGrad no_grad;
    const bool known = first >= 0 || exact_.config().K_ivf > 0;
    std::vector<BeamPath> paths = best(from(exact_.codebook(0).value(), zeros_like(x), x, {}), known ? 1 : beam_.size);
    if (first >= 0) paths = {from(exact_.codebook(0).value(), zeros_like(x), x, {})[static_cast<size_t>(first)]};
    for (int64_t m = 1; m < M_used; ++m) {
      std::vector<BeamPath> all;
      for (const BeamPath& path : paths) {
        const std::vector<BeamPath> moved = from(step(exact_, m, path), path.xhat, x, path.codes);
        for (const BeamPath& near : best(from(step(before_, m, path), path.xhat, x, path.codes), beam_.candidates))
          all.push_back(moved[static_cast<size_t>(near.codes.back())]);
      }
      paths = best(all, m + 1 == M_used ? 1 : beam_.size);
    }
    return best(paths, 1)[0].error;
  }

 private:
  static Tensor step(const Qinco& model, int64_t m, const BeamPath& path) {
    const Tensor& codebook = model.codebook(m).value();
    return model.step(m).forward(codebook, path.xhat.expand(codebook.shape()).contiguous()).value();
  }

  // One path for each row of `added`, which leads on from xhat.
  static std::vector<BeamPath> from(const Tensor& added, const Tensor& xhat, const Tensor& x,
                                    const std::vector<int32_t>& codes) {
    std::vector<BeamPath> paths;
    for (int64_t k = 0; k < added.size(0); ++k) {
      BeamPath path{codes, add(xhat, added.slice(0, k, k + 1))};
      path.codes.push_back(static_cast<int32_t>(k));
      path.error = sum_squared_difference(path.xhat, x);
      paths.push_back(std::move(path));
    }
    return paths;
  }

  static std::vector<BeamPath> best(std::vector<BeamPath> paths, int64_t count) {
    std::stable_sort(paths.begin(), paths.end(),
                     [](const BeamPath& a, const BeamPath& b) { return a.error < b.error; });
    paths.resize(std::min(paths.size(), static_cast<size_t>(count)));
    return paths;
  }

  Qinco exact_, before_;
  BeamSearch beam_;
};

/// Vector i in scaled space and double.
inline Tensor scaled(const Tensor& x, int64_t i, const QincoConfig& config) {
  return div(x.slice(0, i, i + 1).to(DType::f64), scalar(config.db_scale, DType::f64));
}

}  // namespace qinco::testing
