#include "kernels/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <omp.h>

namespace qinco::kernels {

namespace {

// Set while this thread is one of several that run a parallel_for body: a nested parallel_for then stays in the thread.
thread_local bool inside_body = false;

}  // namespace

int64_t row_grain(int64_t row_work) {
  return std::max<int64_t>(1, kElementGrain / std::max<int64_t>(row_work, 1));
}

void parallel_chunks(const Context& context, int64_t n, int64_t grain, ChunkFunction body, void* state) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (n - 1) / grain + 1;
  const int workers = static_cast<int>(std::min<int64_t>(context.threads, chunks));
  if (workers <= 1 || inside_body) {
    for (int64_t c = 0; c < chunks; ++c) body(state, c * grain, std::min(n, (c + 1) * grain), 0);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
#pragma omp parallel num_threads(workers)
  {
    inside_body = true;
    const int worker = omp_get_thread_num();
    try {
      for (int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks;)
        body(state, c * grain, std::min(n, (c + 1) * grain), worker);
    } catch (...) {
      next.store(chunks, std::memory_order_relaxed);
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
    inside_body = false;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace qinco::kernels
