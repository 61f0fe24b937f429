// One training at a time on one checkpoint, and of one model.
#pragma once

#include <string>

namespace qinco::app {

/// While it lives, no other run, begun or resumed, writes the same file: FILE.lock, an empty file beside it, is locked.
/// (The file itself is no place for a lock: every save puts a new one there.) Throws Error where another run was first,
/// or where that file cannot be made. It goes at the end; a run that is killed leaves it, not its lock, and the next
/// takes it over. What is a device or a pipe, or on a file system without locks, is claimed by nobody.
class Claim {
 public:
  explicit Claim(const std::string& file);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace qinco::app
