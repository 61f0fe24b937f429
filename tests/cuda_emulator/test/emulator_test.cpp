// The emulator itself: kernels that are right run, and each mistake that it promises to find is found.
#include <csignal>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "kernels/check.h"
#include "kernels/context.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

using namespace qinco;
using namespace qinco::kernels;
using namespace qinco::kernels::cuda;

namespace {

const Device kDevice{DeviceType::cuda, 0};

// n elements on the device.
template <class T>
class Array {
 public:
  explicit Array(int64_t n) : bytes_(static_cast<size_t>(n) * sizeof(T)), data_(allocate(kDevice, bytes_)) {}
  explicit Array(const std::vector<T>& values) : Array(static_cast<int64_t>(values.size())) {
    copy_bytes(kDevice, data_, {}, values.data(), bytes_);
  }
  ~Array() { release(kDevice, data_, bytes_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* get() const { return static_cast<T*>(data_); }
  std::vector<T> values() const {
    std::vector<T> out(bytes_ / sizeof(T));
    copy_bytes({}, out.data(), kDevice, data_, bytes_);
    return out;
  }

 private:
  size_t bytes_;
  void* data_;
};

// What the launch throws, or nothing.
template <class... Parameters, class... Arguments>
std::string error_of(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Arguments... arguments) {
  try {
    launch(Context::of(kDevice), kernel, grid, block, shared, arguments...);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

__global__ void places_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  out[block * n + thread] = static_cast<int>(block * 1000 + thread);
}

__global__ void late_kernel(int* out) {
  *out = 1;
}
__global__ void late_large_kernel(int* out) {
  dynamic_shared<int>()[0] = 1;
  *out = dynamic_shared<int>()[0];
}

__global__ void reverse_kernel(int n, int* values) {
  int* const shared = dynamic_shared<int>();
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = values[i];
  __syncthreads();
  values[i] = shared[n - 1 - i];
}

__global__ void sums_kernel(int64_t n, const double* values, double* out) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += kBlock) total += values[i];
  for (int round = 0; round < 3; ++round) {
    const double sum = block_sum(total);
    if (threadIdx.x == 0) out[round] = sum;
  }
}

__global__ void shuffles_kernel(int* out) {
  const int l = lane();
  out[l] = __shfl_sync(kFullMask, l, 5);
  out[32 + l] = __shfl_xor_sync(kFullMask, l, 3);
  out[64 + l] = __shfl_down_sync(kFullMask, l, 4);
  out[96 + l] = __shfl_up_sync(kFullMask, l, 2, 16);
  out[128 + l] = static_cast<int>(__ballot_sync(kFullMask, l % 3 == 0));
  out[160 + l] = l < 16 ? __any_sync(0xffffu, l == 3) : __all_sync(0xffff0000u, l > 16);
}

__global__ void half_barrier_kernel() {
  if (threadIdx.x < 20) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 20)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void half_shuffle_kernel(int* out) {
  if (threadIdx.x < 20) out[threadIdx.x] = __shfl_sync(kFullMask, 1, 0);
}

__global__ void foreign_mask_kernel(int* out) {
  out[threadIdx.x] = __shfl_sync(1u, 1, 0);
}

__global__ void absent_lane_kernel(int* out) {
  if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0xffu, 1, 20);
}

__global__ void write_kernel(float* out, int64_t i) {
  out[i] = 1;
}

__global__ void shared_write_kernel(int i) {
  dynamic_shared<int>()[i] = 1;
}

__global__ void read_shared_kernel(float* out) {
  out[threadIdx.x] = dynamic_shared<float>()[threadIdx.x];
}

// Every thread takes its neighbour's value; the barrier in between may be missing.
template <bool barrier>
__global__ void neighbour_kernel(int* out) {
  int* const shared = dynamic_shared<int>();
  const int i = static_cast<int>(threadIdx.x), n = static_cast<int>(blockDim.x);
  shared[i] = i;
  if (barrier) __syncthreads();
  out[i] = shared[(i + 1) % n];
}

__global__ void nothing_kernel() {}

// How a child process that runs `body` ends: its signal, or 0.
template <class Body>
int signal_of(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    std::signal(SIGABRT, SIG_DFL);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

TEST_CASE("emulator: a kernel that there is no memory to load is OutOfMemory, and is loaded when there is") {
  constexpr size_t kSmall = size_t{32} << 20;  // kept for later, where anything is
  const auto load_late = [](void (*kernel)(int*), size_t shared_bytes) {
    const Array<int> out(1);
    const size_t large = memory_info(kDevice).free - kSmall - (size_t{256} << 10);
    void* const filled = allocate(kDevice, large);
    void* const small = allocate(kDevice, kSmall);
    CHECK_THROWS_AS(launch(Context::of(kDevice), kernel, 1, 1, shared_bytes, out.get()), OutOfMemory);
    release(kDevice, small, kSmall);
    CHECK_NOTHROW(launch(Context::of(kDevice), kernel, 1, 1, shared_bytes, out.get()));
    CHECK(out.values()[0] == 1);
    release(kDevice, filled, large);
  };
  load_late(late_kernel, 0);
  load_late(late_large_kernel, size_t{64} << 10);  // which has to be allowed before
}

TEST_CASE("emulator: every thread of every block runs, and knows its place") {
  Array<int> out(3 * 2 * 2 * 4 * 3 * 2);
  launch(Context::of(kDevice), places_kernel, dim3(3, 2, 2), dim3(4, 3, 2), 0, out.get());
  const std::vector<int> found = out.values();
  for (int block = 0; block < 12; ++block)
    for (int thread = 0; thread < 24; ++thread)
      CHECK(found[static_cast<size_t>(block * 24 + thread)] == block * 1000 + thread);
}

TEST_CASE("emulator: barriers and shared memory") {
  std::vector<int> values(1000);
  for (int i = 0; i < 1000; ++i) values[static_cast<size_t>(i)] = i;
  Array<int> array(values);
  launch(Context::of(kDevice), reverse_kernel, 1, 1000, 4000, 1000, array.get());
  const std::vector<int> found = array.values();
  for (int i = 0; i < 1000; ++i) CHECK(found[static_cast<size_t>(i)] == 999 - i);
}

TEST_CASE("emulator: sums over a block, again and again") {
  std::vector<double> values(777);
  double total = 0;
  for (size_t i = 0; i < values.size(); ++i) total += values[i] = static_cast<double>(i * i % 101);
  Array<double> in(values), out(3);
  launch(Context::of(kDevice), sums_kernel, 1, kBlock, 0, int64_t{777}, in.get(), out.get());
  CHECK(out.values() == std::vector<double>{total, total, total});
}

TEST_CASE("emulator: shuffles and votes") {
  Array<int> out(192);
  launch(Context::of(kDevice), shuffles_kernel, 1, kWarp, 0, out.get());
  const std::vector<int> found = out.values();
  for (int l = 0; l < 32; ++l) {
    const auto at = [&](int row) { return found[static_cast<size_t>(32 * row + l)]; };
    CHECK(at(0) == 5);
    CHECK(at(1) == (l ^ 3));
    CHECK(at(2) == (l + 4 < 32 ? l + 4 : l));
    CHECK(at(3) == (l % 16 >= 2 ? l - 2 : l));
    CHECK(at(4) == 0x49249249);
    CHECK(at(5) == (l < 16 ? 1 : 0));
  }
}

TEST_CASE("emulator: bfloat16 rounds to the nearest, ties to even") {
  const auto rounded = [](float x) { return __bfloat162float(__float2bfloat16_rn(x)); };
  CHECK(rounded(1.0f) == 1.0f);
  CHECK(rounded(1.00390625f) == 1.0f);       // half way to 1.0078125
  CHECK(rounded(1.01171875f) == 1.015625f);  // half way, up to even
  CHECK(rounded(-1.0040f) == -1.0078125f);
  CHECK(std::isinf(rounded(3.4e38f)));
  CHECK(std::isnan(rounded(std::nanf(""))));
}

TEST_CASE("emulator: threads that do not come to a barrier are found") {
  CHECK(contains(error_of(half_barrier_kernel, 1, 32, 0), "has returned, others wait at the barrier"));
  CHECK(contains(error_of(two_barriers_kernel, 1, 32, 0), "waits at this barrier, others at"));
  const Array<int> out(64);
  CHECK(contains(error_of(half_shuffle_kernel, 1, 32, 0, out.get()), "have returned, or wait elsewhere"));
  CHECK(contains(error_of(foreign_mask_kernel, 1, 32, 0, out.get()), "not in the mask of its own warp operation"));
  CHECK(contains(error_of(absent_lane_kernel, 1, 32, 0, out.get()), "lane 20, which is not there"));
  CHECK(error_of(nothing_kernel, 1, 32, 0) == "");  // and it goes on working
}

TEST_CASE("emulator: a missing barrier shows in the result, whatever the order of the threads") {
  std::vector<int> expected;
  for (int i = 0; i < 64; ++i) expected.push_back((i + 1) % 64);
  const Array<int> out(64);
  CHECK(error_of(neighbour_kernel<true>, 1, 64, 256, out.get()) == "");
  CHECK(out.values() == expected);
  CHECK(error_of(neighbour_kernel<false>, 1, 64, 256, out.get()) == "");
  CHECK(out.values() != expected);
}

TEST_CASE("emulator: writes beyond memory are found, and fresh memory is NaN") {
  CHECK(contains(error_of(shared_write_kernel, 1, 1, 40, 10), "0 bytes beyond its 40 bytes of shared memory"));
  CHECK(error_of(shared_write_kernel, 1, 1, 40, 9) == "");
  const Array<float> out(8);
  CHECK(error_of(read_shared_kernel, 1, 8, 32, out.get()) == "");
  for (const float x : out.values()) CHECK(std::isnan(x));
  CHECK(signal_of([] { error_of(write_kernel, 1, 1, 0, Array<float>(10).get(), int64_t{10}); }) == SIGABRT);
  CHECK(signal_of([] { error_of(write_kernel, 1, 1, 0, Array<float>(10).get(), int64_t{-1}); }) == SIGABRT);
  CHECK(signal_of([] { error_of(write_kernel, 1, 1, 0, Array<float>(10).get(), int64_t{9}); }) == 0);
}

TEST_CASE("emulator: a host that touches device memory dies at once") {
  CHECK(signal_of([] { *static_cast<volatile float*>(Array<float>(10).get()) = 1; }) == SIGSEGV);
  const Array<float> array(10);
  float host = 0;
  CHECK_THROWS_AS(copy_bytes({}, &host, kDevice, array.get() + 9, 8), Error);
  CHECK_THROWS_AS(copy_bytes({}, &host, kDevice, &host, 4), Error);
  CHECK(signal_of([] {
          void* const memory = allocate(kDevice, 10);
          release(kDevice, memory, 10);
          release(kDevice, memory, 10);
        }) == SIGABRT);
}

TEST_CASE("emulator: copies from and to page-locked memory arrive when something has to wait for them") {
  void* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 8) == cudaSuccess);
  cudaEvent_t event = nullptr;
  REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
  auto* const values = static_cast<int*>(pinned);
  Array<int> array(3);
  const auto upload = [&](int value, int to) {
    values[0] = value;
    REQUIRE(cudaMemcpyAsync(array.get() + to, values, sizeof(int), cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
  };
  upload(1, 0);
  REQUIRE(cudaEventRecord(event, nullptr) == cudaSuccess);
  upload(2, 1);  // too early: 1 is still on its way
  REQUIRE(cudaEventSynchronize(event) == cudaSuccess);
  upload(3, 2);  // and again
  CHECK(array.values() == std::vector<int>{2, 3, 3});
  REQUIRE(cudaMemcpyAsync(values, array.get(), sizeof(int), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  CHECK(values[0] != 2);
  REQUIRE(cudaEventRecord(event, nullptr) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(values + 1, array.get() + 2, sizeof(int), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  REQUIRE(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(values[0] == 2);
  CHECK(values[1] != 3);
  REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  CHECK(values[1] == 3);
  upload(4, 1);  // in the stream's order: out of memory that the next copy goes to
  REQUIRE(cudaMemcpyAsync(values, array.get(), sizeof(int), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  CHECK(array.values() == std::vector<int>{2, 4, 3});
}

TEST_CASE("emulator: a captured stream's work is done when its graph is launched, with the arguments of then") {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  Array<int> values(std::vector<int>{1, 2, 3, 4});
  Context context = Context::of(kDevice);
  context.stream = stream;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  launch(context, reverse_kernel, 1, 4, 4 * sizeof(int), 4, values.get());
  CHECK(contains(error_of(reverse_kernel, 1, 2048, 0, 4, values.get()), "block of"));  // on the other stream
  CHECK(values.values() == std::vector<int>{1, 2, 3, 4});
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  cudaGraphDestroy(graph);
  CHECK(values.values() == std::vector<int>{1, 2, 3, 4});
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(values.values() == std::vector<int>{4, 3, 2, 1});
  cudaGraphExecDestroy(exec);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  cudaStreamDestroy(stream);
  cudaGetLastError();
}

TEST_CASE("emulator: what no device would launch is refused") {
  CHECK(contains(error_of(nothing_kernel, 1, 1025, 0), "block of (1025,1,1)"));
  CHECK(contains(error_of(nothing_kernel, 1, dim3(1, 1, 65), 0), "block of (1,1,65)"));
  CHECK(contains(error_of(nothing_kernel, dim3(1, 65536), 1, 0), "grid of (1,65536,1)"));
  CHECK(contains(error_of(nothing_kernel, 1, 1, 300'000), "shared memory"));
  CHECK(error_of(nothing_kernel, 1, 1, 200'000) == "");
  CHECK(error_of(nothing_kernel, 0, 1, 0) == "");  // an empty grid is nothing to do
}
