// What the subcommands of bin/qinco share: the options common to all, their output, and how one is added.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <fmt/format.h>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/context.h"

namespace qinco::app {

using Json = nlohmann::ordered_json;

/// A mistake in how the program was called that only the subcommand can see; exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The options of every subcommand, and where its results go.
class Common {
 public:
  std::string device_name = "cpu";
  int threads = 0;  // 0: all that the machine offers
  uint64_t seed = 1;
  bool quiet = false;
  std::string json;        // a file, "-" for stdout, or empty
  bool to_stdout = false;  // whether an output, the JSON or another, is stdout

  Device device() const { return Device::parse(device_name); }
  /// The calling thread's context on that device.
  const kernels::Context& context() const { return kernels::Context::of(device()); }

  /// Checks the device, sets the threads and makes sure that the JSON file can be written, before any work.
  void apply() const;

  /// Where text for people and progress go: stdout, stderr where an output is stdout, null with --quiet.
  std::FILE* text() const;

  /// Prints one line for people, unless --quiet.
  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) const {
    if (std::FILE* out = text()) {
      fmt::print(out, "{}\n", fmt::format(format, std::forward<Args>(args)...));
      std::fflush(out);
    }
  }

  /// Writes the results where --json says, if it was given.
  void report(const Json& results) const;
  /// Prints what a file is, a line for each value (null: unknown), and reports it.
  void describe(const Json& about) const;
};

/// The command line: the top-level parser with its subcommands. A subcommand keeps its own options in a struct that
/// its `run` captures.
class Program {
 public:
  Program();

  /// Adds a subcommand that only holds others, which are added after it.
  void add_group(const std::string& name, const std::string& description);
  /// Adds subcommand `name` ("NAME", or "GROUP NAME" for a part of a group) with the common options; `run` is called
  /// when it was chosen and parsed.
  CLI::App& add(const std::string& name, const std::string& description, std::function<void(const Common&)> run);

  /// Adds an option that names a file to write. No other option may name the same file, but `replaces`, and it must
  /// not end like a file of another kind than `kind` (empty: any), or else nothing is run.
  CLI::Option* add_output(CLI::App& command, const std::string& name, std::string& path, const std::string& description,
                          const std::string& kind, const std::string& replaces = "");

  /// Parses and runs; returns the exit code: 0, 1 for the user's errors, 2 for usage errors, with one line on stderr.
  int main(int argc, char** argv);

 private:
  /// The program, and the group and the subcommand as far as the first arguments name them.
  std::vector<CLI::App*> named_commands(const std::vector<std::string>& arguments);
  void run(const std::vector<std::string>& arguments);
  void check_outputs(const CLI::App& command) const;
  bool outputs_to_stdout(const CLI::App& command) const;

  struct Output {
    std::string kind, replaces;
  };
  std::map<const CLI::Option*, Output> outputs_;
  CLI::App app_;
  Common common_;
  std::function<void(const Common&)> chosen_;
};

/// Throws Error when `path` could not be written: called before long work whose result goes there.
void check_writable(const std::string& path);
/// Throws UsageError when `path` ends like a file of another kind than `kind`: an ending, or in words.
void check_ending(const std::string& option, const std::string& path, const std::string& kind);
/// The same for all names of a file, whether it exists or not; of FILE.hdf5:DATASET, the file's.
std::string file_place(const std::string& path);

// One per source file.
void add_train(Program& program);
void add_encode(Program& program);
void add_decode(Program& program);
void add_eval(Program& program);
void add_baseline(Program& program);
void add_kmeans(Program& program);
void add_search(Program& program);
void add_pq(Program& program);
void add_index(Program& program);
void add_info(Program& program);
void add_convert(Program& program);

}  // namespace qinco::app
