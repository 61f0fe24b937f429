// Mapped and atomic files.
#include "tensor/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

ptrdiff_t entries(const TemporaryDirectory& directory) {
  return std::distance(std::filesystem::directory_iterator(directory.path()), {});
}

}  // namespace

TEST_CASE("file: written whole, mapped back") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  std::string text(300'000, 'x');
  text[123'456] = 'y';
  write_file(path, text);
  CHECK(contents(path) == text);
  CHECK(entries(directory) == 1);
  const auto mapped = MappedFile::open(path);
  CHECK(mapped->size() == 300'000);
  CHECK(std::memcmp(mapped->data(), text.data(), text.size()) == 0);
  CHECK(mapped->path() == path);
  // Replacing the file leaves the mapping as it was.
  write_file(path, "short");
  CHECK(static_cast<char>(mapped->data()[123'456]) == 'y');
  CHECK(contents(path) == "short");
  write_file(path, "");
  CHECK(MappedFile::open(path)->size() == 0);
  CHECK(MappedFile::open(path)->data() == nullptr);
}

TEST_CASE("file: what cannot be read is a one-line error") {
  const TemporaryDirectory directory;
  const std::string missing = directory.file("missing"), pipe = directory.file("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(error_of([&] { MappedFile::open(missing); }) == missing + ": cannot open: No such file or directory");
  CHECK(contains(error_of([&] { MappedFile::open(directory.path().string()); }), "found a directory"));
  CHECK(contains(error_of([&] { MappedFile::open(pipe); }), "found a pipe or device"));
  CHECK(contains(error_of([&] { MappedFile::open("/dev/zero"); }), "found a pipe or device"));
}

TEST_CASE("file: without commit nothing changes and nothing stays") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  write_file(path, "before");
  {
    AtomicFile file(path);
    file.write(std::string(200'000, 'z').data(), 200'000);
    CHECK(entries(directory) == 2);
  }
  CHECK(contents(path) == "before");
  CHECK(entries(directory) == 1);
}

TEST_CASE("file: what cannot take its name in the end is an error, and leaves no temporary file") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  AtomicFile file(path);
  file.write("new", 3);
  std::filesystem::create_directories(path + "/full");
  CHECK(contains(error_of([&] { file.commit(); }), path + ": cannot write: "));
  CHECK(entries(directory) == 1);
}

TEST_CASE("file: a name is quoted, and what would end it is escaped") {
  CHECK(quote("a\"b\\c\n") == R"("a\"b\\c\x0a")");
}

TEST_CASE("file: a temporary file left by a killed process is no obstacle") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  std::ofstream(directory.file(".data.tmp." + std::to_string(::getpid()))) << "half";  // or another machine's, at work
  write_file(path, "whole");
  CHECK(contents(path) == "whole");
  CHECK(entries(directory) == 2);
}

TEST_CASE("file: a symbolic link stays one, its target is replaced") {
  const TemporaryDirectory directory;
  const std::string target = directory.file("target"), link = directory.file("link");
  write_file(target, "old");
  std::filesystem::create_symlink(target, link);
  write_file(link, "new");
  CHECK(std::filesystem::is_symlink(link));
  CHECK(contents(target) == "new");
}

TEST_CASE("file: a symbolic link to nowhere is refused, and stays") {
  const TemporaryDirectory directory;
  const std::string link = directory.file("link");
  std::filesystem::create_symlink(directory.file("nowhere"), link);
  CHECK_THROWS_AS(write_file(link, "new"), Error);
  CHECK(std::filesystem::is_symlink(link));
  CHECK(entries(directory) == 1);
}

TEST_CASE("file: permissions of a replaced file stay") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  write_file(path, "old");
  const mode_t earlier = ::umask(022);
  for (const mode_t mode : {mode_t{0600}, mode_t{0666}, mode_t{0664}}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    write_file(path, "new");
    struct stat info {};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == mode);
  }
  ::umask(earlier);
}

TEST_CASE("file: what standard output goes to keeps what was written before, and takes what comes after") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("log");
  write_file(path, "precious ");
  const int earlier = ::dup(1), log = ::open(path.c_str(), O_WRONLY | O_APPEND);
  REQUIRE((earlier >= 0 && log >= 0));
  REQUIRE(::dup2(log, 1) == 1);
  ssize_t written = ::write(1, "before ", 7);
  write_file("/dev/stdout", "file ");
  write_file(path, "again ");
  written += ::write(1, "after", 5);
  REQUIRE(::dup2(earlier, 1) == 1);
  ::close(earlier);
  ::close(log);
  CHECK(written == 12);
  CHECK(contents(path) == "precious before file again after");
}

TEST_CASE("file: names may be as long as the file system allows, whose temporary name is shorter") {
  const TemporaryDirectory directory;
  for (const size_t length : {size_t{200}, size_t{201}, size_t{240}, size_t{255}}) {
    const std::string path = directory.file(std::string(length, 'n'));
    write_file(path, "new");
    write_file(path, "replaced");
    CHECK(contents(path) == "replaced");
  }
  CHECK(entries(directory) == 4);
}

TEST_CASE("file: what cannot be written is a one-line error") {
  const TemporaryDirectory directory;
  const std::string nowhere = directory.file("no/such/place");
  CHECK(error_of([&] { AtomicFile file(nowhere); }) == nowhere + ": cannot write: No such file or directory");
  CHECK(contains(error_of([&] { AtomicFile file(directory.path().string()); }), "is a directory"));
  CHECK(error_of([] { write_file("/dev/full", "x"); }) == "/dev/full: cannot write: No space left on device");
  CHECK(contains(error_of([&] { AtomicFile file(directory.file(std::string(256, 'n'))); }), "too long"));
  CHECK(contains(error_of([&] {
                   AtomicFile file(directory.file("twice"));
                   file.commit();
                   file.commit();
                 }),
                 "already closed"));
}

TEST_CASE("file: a pipe is written directly") {
  const TemporaryDirectory directory;
  const std::string pipe = directory.file("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::string received;
  std::thread reader([&] { received = contents(pipe); });
  const std::string text(200'000, 'p');
  write_file(pipe, text);
  reader.join();
  CHECK(received == text);
  CHECK(std::filesystem::is_fifo(pipe));
}
