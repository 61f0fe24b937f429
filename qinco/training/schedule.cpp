#include "qinco/training/schedule.h"

#include <cmath>

#include "kernels/check.h"

namespace qinco {

void PlateauSchedule::validate() const {
  const auto is_rate = [](double value) { return std::isfinite(value) && value >= 0; };
  check(is_rate(lr) && is_rate(min_lr), "schedule: expected finite rates >= 0, found lr {} and min_lr {}", lr, min_lr);
  check(max_epochs >= 1 && patience >= 1 && stop_after >= 1,
        "schedule: expected 1 epoch or more, found max_epochs {}, patience {} and stop_after {}", max_epochs, patience,
        stop_after);
  check(!std::isnan(best), "schedule: expected a number for the best validation error, found {}", best);
}

bool PlateauSchedule::update(double val_error) {
  validate();
  ++epochs;
  if (val_error < best) {
    best = val_error;
    since_best = 0;
    since_change = 0;
    return true;
  }
  ++since_best;
  if (++since_change >= patience) {
    lr /= 10;
    since_change = 0;
  }
  return false;
}

bool PlateauSchedule::finished() const {
  validate();
  return lr < min_lr || since_best >= stop_after || epochs >= max_epochs;
}

}  // namespace qinco
