// Fibers: several stacks in one thread, of which one runs. Created by makecontext, changed by _setjmp and _longjmp,
// which make no system call.
#pragma once

#include <csetjmp>
#include <memory>
#include <ucontext.h>
#include <vector>

namespace cuda_emulator {

/// A stack that calls one function after another. Lives in the thread that runs it.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Gives the fiber its next function; call when the last one has ended.
  void start(void (*function)(void*), void* argument);
  /// Runs the function until it ends (true) or suspends (false).
  bool resume();
  /// To be called in the function: goes back to where resume() was called.
  void suspend();

 private:
  static void enter(unsigned low, unsigned high);
  void loop();

  unsigned char* stack_ = nullptr;
  ucontext_t first_{}, creator_{};
  bool created_ = false, ended_ = true;
  std::jmp_buf outside_, inside_;
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace cuda_emulator
