#include "kernels/context.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <omp.h>

#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/sanitizer.h"

namespace qinco::kernels {

namespace {

constexpr size_t kAlignment = 64, kCudaAlignment = 256;
constexpr size_t kMinChunk = size_t{1} << 20;

std::atomic<int> threads_setting{0};
thread_local ContextScope* innermost = nullptr;

}  // namespace

int default_threads() {
  const int set = threads_setting.load(std::memory_order_relaxed);
  return set > 0 ? set : std::max(1, omp_get_max_threads());
}

void set_default_threads(int n) {
  check(n >= 1 && n <= 4096, "threads: expected 1..4096, found {}", n);
  threads_setting.store(n, std::memory_order_relaxed);
}

const Context& Context::cpu() {
  thread_local Scratch scratch;
  thread_local Context context;
  context.threads = default_threads();
  context.scratch = &scratch;
  return context;
}

const Context& Context::of(Device device) {
  for (const ContextScope* scope = innermost; scope; scope = scope->outer_)
    if (scope->context_.device == device) return scope->context_;
  if (device.type == DeviceType::cpu) return cpu();
  struct Own {
    explicit Own(Device on) : scratch(on), context{on, 1, cuda::stream(on.index), &scratch} {}
    Scratch scratch;
    Context context;
  };
  thread_local std::map<int, Own> contexts;
  const auto found = contexts.find(device.index);
  if (found != contexts.end()) return found->second.context;
  check_device(device);
  return contexts.try_emplace(device.index, device).first->second.context;
}

ContextScope::ContextScope(const Context& context) : context_(context), outer_(innermost) {
  innermost = this;
}
ContextScope::~ContextScope() {
  innermost = outer_;
}

struct Scratch::Chunk {
  Chunk* next;
  std::byte* data;
  size_t size;
  size_t used;
};

Scratch::~Scratch() {
  free_down_to(nullptr);
}

void Scratch::push(size_t size) {
  auto* const data = static_cast<std::byte*>(allocate(device_, size));
  top_ = new Chunk{top_, data, size, 0};
  if (device_.type == DeviceType::cpu) forbid_access(data, size);  // frames allow what they hand out
}

// A chunk for `size` bytes, of `peak` if there is memory: the next frames then need no other.
void Scratch::grow(size_t size, size_t peak) {
  const size_t wanted = std::max(peak, kMinChunk);
  try {
    push(wanted);
  } catch (const OutOfMemory&) {
    if (wanted == size) throw;
    push(size);
  }
}

void Scratch::free_down_to(const Chunk* floor) {
  while (top_ != floor) {
    Chunk* const chunk = top_;
    top_ = chunk->next;
    if (device_.type == DeviceType::cpu) allow_access(chunk->data, chunk->size);
    release(device_, chunk->data, chunk->size);
    delete chunk;
  }
}

ScratchFrame::ScratchFrame(const Context& context)
    : scratch_(*context.scratch),
      outer_chunk_(scratch_.top_),
      outer_used_(outer_chunk_ ? outer_chunk_->used : 0),
      outer_live_(scratch_.live_) {
  ++scratch_.frames_;
}

ScratchFrame::~ScratchFrame() {
  scratch_.live_ = outer_live_;
  const bool outermost = --scratch_.frames_ == 0;
  Scratch::Chunk* const newest = scratch_.top_;
  if (newest != outer_chunk_) {
    // The newest chunk is the largest: it stays for the next frame, on top of those still in use.
    scratch_.top_ = newest->next;
    scratch_.free_down_to(outermost ? nullptr : outer_chunk_);
    newest->next = scratch_.top_;
    newest->used = 0;
    scratch_.top_ = newest;
  }
  const auto forbid_rest = [this](const Scratch::Chunk& chunk) {
    if (scratch_.device_.type == DeviceType::cpu) forbid_access(chunk.data + chunk.used, chunk.size - chunk.used);
  };
  if (outer_chunk_ && !(outermost && newest != outer_chunk_)) {
    outer_chunk_->used = outer_used_;
    forbid_rest(*outer_chunk_);
  }
  if (scratch_.top_) forbid_rest(*scratch_.top_);
}

void* ScratchFrame::bytes(size_t asked) {
  const bool on_cpu = scratch_.device_.type == DeviceType::cpu;
  const size_t alignment = on_cpu ? kAlignment : kCudaAlignment;
  const size_t size = (std::max<size_t>(asked, 1) + alignment - 1) / alignment * alignment;
  const size_t live = scratch_.live_ + size, peak = std::max(live, scratch_.peak_);
  if (!scratch_.top_ || scratch_.top_->size - scratch_.top_->used < size) scratch_.grow(size, peak);
  scratch_.live_ = live;
  scratch_.peak_ = peak;
  Scratch::Chunk* const chunk = scratch_.top_;
  void* const result = chunk->data + chunk->used;
  chunk->used += size;
  if (on_cpu) allow_access(result, asked);
  return result;
}

}  // namespace qinco::kernels
