// One training at a time on one checkpoint.
#pragma once

#include <string>

namespace qinco::app {

/// While it lives, no other run has the same checkpoint, begun or resumed: CHECKPOINT.lock, an empty file beside it, is
/// locked. (The checkpoint itself is no place for a lock: every save puts a new file there.) Throws Error where another
/// run was first, or where that file cannot be made. It goes at the end; a run that is killed leaves it, not its lock,
/// and the next takes it over. A checkpoint that is a device or a pipe, or on a file system without locks, is claimed
/// by nobody.
class Claim {
 public:
  explicit Claim(const std::string& checkpoint);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace qinco::app
