// The fused candidate search: vectors/s, GFLOP/s and the share of this machine's peak, on every ISA: of multiply-adds
// in float, or of bfloat16 products where the ISA has a matrix unit. Exact and fast codes: kernels.h, Precision. A step
// of 64 candidates and more (d >= 16, h >= 32) is screened (docs/candidate_search.md): without a matrix unit it may
// take less time than its multiply-adds in float would; the rows of K = 16 and 32 show the search in float. A matrix
// unit that multiplies bytes is timed with both of its screens, whatever QINCO_AMX_SCREEN says; the share is of the
// bfloat16 peak.
//
//   bench_candidate [--json FILE] [--threads N] [--repeats R]
//
// FLOP are what the algorithm needs, K * 2 d h (2L-1) per vector. The peak is measured right before and after each
// repeat, because the clock of a shared machine moves, and times are CPU time per thread; medians are printed.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <fmt/format.h>
#include <fstream>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "kernels/check.h"
#include "kernels/kernels.h"

namespace {

using qinco::kernels::AmxScreen;
using qinco::kernels::Context;
using qinco::kernels::Isa;
using qinco::kernels::Precision;

struct Shape {
  int64_t K, d, h, L;
};

constexpr Shape kShapes[] = {
    {256, 128, 256, 2}, {256, 128, 256, 1},  {256, 128, 256, 4},  {256, 128, 256, 16}, {256, 128, 64, 2},
    {256, 128, 128, 2}, {256, 96, 256, 2},   {256, 768, 256, 2},  {256, 784, 256, 2},  {16, 128, 256, 2},
    {32, 128, 256, 2},  {4096, 128, 256, 2}, {4096, 128, 256, 1}, {256, 100, 250, 2},
};

// CPU time of the process: what other programs take of a busy machine is not counted.
double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

std::vector<float> normal(std::mt19937& random, int64_t size, double deviation) {
  std::normal_distribution<float> value(0.0f, static_cast<float>(deviation));
  std::vector<float> x(size);
  for (float& v : x) v = value(random);
  return x;
}

// One packed step and the inputs of n vectors, filled with random numbers.
class Problem {
 public:
  Problem(const Shape& s, int64_t n, const Context& context, Isa isa, double scale)
      : shape_(s), n_(n), context_(context), kernels_(qinco::kernels::table<float>(isa)), codes_(n) {
    std::mt19937 random(1);
    z_table_ = normal(random, s.K * s.d, scale);
    a_table_ = normal(random, s.K * s.h, scale);
    target_ = normal(random, n * s.d, scale);
    row_ = normal(random, n * s.d, 0.3 * scale);
    up_row_ = normal(random, n * s.h, 0.3 * scale);
    for (int64_t l = 0; l < s.L; ++l) {
      up_.push_back(normal(random, s.h * s.d, 1 / std::sqrt(s.d)));
      down_.push_back(normal(random, s.d * s.h, 0.5 / std::sqrt(s.h)));
    }
    const int64_t size = kernels_.candidate_packed_size(s.K, s.d, s.h, s.L);
    packed_.reset(static_cast<float*>(::operator new (size * sizeof(float), std::align_val_t{64})));
  }

  void pack() {
    std::vector<const float*> up, down;
    for (const auto& w : up_) up.push_back(w.data());
    for (const auto& w : down_) down.push_back(w.data());
    kernels_.candidate_pack(
        context_, {shape_.K, shape_.d, shape_.h, shape_.L, z_table_.data(), a_table_.data(), up.data(), down.data()},
        packed_.get());
  }

