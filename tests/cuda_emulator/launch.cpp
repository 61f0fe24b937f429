// Launches: the limits of a real device, the blocks one after the other, the threads of a block as fibers, and the
// barriers between them.
#include <atomic>
#include <cstdlib>
#include <fmt/format.h>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/status.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_emulator {

namespace {

constexpr size_t kSharedBytes = size_t{48} << 10, kSharedBytesOptIn = size_t{227} << 10, kSharedGuard = 4096;
constexpr size_t kKernelBytes = size_t{1} << 20;  // for a kernel to be loaded
constexpr unsigned char kSharedGuardByte = 0xfb;
constexpr unsigned kMaxThreads = 1024, kMaxBlockZ = 64, kMaxGridYZ = 65535;
constexpr unsigned kMaxGridX = 0x7fffffff;

enum class State { ready, at_block_barrier, at_warp_barrier, ended };

struct Thread {
  State state = State::ready;
  Fiber* fiber = nullptr;  // null before it begins and after it ends
  Where where;             // the barrier's place
  unsigned exchanges = 0;  // of its whole warp
  uint3 index{};
};

// The lanes of a warp that exist and that have returned, and the barriers, of disjoint masks, that some wait at.
struct Warp {
  struct Barrier {
    unsigned mask, arrived;
    Where where;
  };
  unsigned lanes = 0, ended = 0;
  std::vector<Barrier> barriers;
};

std::string place(const Where& where) {
  std::string file = where.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), where.line());
}

bool same_place(const Where& a, const Where& b) {
  if (a.line() != b.line() || a.column() != b.column()) return false;
  return a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name();
}

// Everything of the launch in progress. One launch runs at a time, under the lock of DeviceWork.
class Launch {
 public:
  void run(const cudaLaunchConfig_t& config, void (*call)(void*), void* arguments);

  void block_barrier(const Where& where);
  void warp_barrier(unsigned mask, const Where& where);
  void yield() { threads_[static_cast<size_t>(current_)].fiber->suspend(); }
  int lane() const { return current_ % warpSize; }
  void* lane_slot(int of_lane, unsigned mask, int side, const Where& where);
  int exchange_side(unsigned mask);
  void* shared() { return shared_; }
  [[noreturn]] void fail(const std::string& message, const Where& where);
  const std::string& error() const { return error_; }

 private:
  void run_block(unsigned index);
  void run_thread(int t);
  void release_block_barrier();
  void wait(State state, const Where& where);
  Fiber* take_fiber();
  void drop_fibers();
  std::string thread_name(int t) const;
  template <class Item>
  void put_in_order(std::vector<Item>& items);

  void (*call_)(void*) = nullptr;
  void* arguments_ = nullptr;
  size_t shared_bytes_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  int current_ = 0, live_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::string error_;
  std::mt19937 random_{1};
  unsigned char slots_[kSideOfParts + 1][kMaxThreads][32];
  alignas(1024) unsigned char shared_[kSharedBytesOptIn + kSharedGuard];
};

Launch& launch_in_progress() {
  static Launch* const launch = new Launch;
  return *launch;
}

// CUDA_EMULATOR_ORDER=forward|reverse|shuffled: the order of blocks and, between barriers, of threads. A GPU promises
// none, so results must not depend on it.
template <class Item>
void Launch::put_in_order(std::vector<Item>& items) {
  static const char* const setting = std::getenv("CUDA_EMULATOR_ORDER");
  static const std::string order = setting ? setting : "forward";
  if (order == "reverse") std::reverse(items.begin(), items.end());
  if (order == "shuffled") std::shuffle(items.begin(), items.end(), random_);
}

Fiber* Launch::take_fiber() {
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>());
    idle_.push_back(fibers_.back().get());
  }
  Fiber* const fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

// After an error: the fibers that wait will never go on.
void Launch::drop_fibers() {
  idle_.clear();
  fibers_.clear();
}

std::string Launch::thread_name(int t) const {
  const uint3 i = threads_[static_cast<size_t>(t)].index;
  return fmt::format("thread ({},{},{}) of block ({},{},{})", i.x, i.y, i.z, blockIdx.x, blockIdx.y, blockIdx.z);
}

void Launch::wait(State state, const Where& where) {
  Thread& thread = threads_[static_cast<size_t>(current_)];
  thread.state = state;
  thread.where = where;
  thread.fiber->suspend();
}

void Launch::fail(const std::string& message, const Where& where) {
  error_ = fmt::format("{}: {} {}", place(where), thread_name(current_), message);
  for (;;) threads_[static_cast<size_t>(current_)].fiber->suspend();
}

