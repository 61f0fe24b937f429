#include "tests/apps/program.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "kernels/sanitizer.h"

namespace qinco::tests {
namespace {

void set_limit(decltype(RLIMIT_AS) which, int64_t value) {
  const rlimit limit = {static_cast<rlim_t>(value), static_cast<rlim_t>(value)};
  if (setrlimit(which, &limit) != 0) _exit(125);
}

void redirect(const std::string& path, int to) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT, 0600);
  if (fd < 0 || dup2(fd, to) < 0) _exit(126);
}

/// In the child: limits, output files, exec.
[[noreturn]] void become(const std::vector<char*>& argv, const Limits& limits, const std::string& out,
                         const std::string& err) {
  redirect(out, STDOUT_FILENO);
  redirect(err, STDERR_FILENO);
  if (!kAddressSanitizer) set_limit(RLIMIT_AS, limits.memory);
  set_limit(RLIMIT_CORE, 0);
  std::signal(SIGPIPE, SIG_DFL);  // whoever runs the tests may ignore it
  if (limits.file_size > 0) set_limit(RLIMIT_FSIZE, limits.file_size);
  setenv("ASAN_OPTIONS", "allocator_may_return_null=1", 0);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  REQUIRE_MESSAGE(file.good(), path);
}

Process::Process(const Arguments& arguments, const Limits& limits)
    : limits_(limits), start_(std::chrono::steady_clock::now()) {
  std::vector<std::string> words = {QINCO_BINARY};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  const auto device = std::find(arguments.begin(), arguments.end(), "--device");
  // A driver reserves addresses for all memory there is.
  if (arguments.end() - device > 1 && device[1].rfind("cuda", 0) == 0) limits_.memory = RLIM_INFINITY;
  argv.push_back(nullptr);
  if (limits_.out.empty()) {
    limits_.out = directory_.file("out");
    write_bytes(limits_.out, "");
  }
  const std::string err = directory_.file("err");
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) become(argv, limits_, limits_.out, err);
}

Process::~Process() {
  if (ended_) return;
  kill(pid_, SIGKILL);
  poll(true);
}

bool Process::poll(bool block) {
  if (ended_) return true;
  int status = 0;
  rusage usage = {};
  if (wait4(pid_, &status, block ? 0 : WNOHANG, &usage) != pid_) return false;
  ended_ = true;
  outcome_.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  outcome_.peak_bytes = static_cast<int64_t>(usage.ru_maxrss) * 1024;
  return true;
}

bool Process::running() {
  return !poll(false);
}

void Process::send(int signal) {
  if (!ended_) kill(pid_, signal);
}

void Process::wait_for_output(const std::string& text) {
  while (running() && !contains(read_bytes(limits_.out), text))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

Outcome Process::finish() {
  using namespace std::chrono_literals;
  while (!poll(false)) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    if (passed.count() > limits_.seconds) {
      FAIL_CHECK("still running after " << limits_.seconds << " s");
      kill(pid_, SIGKILL);
      poll(true);
    } else {
      std::this_thread::sleep_for(2ms);
    }
  }
  if (contains(limits_.out, directory_.path().string())) outcome_.out = read_bytes(limits_.out);
  outcome_.err = read_bytes(directory_.file("err"));
  return outcome_;
}

Outcome run(const Arguments& arguments, const Limits& limits) {
  return Process(arguments, limits).finish();
}

int run_by_shell(const Arguments& arguments, const std::string& redirections) {
  std::string command = QINCO_BINARY;
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  const int status = std::system((command + " " + redirections).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Json results_of(Arguments arguments) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("results.json");
  arguments.insert(arguments.end(), {"--json", path});
  const Outcome outcome = run(arguments);
  CHECK_MESSAGE(outcome.err.empty(), outcome.err);
  REQUIRE(outcome.code == 0);
  const Json results = Json::parse(read_bytes(path), nullptr, false);
  REQUIRE(results.is_object());
  return results;
}

std::set<std::string> listing(const std::filesystem::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) names.insert(entry.path());
  return names;
}

void check_error(const Outcome& outcome, int code, std::initializer_list<std::string> parts) {
  CAPTURE(outcome.err);
  CHECK(outcome.signal == 0);
  CHECK(outcome.code == code);
  CHECK(outcome.err.rfind("qinco", 0) == 0);
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
  CHECK((!outcome.err.empty() && outcome.err.back() == '\n'));
  for (const std::string& part : parts) CHECK_MESSAGE(contains(outcome.err, part), "expected in it: " << part);
}

void expect_error(const std::filesystem::path& directory, const Arguments& arguments, int code,
                  std::initializer_list<std::string> parts, const Limits& limits) {
  const std::set<std::string> before = listing(directory);
  std::string command = "qinco";
  for (const std::string& argument : arguments) command += " " + argument;
  CAPTURE(command);
  check_error(run(arguments, limits), code, parts);
  CHECK(listing(directory) == before);
}

}  // namespace qinco::tests
