#include "kernels/dispatch.h"

#include <array>
#include <atomic>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/detect.h"
#include "kernels/families.h"
#include "kernels/kernels.h"

namespace qinco::kernels {

namespace {

constexpr int kUnset = -1;
std::atomic<int> scoped_isa{kUnset}, scoped_screen{kUnset};
constexpr int kFeatures = static_cast<int>(Feature::count);
std::atomic<bool> hidden[kFeatures];

Isa clamp(Isa isa) {
  return isa < best_isa() ? isa : best_isa();
}

Isa environment_isa() {
  const char* const text = std::getenv("QINCO_ISA");
  return text && *text ? clamp(parse_isa(text)) : best_isa();
}

AmxScreen environment_screen() {
  const char* const text = std::getenv("QINCO_AMX_SCREEN");
  return text && *text ? parse_amx_screen(text) : AmxScreen::bf16;
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
  static const Isa best = detect_isa();
  return best;
}

bool cpu_has(Feature feature) {
  static const std::array<bool, kFeatures> there = [] {
    std::array<bool, kFeatures> all;
    for (int i = 0; i < kFeatures; ++i) all[i] = detect(static_cast<Feature>(i));
    return all;
  }();
  const int i = static_cast<int>(feature);
  return there[i] && !hidden[i].load(std::memory_order_relaxed);
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

const char* amx_screen_name(AmxScreen screen) {
  return screen == AmxScreen::int8 ? "int8" : "bf16";
}

AmxScreen parse_amx_screen(std::string_view text) {
  for (const AmxScreen screen : {AmxScreen::bf16, AmxScreen::int8})
    if (text == amx_screen_name(screen)) return screen;
  fail("QINCO_AMX_SCREEN: expected bf16 or int8, found '{}'", text);
}

AmxScreen amx_screen() {
  const auto possible = [](AmxScreen wanted) { return cpu_has(Feature::amx_int8) ? wanted : AmxScreen::bf16; };
  const int scoped = scoped_screen.load(std::memory_order_relaxed);
  if (scoped != kUnset) return possible(static_cast<AmxScreen>(scoped));
  static const AmxScreen from_environment = environment_screen();
  return possible(from_environment);
}

ScopedAmxScreen::ScopedAmxScreen(AmxScreen screen) : outer_(scoped_screen.exchange(static_cast<int>(screen))) {}
ScopedAmxScreen::~ScopedAmxScreen() {
  scoped_screen.store(outer_);
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
