// Hopper's warpgroup products, barriers in shared memory and bulk copies for the emulator: the functions of
// kernels/cuda/wgmma.cuh. What is begun is done as late as it may be, from the registers and the memory as they are
// then: products at the wait that covers them, copies at a wait for their barrier. So whoever touches too early what
// they read or write spoils the result.
#pragma once

#include <cstddef>
#include <vector>

namespace cuda_emulator {

/// Lets the other threads go on: for loops that wait for what they do.
void yield();

namespace wgmma {

// d [rows of the warp, N] += a b^T, of which this thread has its part of d and a in registers.
struct Product {
  float* d;
  const unsigned* a;
  uint64_t b;
  int N, group;
  bool first;
};
struct Copy {
  unsigned to, bytes, barrier;
  const void* from;
};

// What the threads of a block have begun and not waited for.
class Begun {
 public:
  struct OfThread {
    std::vector<Product> products;
    int groups = 0;  // that have ended
  };
  static Begun& instance() {
    static auto* const begun = new Begun;
    return *begun;
  }
  OfThread& of_this_thread() { return threads_[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)]; }
  std::vector<Copy> copies;
  int products = 0;  // of all threads

  /// What is left at the end of a block, which is a mistake: "" if nothing.
  std::string forget() {
    const std::string left = products ? "products" : copies.empty() ? "" : "bulk copies";
    if (!left.empty()) *this = {};
    return left;
  }

 private:
  std::vector<OfThread> threads_{1024};
};

inline unsigned char* at(unsigned shared) {
  return static_cast<unsigned char*>(dynamic_shared()) + shared;
}
inline unsigned shared_base() {
  return 0;
}

// --- barriers and copies

struct Barrier {
  uint16_t arrivals, missing;  // of a phase; that the present one lacks
  int bytes : 31;              // that it lacks
  unsigned phase : 1;
};
static_assert(sizeof(Barrier) == 8);

// The barrier with `arrivals` more and `bytes` more to come; then its phase may be over.
inline void change(unsigned address, int arrivals, int bytes, const Where& where) {
  Barrier b;
  std::memcpy(&b, at(address), sizeof b);
  if (b.arrivals > 1024) fail("uses a barrier that nobody has initialised", where);
  if (arrivals > b.missing) fail("arrives at a barrier where all have arrived", where);
  b.missing = static_cast<uint16_t>(b.missing - arrivals);
  b.bytes += bytes;
  if (b.missing == 0 && b.bytes == 0) {
    b.phase ^= 1;
    b.missing = b.arrivals;
  }
  std::memcpy(at(address), &b, sizeof b);
}
inline void barrier_init(unsigned barrier, int arrivals) {
  const auto count = static_cast<uint16_t>(arrivals);
  const Barrier b{count, count, 0, 0};
  std::memcpy(at(barrier), &b, sizeof b);
}
inline void barrier_init_fence() {}
inline void barrier_arrive(unsigned barrier, const Where& where = Where::current()) {
  change(barrier, 1, 0, where);
}
inline void barrier_expect(unsigned barrier, unsigned bytes, const Where& where = Where::current()) {
  change(barrier, 1, static_cast<int>(bytes), where);
}
inline void copy_bulk(unsigned shared, const void* global, unsigned bytes, unsigned barrier,
                      const Where& where = Where::current()) {
  if ((shared | reinterpret_cast<uintptr_t>(global) | bytes) % 16 != 0)
    fail("bulk copy of, from or to what is no multiple of 16", where);
  std::memset(at(shared), 0xff, bytes);
  Begun::instance().copies.push_back({shared, bytes, barrier, global});
}
inline void barrier_wait(unsigned barrier, unsigned parity, const Where& where = Where::current()) {
  constexpr int kMostRounds = 100'000;  // of all threads
  auto& copies = Begun::instance().copies;
  for (int round = 0; round < kMostRounds; ++round) {
    for (size_t i = 0; i < copies.size();) {
      const Copy copy = copies[i];
      if (copy.barrier != barrier) {
        ++i;
        continue;
      }
      copies.erase(copies.begin() + static_cast<std::ptrdiff_t>(i));
      std::memcpy(at(copy.to), copy.from, copy.bytes);
      change(barrier, 0, -static_cast<int>(copy.bytes), where);
    }
    change(barrier, 0, 0, where);
    Barrier b;
    std::memcpy(&b, at(barrier), sizeof b);
    if (b.phase != parity) return;
    yield();
  }
  fail("waits for a barrier's phase that does not end", where);
}

// --- products

inline void add_product(float* d, const unsigned* a, uint64_t b, int N, bool first) {
  Begun& begun = Begun::instance();
  begun.of_this_thread().products.push_back({d, a, b, N, begun.of_this_thread().groups, first});
  ++begun.products;
  if (first)
    for (int i = 0; i < N / 2; ++i) d[i] = NAN;
}
inline void wgmma_add_128(float (&d)[16][4], const unsigned (&a)[4], uint64_t b) {
  add_product(&d[0][0], a, b, 128, false);
}
template <bool kFirst>
void wgmma_add_64(float (&d)[8][4], const unsigned (&a)[4], uint64_t b) {
  add_product(&d[0][0], a, b, 64, kFirst);
}
inline void wgmma_fence() {}
inline void wgmma_commit() {
  ++Begun::instance().of_this_thread().groups;
}

// Element (n, k) of an operand with 128-byte swizzle, from its descriptor's fields: the address bits 4 to 6 of a row of
// 128 bytes are changed by bits 7 to 9.
inline float operand_b(uint64_t descriptor, int n, int k) {
  const auto start = static_cast<unsigned>(descriptor & 0x3fff) * 16;
  const auto stride = static_cast<unsigned>(descriptor >> 32 & 0x3fff) * 16;
  unsigned address = start + static_cast<unsigned>(n / 8) * stride + static_cast<unsigned>(n % 8 * 128 + k * 2);
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, at(address), sizeof bits);
  return __uint_as_float(unsigned{bits} << 16);
}

