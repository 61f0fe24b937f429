// Which instruction set the kernels run on: found by CPUID and XCR0, lowered by QINCO_ISA, set by ScopedIsa. And which
// of two screens the candidate search has on a matrix unit: QINCO_AMX_SCREEN, ScopedAmxScreen.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace qinco::kernels {

enum class Isa : uint8_t { reference, avx2, avx512, amx };

const char* isa_name(Isa isa);
/// Parses `reference|avx2|avx512|amx`; throws Error on anything else.
Isa parse_isa(std::string_view text);

/// The highest ISA that this build has and this machine runs.
Isa best_isa();
/// All ISAs from `reference` up to `best_isa()`.
std::vector<Isa> available_isas();

/// What some machines have beyond their ISA. AMD's gather is microcode: not a fast one.
enum class Feature : uint8_t { avx_vnni, avx512_vnni, avx512_vbmi, amx_int8, fast_gather, count };
bool cpu_has(Feature feature);

/// Hides a feature for this scope, in the whole process; for tests.
class ScopedWithout {
 public:
  explicit ScopedWithout(Feature feature);
  ~ScopedWithout();
  ScopedWithout(const ScopedWithout&) = delete;
  ScopedWithout& operator=(const ScopedWithout&) = delete;

 private:
  Feature feature_;
  bool outer_;
};

/// The ISA in use: a ScopedIsa's if there is one, else QINCO_ISA's if set, else the best; clamped to the best.
/// Throws Error when QINCO_ISA holds no ISA's name.
Isa active_isa();

/// Sets the active ISA (clamped to the best) for this scope, in the whole process; for tests and benches.
class ScopedIsa {
 public:
  explicit ScopedIsa(Isa isa);
  ~ScopedIsa();
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  int outer_;
};

/// What a matrix unit rounds operands to in the screen of a candidate search (docs/candidate_search.md); an exact
/// search is to give the same codes.
enum class AmxScreen : uint8_t { bf16, int8 };

const char* amx_screen_name(AmxScreen screen);
/// Parses `bf16|int8`; throws Error on anything else.
AmxScreen parse_amx_screen(std::string_view text);

/// The screen of steps packed from now on: a ScopedAmxScreen's if there is one, else QINCO_AMX_SCREEN's if set, else
/// bf16; bf16 where the processor has no tile products of bytes. Throws Error when QINCO_AMX_SCREEN holds no name.
AmxScreen amx_screen();

/// Sets the screen for this scope, in the whole process; for tests and benches. A step's candidate_packed_size and
/// candidate_pack must see the same screen.
class ScopedAmxScreen {
 public:
  explicit ScopedAmxScreen(AmxScreen screen);
  ~ScopedAmxScreen();
  ScopedAmxScreen(const ScopedAmxScreen&) = delete;
  ScopedAmxScreen& operator=(const ScopedAmxScreen&) = delete;

 private:
  int outer_;
};

}  // namespace qinco::kernels
