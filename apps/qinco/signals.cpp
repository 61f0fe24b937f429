#include "apps/qinco/signals.h"

#include <atomic>
#include <csignal>
#include <unistd.h>

namespace qinco::app {
namespace {

std::atomic<int> received_signal{0};  // a signal handler reaches globals only
static_assert(std::atomic<int>::is_always_lock_free);

struct sigaction earlier_int;
struct sigaction earlier_term;

extern "C" void on_stop_signal(int number) {
  int none = 0;
  if (!received_signal.compare_exchange_strong(none, number)) _exit(128 + number);
}

}  // namespace

StopSignals::StopSignals() {
  received_signal = 0;
  struct sigaction action = {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;  // a write in progress goes on
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &earlier_int);
  sigaction(SIGTERM, &action, &earlier_term);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &earlier_int, nullptr);
  sigaction(SIGTERM, &earlier_term, nullptr);
}

int StopSignals::received() const {
  return received_signal;
}

}  // namespace qinco::app