  void search(Precision precision) {
    kernels_.candidate_search(context_, shape_.K, shape_.d, shape_.h, shape_.L, packed_.get(),
                              {n_, target_.data(), row_.data(), up_row_.data(), codes_.data(), nullptr, precision});
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  Shape shape_;
  int64_t n_;
  const Context& context_;
  const qinco::kernels::Table<float>& kernels_;
  std::vector<float> z_table_, a_table_, target_, row_, up_row_;
  std::vector<std::vector<float>> up_, down_;
  std::unique_ptr<float, Free> packed_;
  std::vector<int32_t> codes_;
};

struct Measured {
  double vectors_per_second, gflops, peak_share, pack_milliseconds;
};

template <class Work>
double seconds_per_thread(const Context& context, const Work& work) {
  const double start = cpu_seconds();
  work();
  return (cpu_seconds() - start) / context.threads;
}

// The peak of all threads at this moment: the median of short runs, since one of them may be interrupted.
double peak_now(Isa isa, int threads) {
  std::vector<double> runs;
  for (int r = 0; r < 9; ++r) runs.push_back(qinco::bench::measure_product_peak_gflops(isa, 1, 1));
  return threads * median(runs);
}

Measured measure(const Shape& s, const Context& context, Isa isa, Precision precision, int repeats, double scale) {
  const double flop = 2.0 * s.K * s.d * s.h * (2 * s.L - 1);
  const int64_t n =
      std::max<int64_t>(64, static_cast<int64_t>((isa == Isa::amx ? 2e10 : 2e9) * context.threads / flop));
  Problem problem(s, n, context, isa, scale);
  problem.pack();
  problem.search(precision);
  std::vector<double> rates, gflops, shares, packs;
  for (int r = 0; r < repeats; ++r) {
    packs.push_back(1e3 * seconds_per_thread(context, [&] { problem.pack(); }));
    const double before = peak_now(isa, context.threads);
    const double seconds = seconds_per_thread(context, [&] { problem.search(precision); });
    const double peak = (before + peak_now(isa, context.threads)) / 2;
    rates.push_back(n / seconds);
    gflops.push_back(flop * n / seconds * 1e-9);
    shares.push_back(gflops.back() / peak);
  }
  return {median(rates), median(gflops), median(shares), median(packs)};
}

// The screens that an ISA has a choice of.
std::vector<AmxScreen> screens_of(Isa isa) {
  if (isa == Isa::amx && cpu_has(qinco::kernels::Feature::amx_int8)) return {AmxScreen::bf16, AmxScreen::int8};
  return {AmxScreen::bf16};
}

nlohmann::json report(const Shape& s, Isa isa, AmxScreen screen, const Measured& m, const std::string& note) {
  fmt::print("{:<10} {:>5} {:>4} {:>4} {:>3} {:>12.1f} {:>9.1f} {:>8.1f}% {:>8.3f}  {}\n", isa_name(isa), s.K, s.d, s.h,
             s.L, m.vectors_per_second, m.gflops, 100 * m.peak_share, m.pack_milliseconds, note);
  return {{"isa", isa_name(isa)},
          {"amx_screen", isa == Isa::amx ? nlohmann::json(amx_screen_name(screen)) : nlohmann::json()},
          {"K", s.K},
          {"d", s.d},
          {"h", s.h},
          {"L", s.L},
          {"vectors_per_second", m.vectors_per_second},
          {"gflops", m.gflops},
          {"percent_of_peak", 100 * m.peak_share},
          {"pack_milliseconds", m.pack_milliseconds},
          {"note", note}};
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 1, repeats = 9;
  std::string json;
  CLI::App app{"The fused candidate search on every ISA"};
  app.add_option("--threads", threads, "Threads")->check(CLI::PositiveNumber);
  app.add_option("--repeats", repeats, "Timed repeats, of which the median is printed")->check(CLI::PositiveNumber);
  app.add_option("--json", json, "Write the table to this file as JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    Context context = Context::cpu();
    context.threads = threads;
    nlohmann::json rows = nlohmann::json::array();
    fmt::print("{:<10} {:>5} {:>4} {:>4} {:>3} {:>12} {:>9} {:>9} {:>8}\n", "isa", "K", "d", "h", "L", "vectors/s",
               "GFLOP/s", "of peak", "pack ms");
    for (const Isa isa : qinco::kernels::available_isas()) {
      if (isa == Isa::reference) continue;
      for (const AmxScreen screen : screens_of(isa)) {
        const qinco::kernels::ScopedAmxScreen scope(screen);
        const std::string prefix = screen == AmxScreen::int8 ? "int8 screen " : "";
        const auto add = [&](const Shape& s, Precision precision, double scale, const char* note) {
          rows.push_back(report(s, isa, screen, measure(s, context, isa, precision, repeats, scale), prefix + note));
        };
        for (const Shape& s : kShapes) add(s, Precision::exact, 1, "");
        for (const Shape& s : kShapes) add(s, Precision::fast, 1, "fast");
        // The products of such inputs are denormal; they must not be slow.
        add(kShapes[0], Precision::exact, 1e-38, "denormals");
      }
    }
    if (!json.empty()) {
      std::ofstream file(json);
      qinco::check(bool(file << rows.dump(2) << '\n'), "{}: cannot write", json);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
