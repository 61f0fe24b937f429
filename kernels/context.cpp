#include "kernels/context.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <charconv>
#include <new>
#include <omp.h>

#include "kernels/check.h"

namespace qinco {

Device Device::parse(const std::string& text) {
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceType::cuda, 0};
  Device device{DeviceType::cuda, 0};
  const char* const end = text.data() + text.size();
  const bool prefixed = text.rfind("cuda:", 0) == 0;
  const auto [stop, error] = prefixed ? std::from_chars(text.data() + 5, end, device.index)
                                      : std::from_chars_result{text.data(), std::errc::invalid_argument};
  check(error == std::errc() && stop == end && device.index >= 0, "device: expected cpu, cuda or cuda:i, found '{}'",
        text);
  return device;
}

std::string Device::name() const {
  return type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", index);
}

}  // namespace qinco

namespace qinco::kernels {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kMinChunk = size_t{1} << 20;

std::atomic<int> threads_setting{0};

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

struct alignas(kAlignment) Scratch::Chunk {
  Chunk* next;
  size_t size;
  size_t used;

  std::byte* data() { return reinterpret_cast<std::byte*>(this + 1); }
};

Scratch::~Scratch() {
  free_down_to(nullptr);
}

void Scratch::push(size_t size) {
  void* const memory = ::operator new (sizeof(Chunk) + size, std::align_val_t{kAlignment});
  top_ = new (memory) Chunk{top_, size, 0};
}

void Scratch::free_down_to(const Chunk* floor) {
  while (top_ != floor) {
    Chunk* const chunk = top_;
    top_ = chunk->next;
    ::operator delete (chunk, std::align_val_t{kAlignment});
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
  if (outer_chunk_ && !(outermost && newest != outer_chunk_)) outer_chunk_->used = outer_used_;
}

void* ScratchFrame::bytes(size_t size) {
  size = (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const size_t live = scratch_.live_ + size, peak = std::max(live, scratch_.peak_);
  if (!scratch_.top_ || scratch_.top_->size - scratch_.top_->used < size) scratch_.push(std::max(peak, kMinChunk));
  scratch_.live_ = live;
  scratch_.peak_ = peak;
  Scratch::Chunk* const chunk = scratch_.top_;
  void* const result = chunk->data() + chunk->used;
  chunk->used += size;
  return result;
}

}  // namespace qinco::kernels
