#undef _FORTIFY_SOURCE  // its longjmp takes a change of stacks for a mistake
#include "tests/cuda_emulator/fiber.h"

#include <cstdint>
#include <new>
#include <sys/mman.h>

namespace cuda_emulator {

namespace {

constexpr size_t kStack = size_t{64} << 10, kPage = 4096;

[[gnu::noinline]] void change(std::jmp_buf& from, std::jmp_buf& to) {
  if (_setjmp(from) == 0) _longjmp(to, 1);
}

}  // namespace

Fiber::Fiber() {
  void* const memory =
      mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<unsigned char*>(memory);
  mprotect(stack_, kPage, PROT_NONE);  // a stack that grows too long ends here
}

Fiber::~Fiber() {
  munmap(stack_, kStack);
}

void Fiber::start(void (*function)(void*), void* argument) {
  function_ = function;
  argument_ = argument;
  ended_ = false;
}

bool Fiber::resume() {
  if (created_) {
    change(outside_, inside_);
    return ended_;
  }
  created_ = true;
  getcontext(&first_);
  first_.uc_stack.ss_sp = stack_;
  first_.uc_stack.ss_size = kStack;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&first_, reinterpret_cast<void (*)()>(&Fiber::enter), 2, static_cast<unsigned>(self),
              static_cast<unsigned>(self >> 32));
  if (_setjmp(outside_) == 0) swapcontext(&creator_, &first_);
  return ended_;
}

void Fiber::suspend() {
  change(inside_, outside_);
}

void Fiber::enter(unsigned low, unsigned high) {
  reinterpret_cast<Fiber*>(static_cast<uintptr_t>(high) << 32 | low)->loop();
}

void Fiber::loop() {
  for (;;) {
    function_(argument_);
    ended_ = true;
    suspend();
  }
}

}  // namespace cuda_emulator
