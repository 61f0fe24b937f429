// Times the CUDA kernels on one device: bytes against the rate of a copy, FLOP against the largest matrix product, in
// float or, for the candidate search, of bfloat16 operands.
// Prints a markdown table, and writes JSON with --json FILE. Inputs are made on the host once; no output is checked
// here, the tests do that. usage: bench_gpu [--quick] [--json FILE] [FAMILY..], of those at the end
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>
#include <fmt/core.h>
#include <fmt/ostream.h>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "bench/gpu/tensor_peak.h"
#include "kernels/check.h"
#include "kernels/kernels.h"

namespace {

using namespace qinco;
using namespace qinco::kernels;

struct Measurement {
  std::string name;
  double seconds = 0;
  double bytes = 0, flop = 0;  // that a call must move or do; one of them is 0
  double vectors = 0;          // that a call searches for, of those on the tensor cores
};

class Bench {
 public:
  explicit Bench(Device device, double seconds)
      : device_(device), context_(Context::of(device)), kernels_(table<float>(device)), seconds_(seconds) {}
  ~Bench() {
    for (const auto& [memory, bytes] : memory_) release(device_, memory, bytes);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  const Context& context() const { return context_; }
  const Table<float>& kernels() const { return kernels_; }
  Device device() const { return device_; }
  const std::vector<Measurement>& results() const { return results_; }

  /// n elements on the device: value(i).
  template <class T, class Value>
  T* array(int64_t n, Value value) {
    std::vector<T> host(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) host[static_cast<size_t>(i)] = static_cast<T>(value(i));
    const size_t bytes = host.size() * sizeof(T);
    void* const memory = allocate(device_, bytes);
    memory_.emplace_back(memory, bytes);
    copy_bytes(device_, memory, {}, host.data(), bytes);
    return static_cast<T*>(memory);
  }
  float* floats(int64_t n) {
    return array<float>(n, [this](int64_t) { return static_cast<float>(random_() % 2001) / 1000.0f - 1.0f; });
  }
  /// [rows,cols] as large as keeps the size of what it multiplies.
  float* weights(int64_t rows, int64_t cols) {
    const double scale = std::sqrt(3.0 / static_cast<double>(cols)) / 1000;
    return array<float>(rows * cols, [&](int64_t) { return scale * (static_cast<double>(random_() % 2001) - 1000); });
  }
  uint8_t* codes(int64_t n) {
    return array<uint8_t>(n, [this](int64_t) { return random_() & 255; });
  }
  int32_t* ids(int64_t n, int64_t below) {
    return array<int32_t>(n, [&](int64_t) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(below)); });
  }

