// The tensor core's product and asynchronous copies for the emulator: bodies for kernels/cuda/mma.cuh, with the layouts
// of the PTX ISA's manual ("Matrix Fragments for mma.m16n8k16 with floating point type", and the same for m16n8k8).
#pragma once

#include <deque>
#include <vector>

namespace cuda_emulator {

inline unsigned round_to_bf16(float x) {
  if (x != x) return 0x7fff;
  const unsigned bits = __float_as_uint(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline unsigned pack_bf16(float low, float high) {
  return round_to_bf16(high) << 16 | round_to_bf16(low);
}
inline float unpack_bf16(unsigned pair, int half) {
  return __uint_as_float(half ? pair & 0xffff0000u : pair << 16);
}

// Element (row, k) of A is in lane row%8*4 + k%8/2, register row/8 + k/8*2; element (k, column) of B in lane
// column*4 + k%8/2, register k/8; k%2 says which half. Element i of C is (g + i/2*8, 2t + i%2).
inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                     const Where& where = Where::current()) {
  struct Operands {
    unsigned a[4], b[2];
  };
  const int g = lane() / 4, t = lane() % 4;
  exchange(0xffffffffu, Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, where, [&](auto from) {
    Operands rows[4], columns[2][4];  // of A's rows g and g + 8, and of B's columns 2t and 2t + 1
    for (int owner = 0; owner < 4; ++owner) {
      rows[owner] = from(4 * g + owner);
      for (int column = 0; column < 2; ++column) columns[column][owner] = from(4 * (2 * t + column) + owner);
    }
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 16; ++k)
        c[i] += unpack_bf16(rows[k % 8 / 2].a[i / 2 + k / 8 * 2], k % 2) *
                unpack_bf16(columns[i % 2][k % 8 / 2].b[k / 8], k % 2);
    return 0;
  });
}

inline float operand_tf32(unsigned bits) {
  return __uint_as_float(bits & ~0x1fffu);
}

// Element (row, k) of A is in lane row%8*4 + k%4, register row/8 + k/4*2; element (k, column) of B in lane
// column*4 + k%4, register k/4. C is as in mma_bf16.
inline void mma_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                     const Where& where = Where::current()) {
  struct Operands {
    unsigned a[4], b[2];
  };
  const int g = lane() / 4, t = lane() % 4;
  exchange(0xffffffffu, Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, where, [&](auto from) {
    Operands rows[4], columns[2][4];  // of A's rows g and g + 8, and of B's columns 2t and 2t + 1
    for (int owner = 0; owner < 4; ++owner) {
      rows[owner] = from(4 * g + owner);
      for (int column = 0; column < 2; ++column) columns[column][owner] = from(4 * (2 * t + column) + owner);
    }
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 8; ++k)
        c[i] += operand_tf32(rows[k % 4].a[i / 2 + k / 4 * 2]) * operand_tf32(columns[i % 2][k % 4].b[k / 4]);
    return 0;
  });
}

// Copies happen as late as they may: when they are waited for. Until then the destination holds poison.
class Copies {
 public:
  static Copies& of_this_thread() {
    static auto* const all = new std::vector<Copies>(1024);
    return (*all)[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
  }
  void add(void* to, const void* from) {
    std::memset(to, 0xff, kBytes);
    open_.push_back({to, from});
  }
  void commit() { groups_.push_back(std::exchange(open_, {})); }
  void wait(size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front())
      for (const Copy& copy : groups_.front()) std::memcpy(copy.to, copy.from, kBytes);
  }

 private:
  static constexpr size_t kBytes = 16;
  struct Copy {
    void* to;
    const void* from;
  };
  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
};

inline void copy_async(void* to, const void* from, const Where& where = Where::current()) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0)
    fail("asynchronous copy from or to an address that is no multiple of 16", where);
  Copies::of_this_thread().add(to, from);
}
inline void commit_copies() {
  Copies::of_this_thread().commit();
}
inline void wait_for_copies(int pending) {
  Copies::of_this_thread().wait(static_cast<size_t>(pending));
}

}  // namespace cuda_emulator
