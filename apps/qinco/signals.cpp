#include "apps/qinco/signals.h"

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <iterator>
#include <string_view>
#include <unistd.h>

#include "tensor/file.h"

namespace qinco::app {
namespace {

std::atomic<int> received_signal{0};  // a signal handler reaches globals only
std::atomic<int64_t> received_at{0};  // in milliseconds; 0: not known yet
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

constexpr int64_t kOneWish = 500;  // milliseconds
constexpr int kStops[] = {SIGINT, SIGTERM, SIGHUP};
struct sigaction earlier[std::size(kStops)];

[[noreturn]] void end(std::string_view message, int code) {
  remove_temporary_files();
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
  _exit(code);
}

extern "C" void on_last_signal(int number) {
  end("qinco: stopped by a signal\n", 128 + number);
}

extern "C" void on_closed_pipe(int number) {
  end("", 128 + number);  // who closed it wants no more lines
}

extern "C" void on_shrunk_file(int) {
  end("qinco: a file became shorter, or could not be read, while it was in use\n", 1);
}

int64_t milliseconds() {
  struct timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000 + 1;
}

extern "C" void on_stop_signal(int number) {
  const int64_t now = milliseconds();
  int none = 0;
  if (received_signal.compare_exchange_strong(none, number)) {
    received_at = now;
    return;
  }
  // One wish to stop may come twice: from timeout, to the process and to its group, and of a terminal that closes.
  const int64_t first = received_at;
  if (number != SIGHUP && first != 0 && now - first >= kOneWish) on_last_signal(number);
}

struct sigaction action_of(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;  // a write in progress goes on
  sigemptyset(&action.sa_mask);
  return action;
}

}  // namespace

void handle_signals() {
  const auto handle = [](int number, void (*handler)(int)) {
    const struct sigaction action = action_of(handler);
    struct sigaction before;
    if (sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);
  };
  for (const int number : kStops) handle(number, on_last_signal);
  handle(SIGPIPE, on_closed_pipe);
  handle(SIGBUS, on_shrunk_file);  // of a mapped file
  std::signal(SIGXFSZ, SIG_IGN);
}

StopSignals::StopSignals() {
  struct sigaction current;
  if (sigaction(SIGTERM, nullptr, &current) == 0 && current.sa_handler == on_stop_signal) return;  // still to be met
  received_signal = 0;
  received_at = 0;
  const struct sigaction stop = action_of(on_stop_signal);
  for (size_t i = 0; i < std::size(kStops); ++i) {
    sigaction(kStops[i], nullptr, &earlier[i]);
    const bool ignored = kStops[i] == SIGHUP && earlier[i].sa_handler == SIG_IGN;  // by nohup
    if (!ignored) sigaction(kStops[i], &stop, nullptr);
  }
}

StopSignals::~StopSignals() {
  if (requested()) return;  // the program is to end: no other handler may meet the same wish
  for (size_t i = 0; i < std::size(kStops); ++i) sigaction(kStops[i], &earlier[i], nullptr);
}

int StopSignals::received() const {
  return received_signal;
}

}  // namespace qinco::app
