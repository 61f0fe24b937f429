// The last error of this thread, with its words.
#pragma once

#include <string>

#include "cuda_runtime.h"

namespace cuda_emulator {

/// Keeps the words for cudaGetErrorString; returns `error`.
cudaError_t set_error(cudaError_t error, const std::string& words);

}  // namespace cuda_emulator
