#include "tensor/file.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "kernels/check.h"

namespace qinco {

namespace {

constexpr size_t kBufferSize = size_t{1} << 16;
constexpr size_t kStem = 200;  // bytes of a name that its temporary name keeps: names have 255 at most

std::string directory_of(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  return directory.empty() ? "." : directory;
}

// Closes on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

void sync_directory(const std::string& directory) {
  const Descriptor handle{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  // Some file systems cannot sync a directory (EINVAL); the rename itself has happened.
  const bool done = handle.fd >= 0 && (::fsync(handle.fd) == 0 || errno == EINVAL);
  check_call(done, directory, "sync");
}

// The temporary files that exist now, for a signal handler to remove. Who holds the lock takes no signals meanwhile, so
// a handler waits for other threads at most, never for the code that it interrupted.
class TemporaryFiles {
 public:
  // Creates the file `path`, which must not exist, and remembers it; -1 and errno if that fails.
  int create(const std::string& path, mode_t mode) {
    const Lock lock(*this);
    paths_.push_back(path);
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) paths_.pop_back();
    return fd;
  }
  // Forgets a file that has another name now, or is gone.
  void forget(const std::string& path) noexcept {
    const Lock lock(*this);
    std::erase(paths_, path);
  }
  // Keeps the lock: nothing is created any more.
  void remove_all() noexcept {
    while (busy_.test_and_set()) {
    }
    for (const std::string& path : paths_) ::unlink(path.c_str());
  }

 private:
  class Lock {
   public:
    explicit Lock(TemporaryFiles& files) : files_(files) {
      sigset_t all;
      ::sigfillset(&all);
      ::pthread_sigmask(SIG_BLOCK, &all, &earlier_);
      while (files_.busy_.test_and_set()) {
      }
    }
    ~Lock() {
      files_.busy_.clear();
      const int error = errno;
      ::pthread_sigmask(SIG_SETMASK, &earlier_, nullptr);
      errno = error;
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    TemporaryFiles& files_;
    sigset_t earlier_;
  };

  std::atomic_flag busy_;
  std::vector<std::string> paths_;
};

// Made before any signal handler needs it and never destroyed.
TemporaryFiles& temporary_files = *new TemporaryFiles;

}  // namespace

void check_call(bool done, const std::string& path, const char* what) {
  check(done, "{}: cannot {}: {}", path, what, std::strerror(errno));
}

void remove_temporary_files() noexcept {
  temporary_files.remove_all();
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: opening a pipe must not wait for a writer; it is refused below.
  const Descriptor handle{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  check_call(handle.fd >= 0, path, "open");
  struct stat info {};
  check_call(::fstat(handle.fd, &info) == 0, path, "stat");
  check(!S_ISDIR(info.st_mode), "{}: expected a file, found a directory", path);
  check(S_ISREG(info.st_mode), "{}: expected a regular file, found a pipe or device", path);
  const int64_t size = info.st_size;
  const std::byte* data = nullptr;
  if (size > 0) {
    void* const mapped = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, handle.fd, 0);
    check_call(mapped != MAP_FAILED, path, "map");
    data = static_cast<const std::byte*>(mapped);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, data, size));
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

void MappedFile::release(int64_t begin, int64_t end) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = begin / page * page;
  const int64_t last = end / page * page;  // the page of byte `end` is likely to be read next
  if (last <= first) return;
  // A hint: if it fails, the pages only stay longer.
  ::madvise(const_cast<std::byte*>(data_) + first, static_cast<size_t>(last - first), MADV_DONTNEED);
}

void MappedFile::expect_scattered_reads() const {
  ::madvise(const_cast<std::byte*>(data_), static_cast<size_t>(size_), MADV_RANDOM);
}

int standard_stream(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return -1;
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat stream {};
    if (::fstat(fd, &stream) == 0 && stream.st_dev == info.st_dev && stream.st_ino == info.st_ino) return fd;
  }
  return -1;
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), buffer_(new std::byte[kBufferSize]) {
  struct stat info {};
  const bool exists = ::stat(path_.c_str(), &info) == 0;
  check_call(exists || errno != ENAMETOOLONG, path_, "write");
  check(!exists || !S_ISDIR(info.st_mode), "{}: cannot write: is a directory", path_);
  // The file that a stream was redirected to holds what was written before, and takes what comes after.
  const int stream = standard_stream(path_);
  if (exists && (stream >= 0 || !S_ISREG(info.st_mode))) {
    fd_ = stream >= 0 ? ::fcntl(stream, F_DUPFD_CLOEXEC, 3) : ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    check_call(fd_ >= 0, path_, "write");
    return;
  }
  // Through a symbolic link, the file it points to is replaced, not the link.
  std::error_code error;
  if (std::filesystem::is_symlink(path_, error)) {
    const auto target = std::filesystem::weakly_canonical(path_, error);
    check(!error && !std::filesystem::is_symlink(target), "{}: cannot write: a link to nowhere", path_);
    path_ = target.string();
  }
  check_call(!exists || ::access(path_.c_str(), W_OK) == 0, path_, "write");
  const std::filesystem::path name(path_);
  check(name.has_filename(), "{}: cannot write: no file name", path_);
  const auto mode = exists ? info.st_mode & 0777 : 0666;
  const std::string stem = name.filename().string().substr(0, kStem);
  for (int attempt = 0; fd_ < 0 && attempt < 100; ++attempt) {  // others may write beside us, or have left theirs
    const std::string suffix = fmt::format("{}.{:08x}", ::getpid(), std::random_device()());
    temporary_ = (name.parent_path() / fmt::format(".{}.tmp.{}", stem, suffix)).string();
    fd_ = temporary_files.create(temporary_, mode);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  check_call(fd_ >= 0, path_, "write");
  if (exists) ::fchmod(fd_, mode);  // what the umask took away; there are file systems without modes
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() noexcept {
  if (fd_ < 0) return;
  ::close(fd_);
  fd_ = -1;
  if (temporary_.empty()) return;
  ::unlink(temporary_.c_str());
  temporary_files.forget(temporary_);
}

void AtomicFile::write(const void* data, size_t bytes) {
  check(fd_ >= 0, "{}: cannot write: already closed", path_);
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const size_t part = std::min(bytes, kBufferSize - used_);
    std::memcpy(buffer_.get() + used_, from, part);
    used_ += part;
    from += part;
    bytes -= part;
    if (used_ == kBufferSize) flush();
  }
}

void AtomicFile::flush() {
  for (size_t done = 0; done < used_;) {
    const ssize_t n = ::write(fd_, buffer_.get() + done, used_ - done);
    if (n < 0 && errno == EINTR) continue;
    check_call(n >= 0, path_, "write");
    check(n > 0, "{}: cannot write: nothing was accepted", path_);
    done += static_cast<size_t>(n);
  }
  used_ = 0;
}

void AtomicFile::commit() {
  check(fd_ >= 0, "{}: cannot write: already closed", path_);
  flush();
  check_call(temporary_.empty() || ::fsync(fd_) == 0, path_, "write");
  const int fd = std::exchange(fd_, -1);
  if (temporary_.empty()) {
    check_call(::close(fd) == 0, path_, "write");
    return;
  }
  const bool renamed = ::close(fd) == 0 && ::rename(temporary_.c_str(), path_.c_str()) == 0;
  const int why = errno;
  if (!renamed) ::unlink(temporary_.c_str());
  temporary_files.forget(temporary_);
  errno = why;
  check_call(renamed, path_, "write");
  sync_directory(directory_of(path_));
}

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 80)) {
    if (c == '"' || c == '\\') out += '\\';
    out += is_printable({&c, 1}) ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out + '"';
}

void write_file(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace qinco