void Launch::block_barrier(const Where& where) {
  wait(State::at_block_barrier, where);
}

void Launch::warp_barrier(unsigned mask, const Where& where) {
  const size_t first = static_cast<size_t>(current_) / warpSize * warpSize;
  Warp& warp = warps_[first / warpSize];
  if (!(mask >> lane() & 1)) fail("is not in the mask of its own warp operation", where);
  if (mask & warp.ended) fail("waits for its warp, of which some have returned, or wait elsewhere", where);
  auto barrier = warp.barriers.begin();
  while (barrier != warp.barriers.end() && !(barrier->mask & mask)) ++barrier;
  if (barrier == warp.barriers.end()) barrier = warp.barriers.insert(barrier, {mask, 0, where});
  if (barrier->mask != mask || !same_place(barrier->where, where))
    fail(fmt::format("meets lanes of its warp that are at {} or have another mask", place(barrier->where)), where);
  barrier->arrived |= 1u << lane();
  if ((barrier->arrived & warp.lanes) != (mask & warp.lanes)) return wait(State::at_warp_barrier, where);
  warp.barriers.erase(barrier);
  for (unsigned l = 0; l < warpSize; ++l)
    if (mask & warp.lanes & 1u << l) threads_[first + l].state = State::ready;
}

int Launch::exchange_side(unsigned mask) {
  if (mask != 0xffffffffu) return kSideOfParts;
  return static_cast<int>(threads_[static_cast<size_t>(current_)].exchanges++ % kSideOfParts);
}

void* Launch::lane_slot(int of_lane, unsigned mask, int side, const Where& where) {
  const int t = current_ / warpSize * warpSize + of_lane;
  if (of_lane == lane() && !(mask >> of_lane & 1)) fail("is not in the mask of its own warp operation", where);
  if (of_lane < 0 || of_lane >= warpSize || !(mask >> of_lane & 1) || t >= static_cast<int>(threads_.size()))
    fail(fmt::format("takes the value of lane {}, which is not there", of_lane), where);
  return slots_[side][t];
}

void Launch::run_thread(int t) {
  Thread& thread = threads_[static_cast<size_t>(t)];
  current_ = t;
  threadIdx = thread.index;
  if (!thread.fiber) {
    thread.fiber = take_fiber();
    thread.fiber->start(call_, arguments_);
  }
  if (!thread.fiber->resume()) return;
  thread.state = State::ended;
  warps_[static_cast<size_t>(t) / warpSize].ended |= 1u << lane();
  idle_.push_back(std::exchange(thread.fiber, nullptr));
  --live_;
}

// Nobody can go on but through the block's barrier: all threads of the block must be at it.
void Launch::release_block_barrier() {
  int waiting = -1;
  for (int t = 0; t < static_cast<int>(threads_.size()); ++t)
    if (threads_[static_cast<size_t>(t)].state == State::at_block_barrier) waiting = t;
  for (int t = 0; t < static_cast<int>(threads_.size()); ++t) {
    Thread& thread = threads_[static_cast<size_t>(t)];
    const Where& there = waiting < 0 ? thread.where : threads_[static_cast<size_t>(waiting)].where;
    if (thread.state == State::at_warp_barrier) {
      error_ = fmt::format("{}: {} waits for its warp for ever: some have returned, or wait elsewhere",
                           place(thread.where), thread_name(t));
    } else if (thread.state == State::ended) {
      error_ = fmt::format("{}: {} has returned, others wait at the barrier", place(there), thread_name(t));
    } else if (!same_place(thread.where, there)) {
      error_ =
          fmt::format("{}: {} waits at this barrier, others at {}", place(thread.where), thread_name(t), place(there));
    } else {
      thread.state = State::ready;
    }
    if (!error_.empty()) return;
  }
}

void Launch::run_block(unsigned index) {
  blockIdx = {index % gridDim.x, index / gridDim.x % gridDim.y, index / gridDim.x / gridDim.y};
  std::memset(shared_, 0xff, shared_bytes_);
  std::memset(shared_ + shared_bytes_, kSharedGuardByte, kSharedGuard);
  live_ = static_cast<int>(threads_.size());
  for (Warp& warp : warps_) warp = {};
  for (int t = 0; t < live_; ++t) {
    const auto u = static_cast<unsigned>(t);
    threads_[u] = {};
    warps_[u / warpSize].lanes |= 1u << u % warpSize;
    threads_[u].index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
  }
  while (live_ > 0) {
    put_in_order(order_);
    bool progress = false;
    for (const int t : order_) {
      if (threads_[static_cast<size_t>(t)].state != State::ready) continue;
      run_thread(t);
      progress = true;
      if (!error_.empty()) return;
    }
    if (!progress) release_block_barrier();
    if (!error_.empty()) return;
  }
  for (size_t i = 0; i < kSharedGuard; ++i)
    if (shared_[shared_bytes_ + i] != kSharedGuardByte) {
      error_ = fmt::format("block writes {} bytes beyond its {} bytes of shared memory", i, shared_bytes_);
      return;
    }
}

