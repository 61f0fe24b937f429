// bin/bench_kernels: every kernel of the table on every ISA of this machine, in GFLOP/s or GB/s and as a share of the
// peak measured at the start. Google Benchmark's options apply, e.g. --benchmark_filter=gemm
#include <algorithm>
#include <chrono>
#include <fmt/format.h>
#include <set>

#include "bench/kernels/support.h"
#include "bench/peak.h"

namespace qinco::bench {

namespace {

std::set<std::string>& registered() {
  static std::set<std::string> names;
  return names;
}

/// Times single calls; the rates are those of the median call, which a neighbour on the machine disturbs least.
void run(benchmark::State& state, Isa isa, const Work& work, const Make& make) {
  using Clock = std::chrono::steady_clock;
  const Context& context = Context::cpu();
  const Call call = make(context, kernels::table<float>(isa));
  if (!call) return state.SkipWithError("no version for this ISA");
  call();
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    state.SetIterationTime(times.back());
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  if (work.flops > 0) {
    const double rate = work.flops * 1e-9 / *middle;
    state.counters["GFLOP/s"] = rate;
    const double peak = work.products ? product_peak_gflops(isa, context.threads) : peak_gflops(isa, context.threads);
    state.counters["%peak"] = 100 * rate / peak;
  } else if (work.bytes > 0) {
    const double rate = work.bytes * 1e-9 / *middle;
    state.counters["GB/s"] = rate;
    state.counters["%copy"] = 100 * rate / copy_gbytes(context.threads);
  }
}

/// The kernels of the table that no benchmark covers.
std::vector<std::string> missing() {
  std::vector<std::string> names;
#define QINCO_NAME(kernel) names.push_back(#kernel);
  QINCO_KERNELS(QINCO_NAME)
#undef QINCO_NAME
  names.erase(std::remove_if(names.begin(), names.end(), [](const auto& n) { return registered().count(n) > 0; }),
              names.end());
  return names;
}

}  // namespace

void add(const std::string& kernel, const std::string& shape, Work work, Make make) {
  registered().insert(kernel);
  for (const Isa isa : kernels::available_isas()) {
    const std::string name = fmt::format("{}/{}/{}", kernel, shape, kernels::isa_name(isa));
    benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { run(state, isa, work, make); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

std::vector<float> normal(int64_t size) {
  std::mt19937 random(1);
  std::normal_distribution<float> value;
  std::vector<float> x(static_cast<size_t>(size));
  for (float& v : x) v = value(random);
  return x;
}

std::vector<int32_t> ids_below(int64_t size, int32_t below) {
  std::mt19937 random(2);
  std::uniform_int_distribution<int32_t> value(0, below - 1);
  std::vector<int32_t> x(static_cast<size_t>(size));
  for (int32_t& v : x) v = value(random);
  return x;
}

}  // namespace qinco::bench

int main(int argc, char** argv) {
  using namespace qinco;
  bench::add_matrix_kernels();
  bench::add_elementwise_kernels();
  bench::add_row_kernels();
  if (const auto names = bench::missing(); !names.empty()) {
    fmt::print(stderr, "no benchmark for: {}\n", fmt::join(names, ", "));
    return 1;
  }
  std::string min_time = "--benchmark_min_time=0.1";  // unless the command line says otherwise
  std::vector<char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, min_time.data());
  int count = argc + 1;
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  const int threads = kernels::default_threads();
  benchmark::AddCustomContext("threads", fmt::format("{}", threads));
  for (const kernels::Isa isa : kernels::available_isas())
    benchmark::AddCustomContext(fmt::format("peak GFLOP/s, {}", kernels::isa_name(isa)),
                                fmt::format("{:.1f}", bench::peak_gflops(isa, threads)));
  if (kernels::best_isa() == kernels::Isa::amx)
    benchmark::AddCustomContext("peak GFLOP/s, bfloat16 tile products",
                                fmt::format("{:.1f}", bench::product_peak_gflops(kernels::Isa::amx, threads)));
  benchmark::AddCustomContext("copy GB/s", fmt::format("{:.1f}", bench::copy_gbytes(threads)));
  benchmark::RunSpecifiedBenchmarks();
}
