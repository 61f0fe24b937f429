#include "apps/qinco/claim.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "kernels/check.h"
#include "tensor/file.h"

namespace qinco::app {

Claim::Claim(std::string checkpoint)
    : path_(std::move(checkpoint)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  check_call(fd_ >= 0, path_, "create");
  struct stat status = {};
  if (::fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) return;
  const bool taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (!taken && unsaved()) return;
  ::close(fd_);
  fail("{}: another training uses this checkpoint", path_);
}

Claim::~Claim() {
  if (unsaved()) ::unlink(path_.c_str());
  ::close(fd_);
}

bool Claim::unsaved() const {
  struct stat mine = {}, there = {};
  return ::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &there) == 0 && mine.st_ino == there.st_ino &&
         mine.st_dev == there.st_dev && S_ISREG(there.st_mode) && there.st_size == 0;
}

}  // namespace qinco::app
