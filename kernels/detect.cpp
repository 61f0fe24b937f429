#include "kernels/detect.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qinco::kernels {

#if defined(__x86_64__)
namespace {

// The register states that the operating system saves (XCR0), or 0 where XGETBV is not enabled.
uint64_t saved_states() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Whether the kernel lets this process use the tile registers; asked for once, before any thread uses them.
bool tiles_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Beside AVX-512: bfloat16 conversions and tile products, and the tile states saved by the system.
bool has_amx(uint64_t states) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bf16 = 1u << 5;
  constexpr uint64_t kTiles = 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxBf16) || !(d & kAmxTile)) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kAvx512Bf16)) return false;
  return (states & kTiles) == kTiles && tiles_permitted();
}

}  // namespace

Isa detect_isa() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const uint64_t states = saved_states();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::reference;
  const bool fma = (c & bit_FMA) && (c & bit_F16C);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::reference;
  const bool avx2 = fma && (b & bit_AVX2) && (b & bit_BMI2) && (states & kYmm) == kYmm;
  const unsigned wanted = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const bool avx512 = avx2 && (b & wanted) == wanted && (states & kZmm) == kZmm;
  if (avx512 && has_amx(states)) return Isa::amx;
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::reference;
}

bool detect(Feature feature) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAvx512Vnni = 1u << 11, kAvx512Vbmi = 1u << 1, kAvxVnni = 1u << 4, kAmxInt8 = 1u << 25;
  if (feature == Feature::avx512_vnni)
    return best_isa() >= Isa::avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kAvx512Vnni);
  if (feature == Feature::avx512_vbmi)
    return best_isa() >= Isa::avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kAvx512Vbmi);
  if (feature == Feature::amx_int8)
    return best_isa() >= Isa::amx && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kAmxInt8);
  if (feature == Feature::fast_gather)
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx && c == signature_INTEL_ecx;
  return best_isa() >= Isa::avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni);
}

#else
Isa detect_isa() {
  return Isa::reference;
}

bool detect(Feature) {
  return false;
}
#endif

}  // namespace qinco::kernels
