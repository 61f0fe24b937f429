// gemm, linear, nearest and the candidate search: limited by multiply-adds.
#include <fmt/format.h>
#include <memory>
#include <new>

#include "bench/kernels/support.h"

namespace qinco::bench {

namespace {

using kernels::Precision;

struct AlignedFree {
  void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
};
using AlignedFloats = std::shared_ptr<float>;

AlignedFloats aligned(int64_t size) {
  const auto bytes = static_cast<size_t>(size) * sizeof(float);
  return {static_cast<float*>(::operator new (bytes, std::align_val_t{64})), AlignedFree()};
}

void add_gemm(int64_t m, int64_t n, int64_t k, bool trans_a, bool trans_b, const char* epilogue = "",
              Precision precision = Precision::exact) {
  const auto letter = [](bool transposed) { return transposed ? "t" : "n"; };
  const bool fast = precision == Precision::fast;
  const std::string shape =
      fmt::format("{}x{}x{}:{}{}{}{}", m, n, k, letter(trans_a), letter(trans_b), epilogue, fast ? "_fast" : "");
  const bool relu = *epilogue != 0;
  add("gemm", shape, {.flops = 2.0 * static_cast<double>(m * n * k), .products = fast},
      [=](const Context& context, const auto& table) {
        kernels::Gemm<float> g;
        g.m = m, g.n = n, g.k = k;
        g.lda = trans_a ? m : k, g.trans_a = trans_a, g.ldb = trans_b ? k : n, g.trans_b = trans_b, g.ldc = n;
        g.relu = relu, g.precision = precision;
        return [&context, &table, g, relu, a = normal(m * k), b = normal(k * n), c = normal(m * n),
                bias = normal(n)]() mutable {
          g.a = a.data(), g.b = b.data(), g.c = c.data();
          if (relu) g.bias = bias.data();
          table.gemm(context, g);
        };
      });
}

void add_nearest(int64_t n, int64_t d, int64_t K) {
  add("nearest", fmt::format("n{}_d{}_K{}", n, d, K), {.flops = 2.0 * static_cast<double>(n * d * K)},
      [=](const Context& context, const auto& table) {
        return [=, &context, &table, x = normal(n * d), c = normal(K * d),
                ids = std::vector<int32_t>(static_cast<size_t>(n))]() mutable {
          table.nearest(context, n, d, K, x.data(), c.data(), ids.data(), nullptr);
        };
      });
}

void add_linear(int64_t m, int64_t n, int64_t k, Precision precision) {
  const std::string shape = fmt::format("{}x{}x{}_{}", m, n, k, name(precision));
  const auto pack = [n, k, precision](const Context& context, const Table<float>& table) {
    AlignedFloats packed = aligned(table.linear_packed_size(n, k, precision));
    table.linear_pack(context, n, k, normal(n * k).data(), k, precision, packed.get());
    return packed;
  };
  add("linear", shape, {.flops = 2.0 * static_cast<double>(m * n * k), .products = true},
      [=](const Context& context, const auto& table) {
        return [=, &context, &table, packed = pack(context, table), x = normal(m * k), y = normal(m * n)]() mutable {
          kernels::Linear<float> l;
          l.m = m, l.n = n, l.k = k;
          l.x = x.data(), l.ldx = k, l.packed = packed.get(), l.y = y.data(), l.ldy = n;
          l.precision = precision;
          table.linear(context, l);
        };
      });
  add("linear_pack", shape, {.bytes = 8.0 * static_cast<double>(n * k)},
      [=](const Context& context, const auto& table) {
        return [=, &context, &table, w = normal(n * k), packed = aligned(table.linear_packed_size(n, k, precision))] {
          table.linear_pack(context, n, k, w.data(), k, precision, packed.get());
        };
      });
  add("linear_packed_size", shape, {}, [=](const Context&, const auto& table) {
    return [=, &table] { benchmark::DoNotOptimize(table.linear_packed_size(n, k, precision)); };
  });
}

/// One step's weights and the vectors to search for.
struct CandidateProblem {
  int64_t n, K, d, h, L;
  std::vector<float> z_table, a_table, weights, target, row, up_row;
  std::vector<const float*> up, down;
  std::vector<int32_t> codes;
  AlignedFloats packed;

