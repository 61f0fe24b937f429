#include "kernels/context.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <charconv>
#include <new>

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

std::string Device::name() const { return type == DeviceType::cpu ? "cpu" : fmt::format("cuda:{}", index); }

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

Scratch::~Scratch() { pop_to(nullptr); }

void Scratch::pop_to(const Chunk* floor) {
  while (top_ != floor) {
    Chunk* const chunk = top_;
    top_ = chunk->next;
    ::operator delete(chunk->data, std::align_val_t{kAlignment});
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
  // The outermost frame keeps its chunk if it holds the peak alone; otherwise all goes and the next one gets it whole.
  const bool keep = outermost && scratch_.top_ && !scratch_.top_->next && scratch_.top_->size >= scratch_.peak_;
  Scratch::Chunk* const floor = keep ? scratch_.top_ : outermost ? nullptr : outer_chunk_;
  scratch_.pop_to(floor);
  if (floor) floor->used = outermost ? 0 : outer_used_;
}

void* ScratchFrame::bytes(size_t size) {
  size = (std::max<size_t>(size, 1) + kAlignment - 1) / kAlignment * kAlignment;
  Scratch::Chunk* chunk = scratch_.top_;
  if (!chunk || chunk->size - chunk->used < size) {
    const size_t capacity = std::max({size, scratch_.peak_, kMinChunk});
    auto* data = static_cast<std::byte*>(::operator new(capacity, std::align_val_t{kAlignment}));
    chunk = scratch_.top_ = new Scratch::Chunk{chunk, data, capacity, 0};
  }
  void* const result = chunk->data + chunk->used;
  chunk->used += size;
  scratch_.live_ += size;
  scratch_.peak_ = std::max(scratch_.peak_, scratch_.live_);
  return result;
}

}  // namespace qinco::kernels
