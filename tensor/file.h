// Files: mapped for reading, atomic for writing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

namespace qinco {

/// Throws Error "PATH: cannot WHAT: REASON", with errno's reason, unless the system call just made is `done`. A
/// function of its own because errno must be read after the call: check()'s arguments are evaluated in any order.
void check_call(bool done, const std::string& path, const char* what);

/// A regular file mapped read-only.
class MappedFile {
 public:
  /// Throws Error naming the path if it is missing, unreadable, a directory or anything but a regular file.
  /// An empty file has size 0 and a null data pointer.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Lets the pages of bytes [begin,end) leave this process's memory until they are read again: streaming through a
  /// large file then keeps little of it resident.
  void release(int64_t begin, int64_t end) const;
  /// From now on reads nothing ahead: for places far apart. A hint.
  void expect_scattered_reads() const;

 private:
  MappedFile(std::string path, const std::byte* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_;
  int64_t size_;
};

/// Standard output's or else standard error's descriptor, if what is written to `path` goes there too; else -1.
int standard_stream(const std::string& path);

/// A file that appears under its name complete or not at all: written to a temporary name in the same directory, then
/// fsync, rename, fsync of the directory. Without commit() (an exception, say) the temporary file is removed and what
/// was there before stays. An existing target that is no regular file (a pipe, /dev/stdout), or is what standard
/// output or error goes to, is written directly.
class AtomicFile {
 public:
  /// Throws Error naming the path if it cannot be written.
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends; buffered. Throws Error "PATH: cannot write: REASON" on a failed or short write.
  void write(const void* data, size_t bytes);
  /// Makes the file appear under its name, durably. Call once, after the last write.
  void commit();
  const std::string& path() const { return path_; }

 private:
  void flush();
  void discard() noexcept;

  std::string path_;
  std::string temporary_;  // empty when writing directly
  int fd_ = -1;
  std::unique_ptr<std::byte[]> buffer_;
  size_t used_ = 0;
};

/// The T whose bytes are at `from`, at any alignment.
template <class T>
T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

/// Removes the temporary files of all AtomicFiles of the process, which must end next. For signal handlers: it calls
/// only what is allowed there.
void remove_temporary_files() noexcept;

/// Whether all of a text is printable ASCII.
bool is_printable(std::string_view text);
/// Text from a file, fit for a one-line message: quoted, cut after 80 bytes, what is not printable ASCII escaped.
std::string quote(std::string_view text);

/// Writes `text` through an AtomicFile.
void write_file(const std::string& path, const std::string& text);

}  // namespace qinco
