// The k best of many: a heap of keys that order as (value, index).
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

// Value and index in one integer that orders as (value, index): floats are made to order as integers, with -0 as +0 and
// NaN as +infinity. 0 <= index < 2^32.
QINCO_INLINE uint64_t make_key(float value, int64_t index) {
  if (value != value) value = __builtin_inff();
  value += 0.0f;  // -0 + 0 is +0
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t{bits} << 32 | static_cast<uint32_t>(index);
}

QINCO_INLINE int64_t index_of(uint64_t key) {
  return static_cast<int64_t>(key & 0xffffffffu);
}

QINCO_INLINE float value_of(uint64_t key) {
  auto bits = static_cast<uint32_t>(key >> 32);
  bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Puts `key` into the place `hole` of a max-heap of n keys and restores the order below it.
QINCO_INLINE void sift_down(uint64_t* heap, int64_t n, int64_t hole, uint64_t key) {
  for (int64_t child; (child = 2 * hole + 1) < n; hole = child) {
    if (child + 1 < n && heap[child + 1] > heap[child]) ++child;
    if (heap[child] <= key) break;
    heap[hole] = heap[child];
  }
  heap[hole] = key;
}

// Enters a value into a max-heap of the k best keys; false where it is not one of them.
QINCO_INLINE bool offer(float value, int64_t index, uint64_t* heap, int64_t k) {
  const uint64_t key = make_key(value, index);
  if (!(key < heap[0])) return false;
  sift_down(heap, k, 0, key);
  return true;
}

// A max-heap of k keys becomes ascending.
QINCO_INLINE void sort_heap(uint64_t* heap, int64_t k) {
  for (int64_t n = k - 1; n > 0; --n) {
    const uint64_t last = heap[n];
    heap[n] = heap[0];
    sift_down(heap, n, 0, last);
  }
}

QINCO_CPU_NAMESPACE_END
