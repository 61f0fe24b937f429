// When QINCo's training lowers its learning rate, and when it stops.
#pragma once

#include <cstdint>
#include <limits>

namespace qinco {

/// The rule: an epoch counts as better when its validation error is below the best so far. When none of the last
/// `patience` epochs since the last change of the rate was better, lr /= 10; lr < min_lr stops, and so do `stop_after`
/// epochs without a better one, or `max_epochs` in all. A plain value: copy it to save it.
struct PlateauSchedule {
  double lr = 1e-3;
  int64_t max_epochs = 1000;
  int64_t patience = 10;
  int64_t stop_after = 50;
  double min_lr = 2e-6;

  double best = std::numeric_limits<double>::infinity();
  int64_t epochs = 0;        // epochs seen
  int64_t since_best = 0;    // epochs since the best one
  int64_t since_change = 0;  // epochs since the best one or the last change of the rate

  /// Throws Error naming the value unless max_epochs, patience and stop_after are 1 or more, lr and min_lr finite and 0
  /// or more, and best no NaN, which no epoch could better.
  void validate() const;
  /// Takes the validation error of the epoch that ended (NaN is never better); returns whether it is the best so far.
  /// Errors as validate().
  bool update(double val_error);
  /// Whether training is over; errors as validate().
  bool finished() const;
};

}  // namespace qinco