  /// The median time of five turns, each as many calls as fill a fifth of the time.
  void run(const std::string& name, double bytes, double flop, const std::function<void()>& call, double vectors = 0) {
    using Clock = std::chrono::steady_clock;
    const auto time = [&](int calls) {
      synchronize(device_);
      const auto start = Clock::now();
      for (int i = 0; i < calls; ++i) call();
      synchronize(device_);
      return std::chrono::duration<double>(Clock::now() - start).count() / calls;
    };
    time(1);  // the first call prepares
    const int calls = std::clamp(static_cast<int>(seconds_ / 5 / std::max(time(1), 1e-6)), 1, 10'000);
    std::vector<double> turns;
    for (int i = 0; i < 5; ++i) turns.push_back(time(calls));
    std::sort(turns.begin(), turns.end());
    results_.push_back({name, turns[2], bytes, flop, vectors});
    fmt::print(stderr, "{:32} {:.3g} s\n", name, turns[2]);
  }

  /// Gives back all memory: the next cases need theirs.
  void clear() {
    synchronize(device_);
    for (const auto& [memory, bytes] : memory_) release(device_, memory, bytes);
    memory_.clear();
  }

 private:
  Device device_;
  const Context& context_;
  const Table<float>& kernels_;
  double seconds_;
  std::mt19937_64 random_{1};
  std::deque<std::pair<void*, size_t>> memory_;
  std::vector<Measurement> results_;
};

void streams(Bench& b, int64_t scale) {
  const int64_t n = scale << 20;
  const double floats = 4.0 * static_cast<double>(n);
  float *const x = b.floats(n), *const y = b.floats(n), *const z = b.floats(n), *const v = b.floats(n);
  const auto& k = b.kernels();
  const Context& c = b.context();
  b.run("copy", 2 * floats, 0, [&] { copy_bytes(b.device(), y, b.device(), x, static_cast<size_t>(n) * 4); });
  b.run("unary relu", 2 * floats, 0, [&] { k.unary(c, UnaryOp::relu, n, x, y); });
  b.run("unary gelu", 2 * floats, 0, [&] { k.unary(c, UnaryOp::gelu, n, x, y); });
  b.run("binary add", 3 * floats, 0, [&] { k.binary(c, BinaryOp::add, 1, n, {x, 0, 1}, {y, 0, 1}, z); });
  b.run("binary add row", 2 * floats, 0, [&] {
    k.binary(c, BinaryOp::add, n / 1024, 1024, {x, 1024, 1}, {y, 0, 1}, z);
  });
  b.run("axpby", 3 * floats, 0, [&] { k.axpby(c, n, 0.5f, x, 0.5f, y); });
  b.run("fill", floats, 0, [&] { k.fill(c, n, 0.25f, z); });
  b.run("uniform", floats, 0, [&] { k.uniform(c, {}, n, -1, 1, z); });
  b.run("dropout_mask", floats, 0, [&] { k.dropout_mask(c, {}, n, 0.5, z); });
  const AdamParameter<float> whole{n, x, y, z, v};
  b.run("adam", 7 * floats, 0, [&] { k.adam(c, {}, 1, &whole); });
  b.run("sgd", 3 * floats, 0, [&] { k.sgd(c, {}, n, x, y, nullptr); });
  b.run("sum", floats, 0, [&] { k.sum(c, n, x); });
  b.run("row_sum", floats, 0, [&] { k.row_sum(c, n / 1024, 1024, x, y); });
  b.run("column_sum", floats, 0, [&] { k.column_sum(c, n / 1024, 1024, x, y); });
  b.run("row_argmin", floats, 0, [&] { k.row_argmin(c, n / 1024, 1024, x, reinterpret_cast<int32_t*>(y)); });
  b.run("softmax", 2 * floats, 0, [&] { k.softmax(c, n / 1024, 1024, x, y); });
  b.run("layer_norm", 2 * floats, 0, [&] { k.layer_norm(c, n / 1024, 1024, x, v, v, 1e-5, y, z, z + n / 1024); });
  const int64_t shape[] = {1024, n / 1024}, strides[] = {1, 1024};
  b.run("strided_copy transpose", 2 * floats, 0, [&] { k.strided_copy(c, 2, shape, strides, x, y); });
  b.clear();
}

void rows(Bench& b, int64_t scale) {
  const int64_t n = scale << 12, d = 128;
  const double bytes = 4.0 * static_cast<double>(n * d);
  const auto& k = b.kernels();
  const Context& c = b.context();
  for (const int64_t table_rows : {int64_t{256}, int64_t{65536}}) {
    float *const x = b.floats(n * d), *const out = b.floats(std::max(n, table_rows) * d);
    int32_t* const ids = b.ids(n, table_rows);
    b.run(fmt::format("gather_rows of {}", table_rows), 2 * bytes, 0, [&] { k.gather_rows(c, n, d, out, ids, x); });
    b.run(fmt::format("scatter_add_rows to {}", table_rows), bytes, 0,
          [&] { k.scatter_add_rows(c, n, d, table_rows, ids, x, out); });
    b.clear();
  }
  const int64_t cols = 16384, many = std::max<int64_t>(scale * 4, 4);
  float *const x = b.floats(many * cols), *const values = b.floats(many * 100);
  int32_t* const ids = b.ids(many * 100, 1);
  b.run("topk 100 of 16384", 4.0 * static_cast<double>(many * cols), 0,
        [&] { k.topk(c, many, cols, 100, x, ids, values); });
  b.clear();
}

void products(Bench& b, int64_t scale) {
  const auto& k = b.kernels();
  const Context& c = b.context();
  struct Shape {
    int64_t m, n, k;
    bool trans_a, trans_b;
  };
  const int64_t square = scale >= 64 ? 4096 : 128;
  for (const Shape& s : {Shape{square, square, square, false, false}, Shape{1024, 256, 128, false, true},
                         Shape{1024, 128, 256, false, false}, Shape{256, 128, 1024, true, false},
                         Shape{scale * 1024, 256, 128, false, true}, Shape{scale * 1024, 128, 256, false, true},
                         Shape{256, 128, scale * 1024, true, false}}) {
    Gemm<float> g;
    g.m = s.m, g.n = s.n, g.k = s.k, g.trans_a = s.trans_a, g.trans_b = s.trans_b;
    g.a = b.floats(s.m * s.k), g.lda = s.trans_a ? s.m : s.k;
    g.b = b.floats(s.k * s.n), g.ldb = s.trans_b ? s.k : s.n;
    g.c = b.floats(s.m * s.n), g.ldc = s.n;
    b.run(fmt::format("gemm {}x{}x{}", s.m, s.n, s.k), 0, 2.0 * static_cast<double>(s.m * s.n * s.k),
          [&] { k.gemm(c, g); });
    g.precision = Precision::fast;
    b.run(fmt::format("TF32 gemm {}x{}x{}", s.m, s.n, s.k), 0, 2.0 * static_cast<double>(s.m * s.n * s.k),
          [&] { k.gemm(c, g); });
    if (!s.trans_a) {
      g.precision = Precision::exact;
      g.bias = b.floats(s.n), g.relu = true;
      b.run(fmt::format("gemm and bias, relu {}x{}x{}", s.m, s.n, s.k), 0, 2.0 * static_cast<double>(s.m * s.n * s.k),
            [&] { k.gemm(c, g); });
    }
    b.clear();
  }
}

// Products with packed weights, beside gemm's of the same sizes.
void linears(Bench& b, int64_t scale) {
  const auto& k = b.kernels();
  const Context& c = b.context();
  for (const auto& [m, n, inner] :
       {std::array<int64_t, 3>{scale * 1024, 256, 128}, {scale * 1024, 128, 256}, {1024, 256, 128}}) {
    const std::string sizes = fmt::format("{}x{}x{}", m, n, inner);
    const double flop = 2.0 * static_cast<double>(m * n * inner);
    float *const x = b.floats(m * inner), *const w = b.floats(n * inner), *const y = b.floats(m * n);
    float* const packed = b.floats(k.linear_packed_size(n, inner, Precision::exact));
    k.linear_pack(c, n, inner, w, inner, Precision::exact, packed);
    Linear<float> l{m, n, inner, x, inner, packed, y, n};
    b.run("linear " + sizes, 0, flop, [&] { k.linear(c, l); });
    l.residual = y, l.ldr = n, l.relu = true;
    b.run("linear and residual, relu " + sizes, 0, flop, [&] { k.linear(c, l); });
    b.clear();
  }
}

// The product that an assignment is made of is timed beside it.
void assignments(Bench& b, int64_t scale) {
  const auto& k = b.kernels();
  const Context& c = b.context();
  for (const int64_t K : {int64_t{256}, int64_t{16384}}) {
    const int64_t n = K > 256 ? scale * 64 : scale * 1024, d = 128;
    const double flop = 2.0 * static_cast<double>(n * K * d);
    float *const x = b.floats(n * d), *const codebook = b.floats(K * d), *const distances = b.floats(n);
    int32_t* const ids = b.ids(n, 1);
    b.run(fmt::format("nearest of {}", K), 0, flop, [&] { k.nearest(c, n, d, K, x, codebook, ids, distances); });
    Gemm<float> g;
    g.m = n, g.n = K, g.k = d;
    g.a = x, g.lda = d, g.b = codebook, g.ldb = d, g.trans_b = true;
    g.c = b.floats(n * K), g.ldc = K;
    b.run(fmt::format("gemm {}x{}x{}", n, K, d), 0, flop, [&] { k.gemm(c, g); });
    b.clear();
  }
}

// One step and n vectors: exact, fast, and what it costs to pack the step, which training does for every batch.
void candidate_step(Bench& b, int64_t n, int64_t K, int64_t d, int64_t h, int64_t L) {
  const auto& k = b.kernels();
  const Context& c = b.context();
  CandidateStep<float> step;
  std::vector<const float*> up, down;
  for (int64_t l = 0; l < L; ++l) up.push_back(b.weights(h, d)), down.push_back(b.weights(d, h));
  step.K = K, step.d = d, step.h = h, step.L = L;
  step.z_table = b.floats(K * d), step.a_table = b.floats(K * h);
  step.w_up = up.data(), step.w_down = down.data();
  float* const packed = b.floats(k.candidate_packed_size(K, d, h, L));
  k.candidate_pack(c, step, packed);
  CandidateSearch<float> search;
  search.n = n;
  search.target = b.floats(n * d), search.row = b.floats(n * d), search.up_row = b.floats(n * h);
  search.codes = b.ids(n, 1), search.distances = b.floats(n);
  const std::string sizes = fmt::format("n={} K={} d={} h={} L={}", n, K, d, h, L);
  const double vectors = static_cast<double>(n), flop = 2.0 * vectors * static_cast<double>(K * d * h * (2 * L - 1));
  const auto run = [&] { k.candidate_search(c, K, d, h, L, packed, search); };
  b.run("candidate_search " + sizes, 0, flop, run, vectors);
  search.precision = Precision::fast;
  b.run("candidate_search fast " + sizes, 0, flop, run, vectors);
  b.run("candidate_pack " + sizes, 4.0 * static_cast<double>(k.candidate_packed_size(K, d, h, L)), 0,
        [&] { k.candidate_pack(c, step, packed); });
  step.precision = Precision::fast;
  b.run("candidate_pack fast " + sizes, 4.0 * static_cast<double>(k.candidate_packed_size(K, d, h, L)), 0,
        [&] { k.candidate_pack(c, step, packed); });
  b.clear();
}

void candidates(Bench& b, int64_t scale) {
  if (scale < 64) return candidate_step(b, 4, 16, 128, 256, 2);
  for (const int64_t L : {1, 2, 4, 16}) candidate_step(b, 16384, 256, 128, 256, L);
  candidate_step(b, 1024, 256, 128, 256, 2);
  candidate_step(b, 16384, 256, 96, 256, 2);
  candidate_step(b, 16384, 256, 256, 256, 2);
  candidate_step(b, 16384, 256, 128, 64, 2);
  candidate_step(b, 65536, 16, 128, 256, 2);
  candidate_step(b, 1024, 4096, 128, 256, 2);
  for (const int64_t n : {1024, 8192}) candidate_step(b, n, 256, 768, 256, 2);
}

// An inverted file: each query scans 32 of its lists.
void scan_inverted_lists(Bench& b, int64_t scale) {
  const int64_t nq = scale * 4, M = 8, k = 10, nprobe = 32, n = 2048, count = scale * 64;
  const uint8_t* const codes = b.codes(count * n * M);
  const float *const norms = b.floats(count * n), *const tables = b.floats(nq * M * kScanEntries);
  std::vector<ScanList<float>> lists;
  std::vector<ScanQuery<float>> queries;
  for (int64_t q = 0; q < nq; ++q)
    for (int64_t l = 0; l < nprobe; ++l) {
      const int64_t list = (q * 97 + l * 61) % count;
      lists.push_back({n, codes + list * n * M, norms + list * n, 0, list * n});
    }
  for (int64_t q = 0; q < nq; ++q)
    queries.push_back({tables + q * M * kScanEntries, nprobe, &lists[static_cast<size_t>(q * nprobe)]});
  int64_t* const ids = b.array<int64_t>(nq * k, [](int64_t) { return 0; });
  const Scan<float> scan{nq, M, k, queries.data(), ids, b.floats(nq * k)};
  b.run(fmt::format("scan M={}, {} queries, {} lists of {} each, k={}", M, nq, nprobe, n, k),
        static_cast<double>(nq * nprobe * n * M), 0, [&] { b.kernels().scan(b.context(), scan); });
  b.clear();
}

// Codes of 2^20 vectors, of a list that all queries share, or in a list for each, which are the same codes in memory.
void scans(Bench& b, int64_t scale) {
  const int64_t k = 100, n = scale << 14, few = 16, many = scale * 4;
  for (const auto& [nq, M, share] : {std::tuple{few, int64_t{8}, true},
                                     {many, int64_t{8}, true},
                                     {many, int64_t{16}, true},
                                     {few, int64_t{8}, false},
                                     {many, int64_t{8}, false},
                                     {many, int64_t{16}, false}}) {
    ScanList<float> list;
    list.n = n;
    list.codes = b.codes(n * M);
    list.norms = b.floats(n);
    float* const tables = b.floats(nq * M * kScanEntries);
    std::vector<ScanList<float>> lists(static_cast<size_t>(nq), list);
    std::vector<ScanQuery<float>> queries;
    for (int64_t q = 0; q < nq; ++q) {
      ScanList<float>& own = lists[static_cast<size_t>(q)];
      if (!share) own.first = q;
      queries.push_back({tables + q * M * kScanEntries, 1, &own});
    }
    int64_t* const ids = b.array<int64_t>(nq * k, [](int64_t) { return 0; });
    const Scan<float> scan{nq, M, k, queries.data(), ids, b.floats(nq * k)};
    b.run(fmt::format("scan M={}, {} queries{}", M, nq, share ? "" : ", a list for each"),
          static_cast<double>(nq * n * M), 0, [&] { b.kernels().scan(b.context(), scan); });
    b.clear();
  }
  scan_inverted_lists(b, scale);
}

// The largest rate of bytes (a copy) and of FLOP (a matrix product) that was measured.
double peak(const std::vector<Measurement>& all, const std::string& prefix, double Measurement::*amount) {
  double best = 0;
  for (const Measurement& m : all)
    if (m.name.rfind(prefix, 0) == 0) best = std::max(best, m.*amount / m.seconds);
  return best;
}

void report(const Bench& b, const std::string& json) {
  const double copy = peak(b.results(), "copy", &Measurement::bytes);
  const double gemm = peak(b.results(), "gemm", &Measurement::flop), tensor = bench::tensor_peak(b.context());
  fmt::print("{}; products of bfloat16 operands: {:.4g} TFLOP/s\n\n", device_description(b.device()), tensor * 1e-12);
  fmt::print("| kernel | ms | GB/s | GFLOP/s | of copy or gemm | vectors/s |\n|---|---:|---:|---:|---:|---:|\n");
  std::string items;
  for (const Measurement& m : b.results()) {
    const double ceiling = m.bytes > 0 ? copy : m.vectors > 0 && tensor > 0 ? tensor : gemm;
    fmt::print("| {} | {:.4g} | {:.4g} | {:.4g} | {:.0f}% | {:.4g} |\n", m.name, m.seconds * 1e3,
               m.bytes / m.seconds / 1e9, m.flop / m.seconds / 1e9, 100 * (m.bytes + m.flop) / m.seconds / ceiling,
               m.vectors / m.seconds);
    items += fmt::format(
        "{}{{\"name\": \"{}\", \"seconds\": {:.6e}, \"bytes\": {:.0f}, \"flop\": {:.0f}, \"vectors\": {:.0f}}}",
        items.empty() ? "" : ",\n  ", m.name, m.seconds, m.bytes, m.flop, m.vectors);
  }
  if (json.empty()) return;
  std::ofstream file(json);
  fmt::print(file, "{{\"device\": \"{}\", \"kernels\": [\n  {}]}}\n", device_description(b.device()), items);
  check(file.good(), "{}: cannot be written", json);
}

}  // namespace

