// A lock on an index file, between those who add to it and those who put another in its place.
#pragma once

#include <memory>
#include <string>

namespace qinco {

class IvfLock {
 public:
  /// Opens the file and locks it: shared by those who read all of it, or `exclusive`, and open for writing, for those
  /// who change or replace it. Throws Error "PATH: cannot DO: ..." when it cannot be opened, somebody else's lock is in
  /// the way, or another file was put in its place meanwhile.
  IvfLock(const std::string& path, bool exclusive, const std::string& intent);
  ~IvfLock();
  IvfLock(const IvfLock&) = delete;
  IvfLock& operator=(const IvfLock&) = delete;

  int descriptor() const { return fd_; }

 private:
  int fd_;
};

/// The exclusive lock of who puts an index in the place of the file at `path`; null where there is no regular file.
std::unique_ptr<IvfLock> lock_replaced(const std::string& path, const std::string& intent);

}  // namespace qinco
