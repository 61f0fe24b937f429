// The CUDA half of a build without CUDA: no devices, and whoever gets past that is told so.
#include "kernels/check.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/recorder.h"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

[[noreturn]] void no_cuda() {
  fail("device cuda: this build has no CUDA");
}

}  // namespace

bool built() {
  return false;
}
int device_count() {
  return 0;
}
std::string description(int) {
  no_cuda();
}
int compute_capability(int) {
  no_cuda();
}
MemoryInfo memory_info(int) {
  no_cuda();
}
void* allocate(int, size_t) {
  no_cuda();
}
void release(int, void*, size_t) noexcept {}
void copy_to(int, void*, const void*, size_t) {
  no_cuda();
}
void copy_from(int, void*, const void*, size_t) {
  no_cuda();
}
void copy_between(int, void*, int, const void*, size_t) {
  no_cuda();
}
void synchronize(int) {
  no_cuda();
}
void* stream(int) {
  no_cuda();
}

struct Recorder::Capture {};
Recorder::Recorder(int) {
  no_cuda();
}
Recorder::~Recorder() = default;
void* Recorder::stream() const {
  no_cuda();
}
void Recorder::end() {
  no_cuda();
}
void Recorder::queue() {
  no_cuda();
}

#define QINCO_NO_CUDA(family)                 \
  template <class T>                          \
  void fill_##family(Table<T>&) {             \
    no_cuda();                                \
  }                                           \
  template void fill_##family(Table<float>&); \
  template void fill_##family(Table<double>&);
QINCO_KERNEL_FAMILIES(QINCO_NO_CUDA)
#undef QINCO_NO_CUDA

}  // namespace qinco::kernels::cuda