// Row g + 8 i of the warp's A is in the four lanes that have that row of D; its layout is that of mma_bf16.
inline void complete(const Product& p, const Where& where) {
  struct Operands {
    unsigned a[4];
    uint64_t b;
  };
  const int g = lane() / 4, t = lane() % 4;
  exchange(0xffffffffu, Operands{{p.a[0], p.a[1], p.a[2], p.a[3]}, p.b}, where, [&](auto from) {
    float a[2][16];
    for (int k = 0; k < 16; ++k) {
      const Operands owner = from(4 * g + k % 8 / 2);
      if (owner.b != p.b) fail("has another descriptor than its warp", where);
      for (int row = 0; row < 2; ++row) a[row][k] = unpack_bf16(owner.a[row + k / 8 * 2], k % 2);
    }
    for (int i = 0; i < p.N / 2; ++i) {
      const int n = i / 4 * 8 + 2 * t + i % 2;
      float sum = p.first ? 0.0f : p.d[i];
      for (int k = 0; k < 16; ++k) sum += a[i % 4 / 2][k] * operand_b(p.b, n, k);
      p.d[i] = sum;
    }
    return 0;
  });
}

template <int kPending>
void wgmma_wait(const Where& where = Where::current()) {
  yield();  // whoever spoils an operand does it now
  Begun& begun = Begun::instance();
  Begun::OfThread& mine = begun.of_this_thread();
  while (!mine.products.empty() && mine.products.front().group < mine.groups - kPending) {
    complete(mine.products.front(), where);
    mine.products.erase(mine.products.begin());
    --begun.products;
  }
  warp_barrier(0xffffffffu, where);  // a warp's products are done together
}

// --- what only a compiler or a register file needs

template <class T>
void pin(T&) {}
template <class T>
const T* opaque(const T* p) {
  return p;
}
template <int>
void take_registers() {}
template <int>
void give_registers() {}

}  // namespace wgmma

}  // namespace cuda_emulator