int main(int argc, char** argv) {
  using Family = void (*)(Bench&, int64_t);
  const std::pair<std::string, Family> families[] = {{"streams", streams},     {"rows", rows},
                                                     {"products", products},   {"linears", linears},
                                                     {"nearest", assignments}, {"candidates", candidates},
                                                     {"scans", scans}};
  try {
    std::string json;
    bool quick = false;
    std::vector<std::string> asked;
    for (int i = 1; i < argc; ++i) {
      const std::string option = argv[i];
      if (option == "--quick")
        quick = true;
      else if (option == "--json" && i + 1 < argc)
        json = argv[++i];
      else
        asked.push_back(option);
    }
    const auto named = [&](const std::string& name) {
      return std::find(asked.begin(), asked.end(), name) != asked.end();
    };
    for (const std::string& name : asked)
      check(std::any_of(std::begin(families), std::end(families), [&](const auto& f) { return f.first == name; }),
            "{}: expected --quick, --json FILE or families: streams rows products linears nearest candidates scans",
            name);
    const Device device{DeviceType::cuda, 0};
    check_device(device);
    Bench bench(device, quick ? 0.0 : 0.5);
    const int64_t scale = quick ? 1 : 64;  // --quick: whether it runs at all, as on the emulator
    for (const auto& [name, family] : families)
      if (asked.empty() || named(name)) family(bench, scale);
    report(bench, json);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_gpu: {}\n", error.what());
    return 1;
  }
}
