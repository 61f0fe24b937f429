// Hopper's warpgroup products, barriers in shared memory and bulk copies, as device functions: for files that are
// compiled for sm_90a. Under the emulator they are plain code (tests/cuda_emulator/include/warpgroup.h).
//
// A product is by a warpgroup of 4 warps: d [64,N] += a [64,16] b [N,16]^T. Warp w has rows 16 w .. 16 w + 15 of a and
// d in its registers, as mma.m16n8k16 has them (mma.cuh): 4 registers of a, a C fragment for every 8 columns of d. b is
// read from shared memory (operand_layout.h). A product is begun, and done when it was waited for: until then nothing
// may touch its registers or its memory. The compiler does not know that, so `pin` keeps it from moving their uses.
//
// Addresses in shared memory are the 32-bit ones of the instructions.
#pragma once

#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/operand_layout.h"

namespace qinco::kernels::cuda {

#ifdef __CUDACC__

#define QINCO_C(x, j) "+f"(x[j][0]), "+f"(x[j][1]), "+f"(x[j][2]), "+f"(x[j][3])
#define QINCO_C_OUT(x, j) "=f"(x[j][0]), "=f"(x[j][1]), "=f"(x[j][2]), "=f"(x[j][3])
#define QINCO_C_64                                                                                                  \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31}"

/// d [64,128] += a b^T, begun; b is a descriptor.
__device__ inline void wgmma_add_128(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
      "%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
      : QINCO_C(d, 0), QINCO_C(d, 1), QINCO_C(d, 2), QINCO_C(d, 3), QINCO_C(d, 4), QINCO_C(d, 5), QINCO_C(d, 6),
        QINCO_C(d, 7), QINCO_C(d, 8), QINCO_C(d, 9), QINCO_C(d, 10), QINCO_C(d, 11), QINCO_C(d, 12), QINCO_C(d, 13),
        QINCO_C(d, 14), QINCO_C(d, 15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// d [64,64] += a b^T, or with kFirst = a b^T; begun.
template <bool kFirst>
__device__ void wgmma_add_64(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kFirst)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " QINCO_C_64
                 ", {%32,%33,%34,%35}, %36, 0, 1, 1, 0;"
                 : QINCO_C_OUT(d, 0), QINCO_C_OUT(d, 1), QINCO_C_OUT(d, 2), QINCO_C_OUT(d, 3), QINCO_C_OUT(d, 4),
                   QINCO_C_OUT(d, 5), QINCO_C_OUT(d, 6), QINCO_C_OUT(d, 7)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  else
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " QINCO_C_64
                 ", {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
                 : QINCO_C(d, 0), QINCO_C(d, 1), QINCO_C(d, 2), QINCO_C(d, 3), QINCO_C(d, 4), QINCO_C(d, 5),
                   QINCO_C(d, 6), QINCO_C(d, 7)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// Before products whose registers were written by anything else.
__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Ends a group of products; it may be empty.
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until all but the latest `kPending` groups are done.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

template <int kRows>
__device__ void pin(float (&x)[kRows][4]) {
#pragma unroll
  for (int j = 0; j < kRows; ++j) asm volatile("" : QINCO_C(x, j)::"memory");
}
template <int kRows>
__device__ void pin(uint32_t (&x)[kRows][4]) {
#pragma unroll
  for (int j = 0; j < kRows; ++j)
    asm volatile("" : "+r"(x[j][0]), "+r"(x[j][1]), "+r"(x[j][2]), "+r"(x[j][3])::"memory");
}

#undef QINCO_C
#undef QINCO_C_OUT
#undef QINCO_C_64

/// p, as a pointer that the compiler knows nothing of: else it keeps one for each load of a loop, in registers.
template <class T>
__device__ const T* opaque(const T* p) {
  asm volatile("" : "+l"(p));
  return p;
}

/// The dynamic shared memory, aligned to 1024 bytes.
__device__ inline uint32_t shared_base() {
  extern __shared__ __align__(1024) unsigned char qinco_aligned_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(qinco_aligned_shared));
}

/// A barrier of 8 bytes whose phases end when `arrivals` have arrived and the bytes that they expect have been copied.
__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
/// Makes barriers' beginnings known to bulk copies.
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// Arrives.
__device__ inline void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and keeps the phase from ending until `bytes` have been copied.
__device__ inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits for the end of a phase: of the 1st, 3rd, .. for parity 0, else of the 2nd, 4th, .. Traps where that does not
/// come: the launch fails, where a hang would take the device with it.
__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
#pragma unroll 1
  for (int tries = 0; tries < (1 << 18); ++tries) {
    uint32_t done;
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    if (done) return;
  }
  __trap();
}

/// Begins to copy from global to shared memory; the barrier counts the bytes. Multiples of 16, all three.
__device__ inline void copy_bulk(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

/// A warpgroup's share of the block's registers from here on, per thread. All its warps call it.
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#else

using namespace cuda_emulator::wgmma;

#endif

}  // namespace qinco::kernels::cuda
