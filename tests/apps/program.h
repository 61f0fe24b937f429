// Runs the real bin/qinco as a user does, within limits, and says what came of it.
#pragma once

#include <chrono>
#include <doctest/doctest.h>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <sys/types.h>
#include <vector>

#include "tests/support.h"

namespace qinco::tests {

using Arguments = std::vector<std::string>;
using Json = nlohmann::json;

struct Limits {
  double seconds = 120;        // then the process is killed and the test fails
  int64_t memory = 4LL << 30;  // RLIMIT_AS in bytes; not set in sanitizer builds, which reserve terabytes
  int64_t file_size = 0;       // RLIMIT_FSIZE in bytes, 0 = none: a disk that fills up
  std::string out;             // stdout goes to this path instead of being kept
};

struct Outcome {
  int code = -1;   // exit code, or -1
  int signal = 0;  // that killed it, or 0
  std::string out, err;
  int64_t peak_bytes = 0;  // largest resident size
};

/// A running bin/qinco; killed, if it still runs, at the end of the scope.
class Process {
 public:
  explicit Process(const Arguments& arguments, const Limits& limits = {});
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  bool running();
  void send(int signal);
  /// Waits until stdout holds `text`, or the end.
  void wait_for_output(const std::string& text);
  /// Waits for the end.
  Outcome finish();

 private:
  bool poll(bool block);

  TemporaryDirectory directory_;
  Limits limits_;
  std::chrono::steady_clock::time_point start_;
  pid_t pid_ = -1;
  bool ended_ = false;
  Outcome outcome_;
};

/// Runs to the end.
Outcome run(const Arguments& arguments, const Limits& limits = {});

/// Runs to the end with standard input, output and error as the shell's `redirections` say; returns the exit code.
int run_by_shell(const Arguments& arguments, const std::string& redirections);

/// Runs what must succeed with --json; returns the results.
Json results_of(Arguments arguments);

/// The names of all files below a directory.
std::set<std::string> listing(const std::filesystem::path& directory);

/// Checks that the run ended with `code` and exactly one line on stderr, which starts with "qinco" and holds all
/// `parts`.
void check_error(const Outcome& outcome, int code, std::initializer_list<std::string> parts);

/// Runs what must fail as check_error says, and checks that no file came or went in `directory`.
void expect_error(const std::filesystem::path& directory, const Arguments& arguments, int code,
                  std::initializer_list<std::string> parts, const Limits& limits = {});

/// The bytes of a file.
std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);

}  // namespace qinco::tests
