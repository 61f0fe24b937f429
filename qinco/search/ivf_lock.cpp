#include "qinco/search/ivf_lock.h"

#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "kernels/check.h"
#include "tensor/file.h"

namespace qinco {
namespace {

std::string reason() {
  return std::generic_category().message(errno);
}

/// Empty when `fd` is locked and still the file at `path`, else why not.
std::string why_not(int fd, const std::string& path, bool exclusive) {
  if (::flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0)
    return errno == EWOULDBLOCK ? "another process is adding to it or merging it" : reason();
  struct stat locked {};
  struct stat named {};
  if (::fstat(fd, &locked) != 0 || ::stat(path.c_str(), &named) != 0) return reason();
  const bool same = locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
  return same ? "" : "another process has just replaced it";
}

}  // namespace

IvfLock::IvfLock(const std::string& path, bool exclusive, const std::string& intent)
    : fd_(::open(path.c_str(), (exclusive ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK)) {
  check_call(fd_ >= 0, path, "open");
  const std::string why = why_not(fd_, path, exclusive);
  if (why.empty()) return;
  ::close(fd_);
  fail("{}: cannot {}: {}", path, intent, why);
}

IvfLock::~IvfLock() {
  ::close(fd_);
}

std::unique_ptr<IvfLock> lock_replaced(const std::string& path, const std::string& intent) {
  std::error_code missing;
  if (!std::filesystem::is_regular_file(path, missing)) return nullptr;
  return std::make_unique<IvfLock>(path, true, intent);
}

}  // namespace qinco
