// Learning-rate schedules: small state machines that return the rate to use; hand it to Optimizer::set_lr.
#pragma once

#include <cstdint>
#include <limits>

#include "tensor/safetensors.h"

namespace qinco::optim {

struct PlateauOptions {
  double factor = 0.1;
  int64_t patience = 10;    // steps without a better value that are tolerated
  double threshold = 1e-4;  // better: value < best - threshold * |best|
  int64_t cooldown = 0;     // steps after a reduction during which none is counted as bad
  double min_lr = 0;
};

/// Multiplies the rate by `factor` when the value has not improved for more than `patience` steps: PyTorch's
/// ReduceLROnPlateau with mode min and relative threshold for values that are not negative, and eps = 0. A NaN is never
/// better.
class ReduceOnPlateau {
 public:
  /// Error unless 0 < factor < 1, 0 <= min_lr <= lr, both finite, and the others are >= 0.
  explicit ReduceOnPlateau(double lr, const PlateauOptions& options = {});
  /// Takes the epoch's value (a loss); returns the rate for the next epoch.
  double step(double value);
  double lr() const { return lr_; }
  TensorMap state() const;
  void load_state(const TensorMap& state);

 private:
  PlateauOptions options_;
  double lr_;
  double best_ = std::numeric_limits<double>::infinity();
  int64_t bad_ = 0;
  int64_t cooldown_left_ = 0;
};

struct CosineOptions {
  int64_t steps = 1;   // total, warm-up included
  int64_t warmup = 0;  // steps of linear rise from lr/warmup
  double min_lr = 0;
};

/// Linear warm-up, then half a cosine from lr down to min_lr (Loshchilov & Hutter 2017, one cycle); min_lr after that.
class CosineSchedule {
 public:
  /// Error unless 0 <= warmup < steps and 0 <= min_lr <= lr, both finite.
  CosineSchedule(double lr, const CosineOptions& options);
  /// The rate of step t = 0, 1, ...
  double lr_at(int64_t t) const;
  /// Moves on one step and returns its rate.
  double step() { return lr_at(++t_); }
  double lr() const { return lr_at(t_); }
  TensorMap state() const;
  void load_state(const TensorMap& state);

 private:
  CosineOptions options_;
  double base_;
  int64_t t_ = 0;
};

}  // namespace qinco::optim
