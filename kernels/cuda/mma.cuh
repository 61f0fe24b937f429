// The tensor core's product and asynchronous copies, as device functions. Under the emulator they are plain code with
// the same layouts, so that its tests see the fragments as the PTX ISA's manual has them.
//
// Fragments of mma.m16n8k16 over a warp, with g = lane / 4 and t = lane % 4; a register of operands holds two
// neighbouring columns (A) or rows (B), the lower one in its low half:
//   A [16,16]: a[0] = (g, 2t), a[1] = (g+8, 2t), a[2] = (g, 2t+8), a[3] = (g+8, 2t+8)
//   B [16,8]:  b0 = (2t, g), b1 = (2t+8, g)
//   C [16,8]:  c[0], c[1] = (g, 2t), (g, 2t+1); c[2], c[3] = (g+8, 2t), (g+8, 2t+1)
// Two neighbouring C fragments, rounded, are the A fragment of a product over their 16 columns: what one product gives
// is what the next one takes, and nothing leaves the registers.
//
// Fragments of mma.m16n8k8 in TF32, a register per value:
//   A [16,8]: a[0] = (g, t), a[1] = (g+8, t), a[2] = (g, t+4), a[3] = (g+8, t+4)
//   B [8,8]:  b0 = (t, g), b1 = (t+4, g)
//   C [16,8]: as above
#pragma once

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

/// Two values rounded to bfloat16 (to nearest even), `low` in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return cuda_emulator::pack_bf16(low, high);
#endif
}

/// The same of relu(low) and relu(high); NaN stays NaN.
__device__ inline uint32_t pack_relu_bf16(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return cuda_emulator::pack_bf16(low < 0 ? 0 : low, high < 0 ? 0 : high);
#endif
}

/// c += a b, by the whole warp.
__device__ inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  cuda_emulator::mma_bf16(c, a, b0, b1);
#endif
}

/// A float as the sum of two operands of mma_tf32, right to 2^-23 of it: three products, high with high, high with low
/// and low with high, give that of two floats to 2^-21 at most, which is about what a sum in float loses anyhow. Both
/// have bits that mma_tf32 ignores: high is x and half a unit of TF32's 10 bits of fraction, so that to ignore them is
/// to round. cvt.rna.tf32 would take 4 instructions for it, because it minds NaN. Here a part of NaN is NaN, of an
/// infinity too, and it is `low`.
struct SplitTf32 {
  uint32_t high, low;
};
__device__ inline SplitTf32 split_tf32(float x) {
  const uint32_t high = __float_as_uint(x) + 0x1000u;
  return {high, __float_as_uint(x - __uint_as_float(high & ~0x1fffu))};
}

/// c += a b, by the whole warp. The low 13 bits of an operand do not count.
__device__ inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  cuda_emulator::mma_tf32(c, a, b0, b1);
#endif
}

/// Begins to copy 16 bytes from global to shared memory, past the registers and L1.
__device__ inline void copy_async(uint4* shared, const uint4* global) {
#ifdef __CUDACC__
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
  cuda_emulator::copy_async(shared, global);
#endif
}

/// Ends a group of this thread's copies; it may be empty.
__device__ inline void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_emulator::commit_copies();
#endif
}

/// Waits until all but the latest `kPending` groups of this thread's copies have arrived.
template <int kPending>
__device__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  cuda_emulator::wait_for_copies(kPending);
#endif
}

}  // namespace qinco::kernels::cuda
