// What each saving of the candidate search brings, on one step of QINCo: the direct form, then with the codeword's half
// of the concatenation in a table, then with the first up-projection in a table too, then fused, then screened
// (docs/candidate_search.md). The first three use our matrix product, a few vectors at a time so that their activations
// fit the cache.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <ctime>
#include <fmt/format.h>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"

namespace {

using namespace qinco::kernels;
using Floats = std::vector<float>;

struct Options {
  int64_t K = 256, d = 128, h = 256, L = 2, n = 64, batch = 4;
  int threads = 1, repeats = 9;
  std::string json;
};

// One step's parameters and n vectors with their reconstructions so far.
struct Data {
  Floats codebook, w_cat, bias, x, xhat;  // [K,d] [d,2d] [d] [n,d] [n,d]
  std::vector<Floats> up, down;           // L of [h,d], L of [d,h]
};

Data random_data(const Options& o) {
  std::mt19937 random(1);
  const auto normal = [&](int64_t size, double deviation) {
    std::normal_distribution<float> value(0.0f, static_cast<float>(deviation));
    Floats x(size);
    for (float& v : x) v = value(random);
    return x;
  };
  Data data{normal(o.K * o.d, 1),
            normal(2 * o.d * o.d, 0.5 / std::sqrt(o.d)),
            normal(o.d, 0.1),
            normal(o.n * o.d, 1),
            normal(o.n * o.d, 0.5),
            {},
            {}};
  for (int64_t l = 0; l < o.L; ++l) {
    data.up.push_back(normal(o.h * o.d, 1 / std::sqrt(o.d)));
    data.down.push_back(normal(o.d * o.h, 0.5 / std::sqrt(o.h)));
  }
  return data;
}

// y [rows,out] = x [rows,in] w^T, with w [out, in] inside rows of ldw; further fields are for the caller.
Gemm<float> product(int64_t rows, int64_t in, int64_t out, const float* x, const float* w, int64_t ldw, float* y) {
  Gemm<float> g;
  g.m = rows, g.n = out, g.k = in;
  g.a = x, g.lda = in;
  g.b = w, g.ldb = ldw, g.trans_b = true;
  g.c = y, g.ldc = out;
  return g;
}

class Search {
 public:
  Search(const Options& o, const Data& data, const Context& context)
      : o_(o), data_(data), context_(context), kernels_(table<float>()) {
    const int64_t rows = o.batch * o.K;
    concat_.resize(rows * 2 * o.d);
    z_.resize(rows * o.d);
    hidden_.resize(rows * o.h);
    distances_.resize(rows);
    make_tables();
  }

  // z = c + W_cat [c ; xhat] + b, then every block in full.
  void direct(std::vector<int32_t>& codes) {
    in_batches(codes, [&](int64_t begin, int64_t count) {
      for (int64_t i = 0; i < count * o_.K; ++i) {
        std::copy_n(data_.codebook.data() + i % o_.K * o_.d, o_.d, concat_.data() + i * 2 * o_.d);
        std::copy_n(data_.xhat.data() + (begin + i / o_.K) * o_.d, o_.d, concat_.data() + i * 2 * o_.d + o_.d);
      }
      auto g = product(count * o_.K, 2 * o_.d, o_.d, concat_.data(), data_.w_cat.data(), 2 * o_.d, z_.data());
      g.bias = data_.bias.data();
      g.residual = concat_.data(), g.ldr = 2 * o_.d;
      kernels_.gemm(context_, g);
      blocks(count, 0);
    });
  }

  // z = z_table + r, then every block in full.
  void one_table(std::vector<int32_t>& codes) {
    make_rows();
    in_batches(codes, [&](int64_t begin, int64_t count) {
      add_row(begin, count, z_table_, row_, o_.d, z_);
      blocks(count, 0);
    });
  }

  // The first block starts at relu(a_table + u).
  void two_tables(std::vector<int32_t>& codes) {
    make_rows();
    in_batches(codes, [&](int64_t begin, int64_t count) {
      add_row(begin, count, z_table_, row_, o_.d, z_);
      add_row(begin, count, a_table_, up_row_, o_.h, hidden_);
      kernels_.unary(context_, UnaryOp::relu, count * o_.K * o_.h, hidden_.data(), hidden_.data());
      down(count, 0);
      blocks(count, 1);
    });
  }