void Launch::run(const cudaLaunchConfig_t& config, void (*call)(void*), void* arguments) {
  call_ = call;
  arguments_ = arguments;
  shared_bytes_ = config.dynamicSmemBytes;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  error_.clear();
  threads_.resize(size_t{blockDim.x} * blockDim.y * blockDim.z);
  warps_.resize((threads_.size() + warpSize - 1) / warpSize);
  order_.resize(threads_.size());
  for (size_t t = 0; t < order_.size(); ++t) order_[t] = static_cast<int>(t);
  std::vector<unsigned> blocks(size_t{gridDim.x} * gridDim.y * gridDim.z);
  for (size_t b = 0; b < blocks.size(); ++b) blocks[b] = static_cast<unsigned>(b);
  put_in_order(blocks);
  for (const unsigned block : blocks) {
    run_block(block);
    const std::string left = wgmma::Begun::instance().forget();
    if (error_.empty() && !left.empty()) error_ = fmt::format("block {} ends with {} not waited for", block, left);
    if (error_.empty()) continue;
    drop_fibers();
    return;
  }
  const std::string broken = Memory::instance().broken_guard();
  if (!broken.empty()) error_ = fmt::format("a kernel: {}", broken);
}

std::map<const void*, size_t>& allowed_shared_bytes() {
  static auto* const allowed = new std::map<const void*, size_t>;
  return *allowed;
}

// What a device of compute capability 8.0 to 9.0 would refuse.
std::string refusal(const void* kernel, const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const auto dimensions = [](dim3 d) { return fmt::format("({},{},{})", d.x, d.y, d.z); };
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > kMaxBlockZ)
    return fmt::format("block of {}", dimensions(block));
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ)
    return fmt::format("grid of {}", dimensions(grid));
  const auto found = allowed_shared_bytes().find(kernel);
  const size_t allowed = found == allowed_shared_bytes().end() ? kSharedBytes : std::max(found->second, kSharedBytes);
  if (config.dynamicSmemBytes > allowed)
    return fmt::format("{} bytes of shared memory, allowed are {}", config.dynamicSmemBytes, allowed);
  return "";
}

// A kernel is loaded when it is first launched or its attributes are first set, which needs memory then; the emulator
// does not keep it.
cudaError_t load(const void* kernel) {
  static auto* const loaded = new std::set<const void*>;
  if (loaded->count(kernel) == 0 && Memory::instance().free_bytes() < kKernelBytes)
    return set_error(cudaErrorMemoryAllocation, "out of memory");
  loaded->insert(kernel);
  return cudaSuccess;
}

}  // namespace

int lane() {
  return launch_in_progress().lane();
}
void block_barrier(const Where& where) {
  launch_in_progress().block_barrier(where);
}
void warp_barrier(unsigned mask, const Where& where) {
  launch_in_progress().warp_barrier(mask, where);
}
void yield() {
  launch_in_progress().yield();
}
void* lane_slot(int of_lane, unsigned mask, int side, const Where& where) {
  return launch_in_progress().lane_slot(of_lane, mask, side, where);
}
int exchange_side(unsigned mask) {
  return launch_in_progress().exchange_side(mask);
}
void* dynamic_shared() {
  return launch_in_progress().shared();
}
void fail(const std::string& message, const Where& where) {
  launch_in_progress().fail(message, where);
}

cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config) {
  const DeviceWork work;
  const std::string refused = refusal(kernel, config);
  if (!refused.empty()) return set_error(cudaErrorInvalidConfiguration, refused);
  return load(kernel);
}

cudaError_t launch(const cudaLaunchConfig_t& config, void (*call)(void*), void* arguments) {
  const DeviceWork work;
  Launch& current = launch_in_progress();
  current.run(config, call, arguments);
  return current.error().empty() ? cudaSuccess : set_error(cudaErrorLaunchFailure, current.error());
}

cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  const DeviceWork work;
  if (bytes < 0 || static_cast<size_t>(bytes) > kSharedBytesOptIn)
    return set_error(cudaErrorInvalidValue, fmt::format("shared memory of {} bytes", bytes));
  if (const cudaError_t status = load(kernel); status != cudaSuccess) return status;
  allowed_shared_bytes()[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

}  // namespace cuda_emulator
