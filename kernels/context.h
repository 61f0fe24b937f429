// What a kernel may use besides its arguments: a device, threads, a stream and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.h"

namespace qinco::kernels {

/// A bump allocator for the scratch memory of kernels, on one device. It keeps one chunk as large as the largest use
/// seen until it is destroyed, so steady-state calls do not allocate. One owner thread at a time. A CUDA device works
/// in the order of its stream, so a frame may end, and its memory be used again, before the kernels that use it have
/// run.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(Device device) : device_(device) {}
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

 private:
  friend class ScratchFrame;
  struct Chunk;  // says where its `size` bytes on the device are
  void push(size_t size);
  void grow(size_t size, size_t peak);
  void free_down_to(const Chunk* floor);

  Device device_;
  Chunk* top_ = nullptr;  // the chunk in use, on the stack of those that filled up before it
  size_t live_ = 0;       // bytes handed out by the open frames
  size_t peak_ = 0;       // largest live_ seen
  int frames_ = 0;        // open frames
};

/// A device, with threads or a stream, and scratch for one caller. Two threads must not use one Context at the same
/// time.
struct Context {
  Device device;
  int threads = 1;
  void* stream = nullptr;  // cudaStream_t: the device's one, for all threads, or a recording's
  Scratch* scratch = nullptr;

  /// The calling thread's own context: CPU, `default_threads()` threads, its own scratch.
  static const Context& cpu();
  /// The calling thread's own context for `device`, or that of a ContextScope; throws Error where check_device does.
  static const Context& of(Device device);
};

/// While one is alive in a thread, Context::of(context.device) is `context` there. Scopes nest.
class ContextScope {
 public:
  explicit ContextScope(const Context& context);
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const Context& context_;
  ContextScope* outer_;
  friend struct Context;
};

/// The number of threads that `Context::cpu()` uses; at first what OpenMP offers (OMP_NUM_THREADS is honoured).
int default_threads();
/// Sets it for the whole process; n >= 1. After work with several threads a child of fork() must set it to 1 first: the
/// other threads are not there, and OpenMP would wait for them.
void set_default_threads(int n);

/// Scratch memory for the duration of a scope; frames of one Context nest. Take everything before the parallel region:
/// `get` is for one thread.
class ScratchFrame {
 public:
  explicit ScratchFrame(const Context& context);
  ~ScratchFrame();
  ScratchFrame(const ScratchFrame&) = delete;
  ScratchFrame& operator=(const ScratchFrame&) = delete;

  /// `count` >= 0 uninitialised elements on the context's device, aligned to 64 bytes (CUDA: 256); throws as
  /// `allocate`.
  template <class T>
  [[gnu::always_inline]] T* get(int64_t count) {  // inlined: code compiled for one ISA must not be shared by the linker
    return static_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  void* bytes(size_t asked);
  Scratch& scratch_;
  Scratch::Chunk* outer_chunk_;
  size_t outer_used_;
  size_t outer_live_;
};

}  // namespace qinco::kernels
