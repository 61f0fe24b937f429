// Choosing the ISA: names, clamping, ScopedIsa, and QINCO_ISA, which is read once per process and so tested by
// children. The same for the matrix unit's screen and QINCO_AMX_SCREEN.
#include "kernels/dispatch.h"

#include <array>
#include <cstdio>
#include <doctest/doctest.h>
#include <filesystem>
#include <string>

#include "kernels/check.h"
#include "kernels/kernels.h"

namespace qinco::kernels::tests {

namespace {

// What the child case below prints in a process of its own, where `variable` is `value` (unset if null).
std::string active_in_child(const char* value, const std::string& variable = "QINCO_ISA") {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string setting = value ? variable + "='" + value + "'" : "-u " + variable;
  const std::string label = variable == "QINCO_ISA" ? "active: " : "screen: ";
  FILE* const child = popen(("env " + setting + " '" + self + "' --no-skip --test-case='child: *'").c_str(), "r");
  REQUIRE(child != nullptr);
  std::string found;
  for (std::array<char, 4096> line; std::fgets(line.data(), line.size(), child);)
    if (const std::string text(line.data()); text.rfind(label, 0) == 0) found = text.substr(8, text.size() - 9);
  CHECK(pclose(child) == 0);
  return found;
}

}  // namespace

TEST_CASE("dispatch: names and their parser are inverse, other names are errors") {
  for (const Isa isa : {Isa::reference, Isa::avx2, Isa::avx512, Isa::amx}) CHECK(parse_isa(isa_name(isa)) == isa);
  for (const char* text : {"", "AVX2", "avx", "avx2 ", "sse4"}) CHECK_THROWS_AS(parse_isa(text), Error);
  CHECK_THROWS_WITH(parse_isa("sse4"), "QINCO_ISA: expected reference, avx2, avx512 or amx, found 'sse4'");
}

TEST_CASE("dispatch: the available ISAs ascend from the reference to the best") {
  const std::vector<Isa> all = available_isas();
  REQUIRE(!all.empty());
  CHECK(all.front() == Isa::reference);
  CHECK(all.back() == best_isa());
  for (size_t i = 1; i < all.size(); ++i) CHECK(all[i - 1] < all[i]);
}

TEST_CASE("dispatch: the best ISA is what the compiler's own detection says") {
#if defined(QINCO_EMULATE_ISA)
  CHECK(best_isa() == Isa::amx);
#elif defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // The compiler does not tell of tiles: those are the operating system's word, and come on top of bfloat16.
  if (best_isa() == Isa::amx) {
    CHECK(avx512);
    CHECK(__builtin_cpu_supports("avx512bf16"));
    return;
  }
  CHECK(best_isa() == (avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::reference));
#else
  CHECK(best_isa() == Isa::reference);
#endif
}

TEST_CASE("dispatch: ScopedIsa lowers, nests, restores and clamps") {
  const Isa before = active_isa();
  {
    const ScopedIsa outer(Isa::reference);
    CHECK(active_isa() == Isa::reference);
    CHECK(&table<float>() == &table<float>(Isa::reference));
    {
      const ScopedIsa inner(Isa::amx);
      CHECK(active_isa() == best_isa());
    }
    CHECK(active_isa() == Isa::reference);
  }
  CHECK(active_isa() == before);
}

TEST_CASE("dispatch: a table above the best ISA is the best one's") {
  CHECK(&table<float>(Isa::amx) == &table<float>(best_isa()));
  CHECK(&table<double>(Isa::amx) == &table<double>(Isa::reference));
}

// Not a test: what active_in_child runs.
TEST_CASE("child: print the active ISA" * doctest::skip()) {
  try {
    std::printf("active: %s\n", isa_name(active_isa()));
  } catch (const Error& error) {
    CHECK_THROWS_AS(table<float>(), Error);  // and again, not only the first time
    std::printf("active: %s\n", error.what());
  }
  try {
    std::printf("screen: %s\n", amx_screen_name(amx_screen()));
  } catch (const Error& error) {
    std::printf("screen: %s\n", error.what());
  }
}

TEST_CASE("dispatch: QINCO_ISA lowers, is clamped, and must be a name") {
  CHECK(active_in_child(nullptr) == isa_name(best_isa()));
  CHECK(active_in_child("") == isa_name(best_isa()));
  CHECK(active_in_child("reference") == "reference");
  CHECK(active_in_child("amx") == isa_name(best_isa()));
  CHECK(active_in_child("pentium") == "QINCO_ISA: expected reference, avx2, avx512 or amx, found 'pentium'");
}

TEST_CASE("dispatch: QINCO_AMX_SCREEN chooses where there is a choice, and must be a name") {
  const std::string variable = "QINCO_AMX_SCREEN";
  const char* const chosen = cpu_has(Feature::amx_int8) ? "int8" : "bf16";
  CHECK(active_in_child(nullptr, variable) == "bf16");
  CHECK(active_in_child("", variable) == "bf16");
  CHECK(active_in_child("bf16", variable) == "bf16");
  CHECK(active_in_child("int8", variable) == chosen);
  CHECK(active_in_child("int4", variable) == "QINCO_AMX_SCREEN: expected bf16 or int8, found 'int4'");
}

TEST_CASE("dispatch: ScopedAmxScreen nests and restores, and a hidden feature leaves bfloat16") {
  const AmxScreen before = amx_screen();
  {
    const ScopedAmxScreen outer(AmxScreen::int8);
    CHECK((amx_screen() == AmxScreen::int8) == cpu_has(Feature::amx_int8));
    {
      const ScopedAmxScreen inner(AmxScreen::bf16);
      CHECK(amx_screen() == AmxScreen::bf16);
    }
    const ScopedWithout without(Feature::amx_int8);
    CHECK(amx_screen() == AmxScreen::bf16);
  }
  CHECK(amx_screen() == before);
}

}  // namespace qinco::kernels::tests
