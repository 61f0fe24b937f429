// Ctrl-C, SIGTERM and a closed terminal: the end of the program, or a request to stop at the next safe point.
#pragma once

#include <stdexcept>
#include <string>

namespace qinco::app {

/// For the whole program: SIGINT, SIGTERM and SIGHUP end it with status 128 + the signal's number and one line on
/// stderr, and leave no temporary file, as does a pipe that nobody reads, without a line; signals that were ignored
/// stay so. An input that is cut or lost while it is read ends it with status 1 and a line. A file that grows beyond
/// the limit of file sizes is an error of the write, no signal.
void handle_signals();

/// Thrown once the work that a signal stopped has saved its state: the program prints what() (how to go on) on stderr
/// and ends with status 128 + signal.
class Stopped : public std::runtime_error {
 public:
  Stopped(int signal_number, const std::string& message) : std::runtime_error(message), signal(signal_number) {}
  int signal;
};

/// While it lives, the first SIGINT, SIGTERM or SIGHUP (unless that is ignored) only sets a flag; a SIGINT or SIGTERM
/// half a second later or more ends the process at once, as handle_signals says. Without a signal, the earlier
/// handlers come back at the end of the scope.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The number of the signal that has arrived, or 0.
  int received() const;
  /// Whether a signal has arrived.
  bool requested() const { return received() != 0; }
};

}  // namespace qinco::app