  CandidateProblem(int64_t n_, int64_t K_, int64_t d_, int64_t h_, int64_t L_, const Table<float>& table)
      : n(n_),
        K(K_),
        d(d_),
        h(h_),
        L(L_),
        z_table(normal(K * d)),
        a_table(normal(K * h)),
        weights(normal(h * d)),
        target(normal(n * d)),
        row(normal(n * d)),
        up_row(normal(n * h)),
        codes(static_cast<size_t>(n)),
        packed(aligned(table.candidate_packed_size(K, d, h, L))) {
    for (float& w : weights) w *= 0.05f;
    for (int64_t l = 0; l < L; ++l) up.push_back(weights.data()), down.push_back(weights.data());
  }
  kernels::CandidateStep<float> step() const {
    return {K, d, h, L, z_table.data(), a_table.data(), up.data(), down.data()};
  }
};

void add_candidate(int64_t n, int64_t K, int64_t d, int64_t h, int64_t L) {
  const std::string shape = fmt::format("n{}_K{}_d{}_h{}_L{}", n, K, d, h, L);
  const double flops = 2.0 * static_cast<double>(n * K * d * h * (2 * L - 1));
  add("candidate_search", shape, {.flops = flops, .products = true}, [=](const Context& context, const auto& table) {
    auto p = std::make_shared<CandidateProblem>(n, K, d, h, L, table);
    table.candidate_pack(context, p->step(), p->packed.get());
    return [&context, &table, p] {
      table.candidate_search(context, p->K, p->d, p->h, p->L, p->packed.get(),
                             {p->n, p->target.data(), p->row.data(), p->up_row.data(), p->codes.data(), nullptr});
    };
  });
  const double floats = static_cast<double>(K * d + K * h + (2 * L - 1) * d * h);
  add("candidate_pack", shape, {.bytes = 8 * floats}, [=](const Context& context, const auto& table) {
    auto p = std::make_shared<CandidateProblem>(1, K, d, h, L, table);
    return [&context, &table, p] { table.candidate_pack(context, p->step(), p->packed.get()); };
  });
  add("candidate_packed_size", shape, {}, [=](const Context&, const auto& table) {
    return [=, &table] { benchmark::DoNotOptimize(table.candidate_packed_size(K, d, h, L)); };
  });
}

// The same for some candidates of each vector.
struct ScreenProblem : CandidateProblem {
  std::vector<int32_t> ids;
  std::vector<float> distances, margins;
  AlignedFloats screen;
  ScreenProblem(int64_t candidates, int64_t n_, int64_t K_, int64_t d_, int64_t h_, int64_t L_,
                const Table<float>& table)
      : CandidateProblem(n_, K_, d_, h_, L_, table),
        ids(ids_below(n * candidates, static_cast<int32_t>(K))),
        distances(ids.size()),
        margins(ids.size()),
        screen(aligned(table.candidate_screen_size(K, d, h, L))) {}
};

void add_candidate_screen(int64_t n, int64_t candidates, int64_t K, int64_t d, int64_t h, int64_t L) {
  const std::string shape = fmt::format("n{}x{}_K{}_d{}_h{}_L{}", n, candidates, K, d, h, L);
  const double flops = 2.0 * static_cast<double>(n * candidates * d * h * (2 * L - 1));
  add("candidate_screen", shape, {.flops = flops, .products = true},
      [=](const Context& context, const auto& table) -> Call {
        if (!table.candidate_screen) return {};
        auto p = std::make_shared<ScreenProblem>(candidates, n, K, d, h, L, table);
        table.candidate_screen_pack(context, p->step(), p->screen.get());
        return [=, &context, &table] {
          table.candidate_screen(context, K, d, h, L, p->screen.get(),
                                 {n, candidates, p->ids.data(), p->z_table.data(), p->a_table.data(), p->target.data(),
                                  p->row.data(), p->up_row.data(), p->distances.data(), p->margins.data()});
        };
      });
  const double floats = static_cast<double>(K * (d + h) + (2 * L - 1) * d * h);
  add("candidate_screen_pack", shape, {.bytes = 4 * floats}, [=](const Context& context, const auto& table) -> Call {
    if (!table.candidate_screen) return {};
    auto p = std::make_shared<ScreenProblem>(1, 1, K, d, h, L, table);
    return [=, &context, &table] { table.candidate_screen_pack(context, p->step(), p->screen.get()); };
  });
  add("candidate_screen_size", shape, {}, [=](const Context&, const auto& table) -> Call {
    if (!table.candidate_screen) return {};
    return [=, &table] { benchmark::DoNotOptimize(table.candidate_screen_size(K, d, h, L)); };
  });
}

}  // namespace

void add_matrix_kernels() {
  add_gemm(1024, 256, 128, false, true);
  add_gemm(1024, 256, 128, false, true, "+bias+relu");
  add_gemm(1024, 128, 256, false, false);
  add_gemm(256, 128, 1024, true, false);
  // forward, dx and dW again, as in training with --precision fast
  add_gemm(1024, 256, 128, false, true, "+bias+relu", Precision::fast);
  add_gemm(1024, 128, 256, false, false, "", Precision::fast);
  add_gemm(256, 128, 1024, true, false, "", Precision::fast);
  add_gemm(1024, 256, 784, false, true);
  add_gemm(32768, 128, 256, false, false);
  add_gemm(512, 512, 512, false, false);
  add_gemm(1, 1024, 1024, false, true);
  add_gemm(8, 8, 8, false, false);
  for (const Precision precision : {Precision::exact, Precision::fast}) {
    add_linear(504, 256, 128, precision);
    add_linear(504, 128, 256, precision);
    add_linear(504, 4096, 128, precision);
  }
  add_nearest(1024, 128, 256);
  add_nearest(1024, 128, 4096);
  add_nearest(128, 128, 65536);
  add_candidate(64, 256, 128, 256, 2);
  add_candidate_screen(64, 16, 256, 128, 256, 2);
}

}  // namespace qinco::bench
