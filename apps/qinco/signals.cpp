#include "apps/qinco/signals.h"

#include <atomic>
#include <csignal>
#include <iterator>
#include <string_view>
#include <unistd.h>

#include "tensor/file.h"

namespace qinco::app {
namespace {

std::atomic<int> received_signal{0};  // a signal handler reaches globals only
static_assert(std::atomic<int>::is_always_lock_free);

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

extern "C" void on_stop_signal(int number) {
  int earlier_one = 0;
  if (received_signal.compare_exchange_strong(earlier_one, number)) return;
  if (number != SIGHUP) on_last_signal(number);  // of a closed terminal two may come
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
  received_signal = 0;
  const struct sigaction stop = action_of(on_stop_signal);
  for (size_t i = 0; i < std::size(kStops); ++i) {
    sigaction(kStops[i], nullptr, &earlier[i]);
    const bool ignored = kStops[i] == SIGHUP && earlier[i].sa_handler == SIG_IGN;  // by nohup
    if (!ignored) sigaction(kStops[i], &stop, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < std::size(kStops); ++i) sigaction(kStops[i], &earlier[i], nullptr);
}

int StopSignals::received() const {
  return received_signal;
}

}  // namespace qinco::app