  // In slices of so few candidates that the CPU without a matrix unit does not screen them.
  void fused(std::vector<int32_t>& codes) {
    make_rows();
    std::vector<int32_t> ids(o_.n);
    std::vector<float> distances(o_.n), best(o_.n, std::numeric_limits<float>::infinity());
    for (size_t slice = 0; slice < slices_.size(); ++slice) {
      const int64_t first = static_cast<int64_t>(slice) * kSlice;
      kernels_.candidate_search(context_, std::min(kSlice, o_.K - first), o_.d, o_.h, o_.L, slices_[slice].get(),
                                {o_.n, target_.data(), row_.data(), up_row_.data(), ids.data(), distances.data()});
      for (int64_t i = 0; i < o_.n; ++i)
        if (distances[i] < best[i]) best[i] = distances[i], codes[i] = static_cast<int32_t>(first) + ids[i];
    }
  }

  void screened(std::vector<int32_t>& codes) {
    make_rows();
    kernels_.candidate_search(context_, o_.K, o_.d, o_.h, o_.L, packed_.get(),
                              {o_.n, target_.data(), row_.data(), up_row_.data(), codes.data(), nullptr});
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  using Packed = std::unique_ptr<float, Free>;
  static constexpr int64_t kSlice = 32;

  // The candidates from `first` on as a step of their own.
  Packed pack(int64_t first, int64_t count, const std::vector<const float*>& up,
              const std::vector<const float*>& down) {
    const int64_t size = kernels_.candidate_packed_size(count, o_.d, o_.h, o_.L);
    Packed packed(static_cast<float*>(::operator new (size * sizeof(float), std::align_val_t{64})));
    kernels_.candidate_pack(context_,
                            {count, o_.d, o_.h, o_.L, z_table_.data() + first * o_.d, a_table_.data() + first * o_.h,
                             up.data(), down.data()},
                            packed.get());
    return packed;
  }

  void make_tables() {
    z_table_.resize(o_.K * o_.d), a_table_.resize(o_.K * o_.h);
    auto g = product(o_.K, o_.d, o_.d, data_.codebook.data(), data_.w_cat.data(), 2 * o_.d, z_table_.data());
    g.bias = data_.bias.data();
    g.residual = data_.codebook.data(), g.ldr = o_.d;
    kernels_.gemm(context_, g);
    kernels_.gemm(context_, product(o_.K, o_.d, o_.h, z_table_.data(), data_.up[0].data(), o_.d, a_table_.data()));
    target_.resize(o_.n * o_.d), row_.resize(o_.n * o_.d), up_row_.resize(o_.n * o_.h);
    for (int64_t i = 0; i < o_.n * o_.d; ++i) target_[i] = data_.x[i] - data_.xhat[i];

    std::vector<const float*> up, down;
    for (int64_t l = 0; l < o_.L; ++l) up.push_back(data_.up[l].data()), down.push_back(data_.down[l].data());
    packed_ = pack(0, o_.K, up, down);
    for (int64_t first = 0; first < o_.K; first += kSlice)
      slices_.push_back(pack(first, std::min(kSlice, o_.K - first), up, down));
  }

  // r = W_x xhat and u = W_up,1 r of all vectors.
  void make_rows() {
    kernels_.gemm(context_,
                  product(o_.n, o_.d, o_.d, data_.xhat.data(), data_.w_cat.data() + o_.d, 2 * o_.d, row_.data()));
    kernels_.gemm(context_, product(o_.n, o_.d, o_.h, row_.data(), data_.up[0].data(), o_.d, up_row_.data()));
  }

  void add_row(int64_t begin, int64_t count, const Floats& table, const Floats& rows, int64_t cols, Floats& out) {
    for (int64_t i = 0; i < count; ++i)
      kernels_.binary(context_, BinaryOp::add, o_.K, cols, {table.data(), cols, 1},
                      {rows.data() + (begin + i) * cols, 0, 1}, out.data() + i * o_.K * cols);
  }

  void down(int64_t count, int64_t l) {
    auto g = product(count * o_.K, o_.h, o_.d, hidden_.data(), data_.down[l].data(), o_.h, z_.data());
    g.accumulate = true;
    kernels_.gemm(context_, g);
  }

  // z += W_down,l relu(W_up,l z) for the blocks from `first` on.
  void blocks(int64_t count, int64_t first) {
    for (int64_t l = first; l < o_.L; ++l) {
      auto g = product(count * o_.K, o_.d, o_.h, z_.data(), data_.up[l].data(), o_.d, hidden_.data());
      g.relu = true;
      kernels_.gemm(context_, g);
      down(count, l);
    }
  }

  // Calls candidates(begin, count), which leaves z in z_, and takes each vector's nearest.
  template <class Candidates>
  void in_batches(std::vector<int32_t>& codes, const Candidates& candidates) {
    for (int64_t begin = 0; begin < o_.n; begin += o_.batch) {
      const int64_t count = std::min(o_.batch, o_.n - begin);
      candidates(begin, count);
      for (int64_t i = 0; i < count; ++i) {
        float* const z = z_.data() + i * o_.K * o_.d;
        kernels_.binary(context_, BinaryOp::sub, o_.K, o_.d, {z, o_.d, 1}, {target_.data() + (begin + i) * o_.d, 0, 1},
                        z);
      }
      kernels_.row_squared_norm(context_, count * o_.K, o_.d, z_.data(), distances_.data());
      kernels_.row_argmin(context_, count, o_.K, distances_.data(), codes.data() + begin);
    }
  }

  const Options& o_;
  const Data& data_;
  const Context& context_;
  const Table<float>& kernels_;
  Floats z_table_, a_table_, target_, row_, up_row_;
  Floats concat_, z_, hidden_, distances_;  // of one batch's candidates
  Packed packed_;
  std::vector<Packed> slices_;
};

nlohmann::json run(const Options& o) {
  Context context = Context::cpu();
  context.threads = o.threads;
  const Data data = random_data(o);
  Search search(o, data, context);
  struct Version {
    const char* name;
    void (Search::*run)(std::vector<int32_t>&);
    double flop;  // per candidate
    std::vector<double> seconds;
  };
  const double d = static_cast<double>(o.d), h = static_cast<double>(o.h), L = static_cast<double>(o.L);
  Version versions[] = {{"direct", &Search::direct, 4 * d * d + 4 * L * d * h, {}},
                        {"codeword table", &Search::one_table, 4 * L * d * h, {}},
                        {"both tables", &Search::two_tables, 2 * d * h * (2 * L - 1), {}},
                        {"fused", &Search::fused, 2 * d * h * (2 * L - 1), {}},
                        {"fused, screened", &Search::screened, 2 * d * h * (2 * L - 1), {}}};
  std::vector<int32_t> expected(o.n), codes(o.n);
  search.direct(expected);
  for (int r = 0; r < o.repeats; ++r) {
    for (Version& v : versions) {
      const std::clock_t start = std::clock();
      (search.*v.run)(codes);
      v.seconds.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / o.threads);
      int64_t differ = 0;
      for (int64_t i = 0; i < o.n; ++i) differ += codes[i] != expected[i];
      qinco::check(differ * 100 <= o.n, "{}: {} of {} codes differ from the direct form's", v.name, differ, o.n);
    }
  }
  nlohmann::json rows = nlohmann::json::array();
  fmt::print("K={} d={} h={} L={}, {} thread(s), {}\n", o.K, o.d, o.h, o.L, o.threads, isa_name(active_isa()));
  fmt::print("{:<16} {:>14} {:>12} {:>10} {:>10}\n", "version", "FLOP/candidate", "vectors/s", "predicted", "measured");
  double first = 0;
  for (Version& v : versions) {
    std::sort(v.seconds.begin(), v.seconds.end());
    const double seconds = v.seconds[v.seconds.size() / 2];
    if (first == 0) first = seconds;
    const double rate = static_cast<double>(o.n) / seconds, predicted = versions[0].flop / v.flop;
    fmt::print("{:<16} {:>14.0f} {:>12.1f} {:>9.2f}x {:>9.2f}x\n", v.name, v.flop, rate, predicted, first / seconds);
    rows.push_back({{"version", v.name},
                    {"flop_per_candidate", v.flop},
                    {"vectors_per_second", rate},
                    {"predicted", predicted},
                    {"measured", first / seconds}});
  }
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"The candidate search with and without its savings"};
  app.add_option("--K", o.K, "Codewords")->check(CLI::PositiveNumber);
  app.add_option("--d", o.d, "Dimension")->check(CLI::PositiveNumber);
  app.add_option("--h", o.h, "Hidden width")->check(CLI::PositiveNumber);
  app.add_option("--L", o.L, "Residual blocks")->check(CLI::PositiveNumber);
  app.add_option("--n", o.n, "Vectors")->check(CLI::PositiveNumber);
  app.add_option("--batch", o.batch, "Vectors per batch of the versions that are not fused")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", o.threads, "Threads")->check(CLI::PositiveNumber);
  app.add_option("--repeats", o.repeats, "Timed repeats, of which the median is printed")->check(CLI::PositiveNumber);
  app.add_option("--json", o.json, "Write the table to this file as JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    const nlohmann::json rows = run(o);
    if (!o.json.empty()) {
      std::ofstream file(o.json);
      qinco::check(bool(file << rows.dump(2) << '\n'), "{}: cannot write", o.json);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
