#include "kernels/dispatch.h"

#include <atomic>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/families.h"
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qinco::kernels {

namespace {

constexpr int kUnset = -1;
std::atomic<int> scoped_isa{kUnset};
std::atomic<bool> hidden[2];  // by feature

#if defined(__x86_64__)
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

Isa detect() {
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
  constexpr unsigned kAvx512Vnni = 1u << 11, kAvxVnni = 1u << 4;
  if (feature == Feature::avx512_vnni)
    return best_isa() >= Isa::avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kAvx512Vnni);
  return best_isa() >= Isa::avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kAvxVnni);
}

#else
Isa detect() {
  return Isa::reference;
}

bool detect(Feature) {
  return false;
}
#endif

Isa clamp(Isa isa) {
  return isa < best_isa() ? isa : best_isa();
}

Isa environment_isa() {
  const char* const text = std::getenv("QINCO_ISA");
  return text && *text ? clamp(parse_isa(text)) : best_isa();
}

template <class T>
Table<T> reference_table() {
  Table<T> t;
#define QINCO_FILL(family) reference::fill_##family(t);
  QINCO_KERNEL_FAMILIES(QINCO_FILL)
#undef QINCO_FILL
  return t;
}

template <class T>
Table<T> cuda_table() {
  Table<T> t;
#define QINCO_FILL(family) cuda::fill_##family(t);
  QINCO_KERNEL_FAMILIES(QINCO_FILL)
#undef QINCO_FILL
  return t;
}

template <class T>
const Table<T>& device_table(Device device) {
  if (device.type == DeviceType::cpu) return table<T>();
  check_device(device);
  static const Table<T> all = cuda_table<T>();
  return all;
}

}  // namespace

const char* isa_name(Isa isa) {
  constexpr const char* kNames[] = {"reference", "avx2", "avx512", "amx"};
  return kNames[static_cast<int>(isa)];
}

Isa parse_isa(std::string_view text) {
  for (const Isa isa : {Isa::reference, Isa::avx2, Isa::avx512, Isa::amx})
    if (text == isa_name(isa)) return isa;
  fail("QINCO_ISA: expected reference, avx2, avx512 or amx, found '{}'", text);
}

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

bool cpu_has(Feature feature) {
  static const bool avx_vnni = detect(Feature::avx_vnni), avx512_vnni = detect(Feature::avx512_vnni);
  const bool there = feature == Feature::avx_vnni ? avx_vnni : avx512_vnni;
  return there && !hidden[static_cast<int>(feature)].load(std::memory_order_relaxed);
}

ScopedWithout::ScopedWithout(Feature feature)
    : feature_(feature), outer_(hidden[static_cast<int>(feature)].exchange(true)) {}
ScopedWithout::~ScopedWithout() {
  hidden[static_cast<int>(feature_)].store(outer_);
}

std::vector<Isa> available_isas() {
  std::vector<Isa> all;
  for (const Isa isa : {Isa::reference, Isa::avx2, Isa::avx512, Isa::amx})
    if (isa <= best_isa()) all.push_back(isa);
  return all;
}

Isa active_isa() {
  const int scoped = scoped_isa.load(std::memory_order_relaxed);
  if (scoped != kUnset) return static_cast<Isa>(scoped);
  static const Isa from_environment = environment_isa();
  return from_environment;
}

ScopedIsa::ScopedIsa(Isa isa) : outer_(scoped_isa.exchange(static_cast<int>(clamp(isa)))) {}
ScopedIsa::~ScopedIsa() {
  scoped_isa.store(outer_);
}

template <>
const Table<double>& table(Isa) {
  static const Table<double> all = reference_table<double>();
  return all;
}

template <>
const Table<float>& table(Isa isa) {
  static const Table<float> plain = reference_table<float>();
#if defined(__x86_64__)
  // A family that an ISA does not speed up keeps the level below. The fill functions are compiled for their ISA, so
  // they run only on machines that have it.
#define QINCO_FILL_AVX2(family) avx2::fill_##family(t);
#define QINCO_FILL_AVX512(family) avx512::fill_##family(t);
#define QINCO_FILL_AMX(family) amx::fill_##family(t);
  static const Table<float> with_avx2 = [] {
    Table<float> t = plain;
    if (best_isa() >= Isa::avx2) {
      QINCO_CPU_FAMILIES(QINCO_FILL_AVX2)
    }
    return t;
  }();
  static const Table<float> with_avx512 = [] {
    Table<float> t = with_avx2;
    if (best_isa() >= Isa::avx512) {
      QINCO_CPU_FAMILIES(QINCO_FILL_AVX512)
    }
    return t;
  }();
  static const Table<float> with_amx = [] {
    Table<float> t = with_avx512;
    if (best_isa() >= Isa::amx) {
      QINCO_AMX_FAMILIES(QINCO_FILL_AMX)
    }
    return t;
  }();
#undef QINCO_FILL_AVX2
#undef QINCO_FILL_AVX512
#undef QINCO_FILL_AMX
  isa = clamp(isa);
  if (isa == Isa::amx) return with_amx;
  if (isa == Isa::avx512) return with_avx512;
  if (isa == Isa::avx2) return with_avx2;
#endif
  (void)isa;
  return plain;
}

template <>
const Table<float>& table(Device device) {
  return device_table<float>(device);
}

template <>
const Table<double>& table(Device device) {
  return device_table<double>(device);
}

}  // namespace qinco::kernels
