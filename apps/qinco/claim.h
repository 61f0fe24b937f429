// One training at a time on one model.
#pragma once

#include <string>

namespace qinco::app {

/// While it lives, no other run begins with the same checkpoint: that is an empty file, locked, until it is first
/// saved, and from then on stands in the way itself. Throws Error where another run was first. The empty file goes at
/// the end; a run that is killed leaves it, and the next takes it over. Where the file system has no locks, nothing is
/// claimed.
class Claim {
 public:
  explicit Claim(std::string checkpoint);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  /// Whether the path still names this file, and nothing was saved there.
  bool unsaved() const;

  std::string path_;
  int fd_;
};

}  // namespace qinco::app
