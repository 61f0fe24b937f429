// The only threading code: parallel_for over fixed chunks (OpenMP inside parallel.cpp).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/context.h"

namespace qinco::kernels {

/// Elements per chunk of a streaming element-wise kernel: 64 KiB of float per array.
inline constexpr int64_t kElementGrain = int64_t{1} << 14;

/// Rows per chunk when a row costs about `row_work` elements: chunks of about kElementGrain elements, at least one row.
int64_t row_grain(int64_t row_work);

using ChunkFunction = void (*)(void* state, int64_t begin, int64_t end, int worker);

/// The type-erased form of parallel_for.
void parallel_chunks(const Context& context, int64_t n, int64_t grain, ChunkFunction body, void* state);

/// Calls body(begin, end, worker) for [0,grain), [grain,2 grain), ... up to n; worker is in [0, context.threads).
/// The chunks depend on n and grain alone, never on the number of threads: a body that writes only what belongs to its
/// chunk gives the same bits at any thread count. The first exception thrown in a body is rethrown to the caller.
/// Called from a body that several threads run, it stays in the calling thread, as worker 0.
template <class Body>
void parallel_for(const Context& context, int64_t n, int64_t grain, Body&& body) {
  using Plain = std::remove_reference_t<Body>;
  auto call = [](void* state, int64_t begin, int64_t end, int worker) {
    (*static_cast<Plain*>(state))(begin, end, worker);
  };
  parallel_chunks(context, n, grain, call, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace qinco::kernels
