#include "qinco/training/schedule.h"

namespace qinco {

bool PlateauSchedule::update(double val_error) {
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
  return lr < min_lr || since_best >= stop_after || epochs >= max_epochs;
}

}  // namespace qinco
