// What a beam search has under way; all pointers are to the device's memory.
#pragma once

#include <cstdint>
#include <utility>

#include "qinco/codec/codec.h"

namespace qinco {

// The codes under way of n vectors, `width` of each, from the nearest on.
struct Codec::Beams {
  int64_t n = 0, width = 1, steps = 0;
  const float* minus_x = nullptr;  // [n,d], scaled
  float* errors = nullptr;         // [n*width,d]  xhat - x
  float* next_errors = nullptr;    // those of the next step
  int32_t* codes = nullptr;        // [steps,n*width]
  int32_t* next_codes = nullptr;

  int64_t rows() const { return n * width; }
  void grow(int64_t kept) {
    width = kept;
    ++steps;
    std::swap(errors, next_errors);
    std::swap(codes, next_codes);
  }
};

// The codewords that each of them is tried with in one step. Pair p is code p / candidates with codeword ids[p].
struct Codec::Tried {
  int32_t* ids = nullptr;      // [n*width,candidates]
  float* r = nullptr;          // [n*width,d]  W_x xhat
  float* u = nullptr;          // [n*width,h]  W_up,1 r
  float* distances = nullptr;  // [pairs]  how near they come to x; infinite for those that need not be compared
  float* moved = nullptr;      // [pairs,d]  errors of those compared, with the candidates added, in any order
  int32_t* places = nullptr;   // [pairs]  which row of `moved` is a pair's, or null: its own
};

}  // namespace qinco
