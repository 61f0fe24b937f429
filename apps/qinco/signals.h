// Ctrl-C and SIGTERM as a request to stop at the next safe point.
#pragma once

namespace qinco::app {

/// While it lives, the first SIGINT or SIGTERM only sets a flag; the second ends the process at once (status 128 + the
/// signal's number). The earlier handlers come back at the end of the scope.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Whether a signal has arrived.
  bool requested() const;
};

}  // namespace qinco::app
