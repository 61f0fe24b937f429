// Our matrix product against OpenBLAS's, on the shapes that QINCo and the examples use: blocks of calls of each in turn
// in one process, medians, GFLOP/s, and their ratio (above 1: ours is faster). One thread is timed by its CPU time,
// which other programs' turns on the machine do not count into; several are timed by the clock, and need a quiet
// machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <fmt/core.h>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "kernels/check.h"
#include "kernels/kernels.h"

#ifdef QINCO_OPENBLAS
#include <cblas.h>
#endif

namespace {

using namespace qinco;
using kernels::Gemm;

struct Shape {
  const char* name;
  int64_t m, n, k;
  bool trans_a, trans_b;
};

// y = x W^T, dx = dy W and dW = dy^T x of the layers: W [256,128] at batch 1024 and 32768, W [256,784] at batch 1024.
constexpr Shape kShapes[] = {
    {"forward 128->256", 1024, 256, 128, false, true},
    {"dx 128->256", 1024, 128, 256, false, false},
    {"dW 128->256", 256, 128, 1024, true, false},
    {"[1024,128]x[128,256]", 1024, 256, 128, false, false},
    {"[1024,128]x[128,256] A^T", 1024, 256, 128, true, false},
    {"[1024,128]x[128,256] A^T B^T", 1024, 256, 128, true, true},
    {"[32768,256]x[256,128]", 32768, 128, 256, false, false},
    {"[32768,256]x[256,128] B^T", 32768, 128, 256, false, true},
    {"forward 784->256", 1024, 256, 784, false, true},
    {"dx 784->256", 1024, 784, 256, false, false},
    {"dW 784->256", 256, 784, 1024, true, false},
    {"[1024,784]x[784,256]", 1024, 256, 784, false, false},
    {"1024^3", 1024, 1024, 1024, false, false},
    {"1024^3 A^T", 1024, 1024, 1024, true, false},
    {"1024^3 B^T", 1024, 1024, 1024, false, true},
    {"1024^3 A^T B^T", 1024, 1024, 1024, true, true},
};

struct Operands {
  std::vector<float> a, b, c;
  Gemm<float> gemm;

  explicit Operands(const Shape& s)
      : a(static_cast<size_t>(s.m * s.k)), b(static_cast<size_t>(s.k * s.n)), c(static_cast<size_t>(s.m * s.n)) {
    for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 17) - 8;
    for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 13) - 6;
    gemm.m = s.m, gemm.n = s.n, gemm.k = s.k;
    gemm.a = a.data(), gemm.lda = s.trans_a ? s.m : s.k, gemm.trans_a = s.trans_a;
    gemm.b = b.data(), gemm.ldb = s.trans_b ? s.k : s.n, gemm.trans_b = s.trans_b;
    gemm.c = c.data(), gemm.ldc = s.n;
  }
};

double now(int threads) {
  timespec time;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The median seconds of one call within `seconds`, after as long a warm-up: the other library's threads go on spinning
// for a while after its last call.
template <class Call>
double time_block(double seconds, int threads, Call&& call) {
  for (const double start = now(threads); now(threads) - start < seconds;) call();
  std::vector<double> times;
  for (const double start = now(threads); times.size() < 3 || now(threads) - start < seconds;) {
    const double begin = now(threads);
    call();
    times.push_back(now(threads) - begin);
  }
  return median(std::move(times));
}

void openblas(const Operands& x, int threads) {
#ifdef QINCO_OPENBLAS
  const Gemm<float>& g = x.gemm;
  openblas_set_num_threads(threads);
  cblas_sgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans,
              static_cast<int>(g.m), static_cast<int>(g.n), static_cast<int>(g.k), 1.0f, g.a, static_cast<int>(g.lda),
              g.b, static_cast<int>(g.ldb), 0.0f, g.c, static_cast<int>(g.ldc));
#else
  (void)x, (void)threads;
#endif
}

struct Options {
  std::vector<int> threads = {1, 2};
  int rounds = 7;
  double seconds = 0.03;
  std::string json;
};

nlohmann::json measure(const Shape& shape, int threads, const Options& options) {
#ifdef QINCO_OPENBLAS
  constexpr bool kPeer = true;
#else
  constexpr bool kPeer = false;
#endif
  Operands x(shape);
  kernels::Context context = kernels::Context::cpu();
  context.threads = threads;
  const kernels::Isa isa = kernels::active_isa();
  const auto gemm = kernels::table<float>(isa).gemm;
  gemm(context, x.gemm);
  if (kPeer) {  // the same numbers, or no comparison; the inputs are small integers, so both are exact
    const std::vector<float> ours = x.c;
    openblas(x, threads);
    check(ours == x.c, "{}: the results differ", shape.name);
  }
  std::vector<double> ours, theirs, ratios;
  for (int r = 0; r < options.rounds; ++r) {
    ours.push_back(time_block(options.seconds, threads, [&] { gemm(context, x.gemm); }));
    if (!kPeer) continue;
    theirs.push_back(time_block(options.seconds, threads, [&] { openblas(x, threads); }));
    ratios.push_back(theirs.back() / ours.back());
  }
  const double flops = 2e-9 * static_cast<double>(shape.m * shape.n * shape.k);
  const double rate = flops / median(ours), peak = bench::peak_gflops(isa, threads);
  nlohmann::json row = {{"shape", shape.name},
                        {"m", shape.m},
                        {"n", shape.n},
                        {"k", shape.k},
                        {"trans_a", shape.trans_a},
                        {"trans_b", shape.trans_b},
                        {"threads", threads},
                        {"isa", kernels::isa_name(isa)},
                        {"gflops", rate},
                        {"percent_of_peak", 100 * rate / peak}};
  fmt::print("{:<29} {:>6} {:>5} {:>5} {:>8} {:>9.1f} {:>6.1f}%", shape.name, shape.m, shape.n, shape.k, threads, rate,
             100 * rate / peak);
  if (kPeer) {
    row["openblas_gflops"] = flops / median(theirs);
    row["ratio"] = median(ratios);
    fmt::print(" {:>9.1f} {:>7.2f}", flops / median(theirs), median(ratios));
  }
  fmt::print("\n");
  return row;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Our GEMM against OpenBLAS"};
  app.add_option("--threads", options.threads, "Thread counts to measure")->delimiter(',');
  app.add_option("--rounds", options.rounds, "Blocks of calls of each library")->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds, "Length of a block (and of its warm-up)")->check(CLI::PositiveNumber);
  app.add_option("--json", options.json, "Write the table to this file as JSON");
  CLI11_PARSE(app, argc, argv);
  nlohmann::json rows = nlohmann::json::array();
  try {
    fmt::print("{:<29} {:>6} {:>5} {:>5} {:>8} {:>9} {:>7} {:>9} {:>7}\n", "shape", "m", "n", "k", "threads", "GFLOP/s",
               "peak", "OpenBLAS", "ratio");
    for (const int threads : options.threads)
      for (const Shape& shape : kShapes) rows.push_back(measure(shape, threads, options));
    if (!options.json.empty()) {
      std::ofstream file(options.json);
      check(bool(file << rows.dump(2) << '\n'), "{}: cannot write", options.json);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
