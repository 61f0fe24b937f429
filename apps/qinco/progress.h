// The progress of long work: one line with rate and time left on a terminal, sparse plain lines in a pipe or a file.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace qinco::app {

class Progress {
 public:
  /// `out` null shows nothing. `unit` is what is counted ("vectors"); `total` > 0. Of these `before` were done by then:
  /// the rate is that of the others.
  Progress(std::FILE* out, std::string title, int64_t total, std::string unit = "vectors", int64_t before = 0);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of the total are done; `note` (a loss, say) is shown beside the rate. Cheap: redraws at most 5 times a
  /// second on a terminal, and prints at growing intervals from 10 s to 5 min elsewhere.
  void update(int64_t done, const std::string& note = {});
  /// Clears the line of a terminal, so that other text can be printed; the next update draws it again.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(int64_t done, double seconds, const std::string& note) const;

  std::FILE* out_;
  std::string title_;
  std::string unit_;
  int64_t total_;
  int64_t before_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point next_;
  Clock::duration interval_;
};

}  // namespace qinco::app
