// Page-locked memory of the host: copies from and to it arrive as late as the stream's order and its events allow, so
// that whoever writes to it too early spoils what is on its way, and whoever reads it too early finds nothing of use.
// For callers that hold the device (Memory::open).
#pragma once

#include <cstddef>

namespace cuda_emulator {

bool is_pinned(const void* memory);
void copy_later(void* to, const void* from, size_t bytes);
/// Before copy_later to page-locked memory, which holds nothing of use from now on: what is queued from it has arrived.
void await_copy(void* to, size_t bytes);
/// All copies queued so far arrive.
void arrive();

}  // namespace cuda_emulator
