#include "apps/qinco/claim.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apps/qinco/command.h"
#include "kernels/check.h"
#include "tensor/file.h"

namespace qinco::app {
namespace {

// Whether the path still names the open file, of which `status` then tells.
bool names(const std::string& path, int fd, struct stat& status) {
  struct stat mine = {};
  return ::fstat(fd, &mine) == 0 && ::stat(path.c_str(), &status) == 0 && mine.st_ino == status.st_ino &&
         mine.st_dev == status.st_dev;
}

}  // namespace

Claim::Claim(const std::string& file) : path_(file_place(file) + ".lock") {
  struct stat status = {};
  if (::stat(file.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) return;
  for (;;) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    check_call(fd_ >= 0, path_, "write");
    const bool taken = ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!taken && names(path_, fd_, status)) return;
    ::close(fd_);  // between the calls, a run that ended may have removed the file: then there is another to lock
    check(!taken, "{}: another training uses this file", file);
  }
}

Claim::~Claim() {
  struct stat status = {};
  if (fd_ < 0) return;
  if (names(path_, fd_, status) && status.st_size == 0) ::unlink(path_.c_str());  // before the lock goes
  ::close(fd_);
}

}  // namespace qinco::app
