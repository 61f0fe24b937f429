// Kernels over the rows of a matrix: limited by memory, but for the exponentials of the softmax family and top-k.
#include <fmt/format.h>

#include "bench/kernels/support.h"

namespace qinco::bench {

namespace {

constexpr int64_t kRows = 16384, kCols = 256, kN = kRows * kCols;
const std::string kShape = fmt::format("{}x{}", kRows, kCols);

Work moving(double arrays) {
  return {.bytes = arrays * sizeof(float) * static_cast<double>(kN)};
}

using RowKernel = void (*Table<float>::*)(const Context&, int64_t, int64_t, const float*, float*);

/// A kernel that reads [rows, cols] and writes `out_size` values; `arrays` of the matrix's size are moved.
void add_from_rows(const char* name, RowKernel kernel, int64_t out_size, double arrays) {
  add(name, kShape, moving(arrays), [=](const Context& context, const auto& table) {
    return [=, &context, &table, x = normal(kN), out = std::vector<float>(static_cast<size_t>(out_size))]() mutable {
      (table.*kernel)(context, kRows, kCols, x.data(), out.data());
    };
  });
}

using BackwardKernel = void (*Table<float>::*)(const Context&, int64_t, int64_t, const float*, const float*, float*);

void add_backward(const char* name, BackwardKernel kernel) {
  add(name, kShape, moving(3), [=](const Context& context, const auto& table) {
    return [=, &context, &table, y = normal(kN), dy = normal(kN), dx = std::vector<float>(kN)]() mutable {
      (table.*kernel)(context, kRows, kCols, y.data(), dy.data(), dx.data());
    };
  });
}

void add_distances() {
  add("row_squared_distance", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), y = normal(kCols), out = std::vector<float>(kRows)]() mutable {
      table.row_squared_distance(context, kRows, kCols, x.data(), y.data(), out.data());
    };
  });
}

void add_picks() {
  add("row_argmin", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), ids = std::vector<int32_t>(kRows)]() mutable {
      table.row_argmin(context, kRows, kCols, x.data(), ids.data());
    };
  });
  for (const int64_t k : {1, 10, 100})
    add("topk", fmt::format("{}_k{}", kShape, k), moving(1), [=](const Context& context, const auto& table) {
      const auto size = static_cast<size_t>(kRows * k);
      return [=, &context, &table, x = normal(kN), ids = std::vector<int32_t>(size),
              values = std::vector<float>(size)]() mutable {
        table.topk(context, kRows, kCols, k, x.data(), ids.data(), values.data());
      };
    });
  add("topk_merge", fmt::format("{}_k100", kShape), moving(1), [=](const Context& context, const auto& table) {
    const auto size = static_cast<size_t>(kRows * 100);
    return [=, &context, &table, x = normal(kN), ids = std::vector<int32_t>(size, 0),
            values = std::vector<float>(size, -2.0f)]() mutable {  // as far on in a search: hardly one enters
      table.topk_merge(context, kRows, kCols, 100, 100, x.data(), 100, ids.data(), values.data());
    };
  });
}

// A scan of n vectors, in whole blocks, for 16 queries, which visit the same list or, as far as the kernel knows, lists
// of their own; the rate counts the code bytes.
void add_scan(int64_t n, int64_t M, int64_t k, bool same_list) {
  constexpr int64_t nq = 16;
  add("scan", fmt::format("{}x{}_M{}_k{}_{}", nq, n, M, k, same_list ? "together" : "apart"),
      {.bytes = static_cast<double>(nq * n * M)}, [=](const Context& context, const auto& table) {
        const std::vector<int32_t> drawn = ids_below(n * M, 256);
        const auto results = static_cast<size_t>(nq * k);
        return [=, &context, &table, codes = std::vector<uint8_t>(drawn.begin(), drawn.end()),
                tables = normal(nq * M * 256), norms = normal(n), ids = std::vector<int64_t>(results),
                scores = std::vector<float>(results)]() mutable {
          const std::vector<kernels::ScanList<float>> lists(nq, {n, codes.data(), norms.data(), 0, 0});
          std::vector<kernels::ScanQuery<float>> queries;
          for (int64_t q = 0; q < nq; ++q)
            queries.push_back({tables.data() + q * M * 256, 1, &lists[same_list ? 0 : static_cast<size_t>(q)]});
          table.scan(context, {nq, M, k, queries.data(), ids.data(), scores.data()});
        };
      });
}

void add_gathers() {
  add("gather_rows", kShape, moving(2), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), ids = ids_below(kRows, kRows), out = std::vector<float>(kN)]() mutable {
      table.gather_rows(context, kRows, kCols, x.data(), ids.data(), out.data());
    };
  });
  add("scatter_add_rows", fmt::format("{}_into_256", kShape), moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), ids = ids_below(kRows, 256),
            out = std::vector<float>(256 * kCols)]() mutable {
      table.scatter_add_rows(context, kRows, kCols, 256, ids.data(), x.data(), out.data());
    };
  });
}

// A sum of 16 codewords of d = kCols for each row; and of 7 rows of tables that no cache holds, in bfloat16 too.
void add_sums() {
  constexpr int64_t M = 16;
  constexpr int64_t kTables = 7, kFarRows = 1 << 16, n = 1 << 14;
  for (const bool rounded : {false, true})
    add("gather_sum", fmt::format("{}x{}_far{}", n, kCols, rounded ? "_bf16" : ""),
        {.bytes = static_cast<double>(n * kCols) * (kTables * (rounded ? 2.0 : 4.0) + 4.0)},
        [=](const Context& context, const auto& table) {
          const int64_t values = kTables * kFarRows * kCols;
          return [=, &context, &table, tables = std::vector<float>(static_cast<size_t>(rounded ? 0 : values), 1.0f),
                  halves = std::vector<uint16_t>(static_cast<size_t>(rounded ? values : 0), 0x3f80),  // 1
                  codes = ids_below(n * kTables, kFarRows), out = std::vector<float>(n * kCols)]() mutable {
            table.gather_sum(context, {.n = n,
                                       .M = kTables,
                                       .K = kFarRows,
                                       .d = kCols,
                                       .tables = rounded ? nullptr : tables.data(),
                                       .rounded_tables = rounded ? halves.data() : nullptr,
                                       .codes = codes.data(),
                                       .codes_ld = kTables,
                                       .out = out.data()});
          };
        });
  add("gather_sum", fmt::format("{}_M{}", kShape, M), moving(static_cast<double>(M + 1)),
      [](const Context& context, const auto& table) {
        return [&context, &table, tables = normal(M * 256 * kCols), codes = ids_below(kRows * M, 256),
                out = std::vector<float>(kN)]() mutable {
          table.gather_sum(context, {.n = kRows,
                                     .M = M,
                                     .K = 256,
                                     .d = kCols,
                                     .tables = tables.data(),
                                     .codes = codes.data(),
                                     .codes_ld = M,
                                     .out = out.data()});
        };
      });
}

// The picks of a beam of 4 with 4 candidates each, after 7 steps.
void add_beams() {
  constexpr int64_t n = kN / 64, width = 4, candidates = 4, steps = 7;
  add("extend_beams", fmt::format("{}x{}", n, width), {.bytes = 4.0 * n * width * (2 * steps + 4)},
      [](const Context& context, const auto& table) {
        return [&context, &table, codes = ids_below(steps * n * width, 256), tried = ids_below(n * width * 4, 256),
                picks = ids_below(n * width, width * candidates), pairs = std::vector<int32_t>(n * width),
                longer = std::vector<int32_t>((steps + 1) * n * width)]() mutable {
          table.extend_beams(context, {n, width, candidates, width, steps, codes.data(), tried.data(), picks.data(),
                                       pairs.data(), longer.data()});
        };
      });
}

void add_norms() {
  add("layer_norm", kShape, moving(2), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), gamma = normal(kCols), beta = normal(kCols), y = std::vector<float>(kN),
            mean = std::vector<float>(kRows), rstd = std::vector<float>(kRows)]() mutable {
      table.layer_norm(context, kRows, kCols, x.data(), gamma.data(), beta.data(), 1e-5, y.data(), mean.data(),
                       rstd.data());
    };
  });
  add("layer_norm_backward", kShape, moving(3), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), dy = normal(kN), gamma = normal(kCols), mean = normal(kRows),
            rstd = normal(kRows), dx = std::vector<float>(kN), dgamma = std::vector<float>(kCols),
            dbeta = std::vector<float>(kCols)]() mutable {
      table.layer_norm_backward(context, kRows, kCols, x.data(), gamma.data(), mean.data(), rstd.data(), dy.data(),
                                dx.data(), dgamma.data(), dbeta.data());
    };
  });
}

}  // namespace

void add_row_kernels() {
  add_from_rows("row_sum", &Table<float>::row_sum, kRows, 1);
  add_from_rows("column_sum", &Table<float>::column_sum, kCols, 1);
  add_from_rows("row_squared_norm", &Table<float>::row_squared_norm, kRows, 1);
  add_distances();
  add_from_rows("log_sum_exp", &Table<float>::log_sum_exp, kRows, 1);
  add_from_rows("softmax", &Table<float>::softmax, kN, 2);
  add_from_rows("log_softmax", &Table<float>::log_softmax, kN, 2);
  add_backward("softmax_backward", &Table<float>::softmax_backward);
  add_backward("log_softmax_backward", &Table<float>::log_softmax_backward);
  add_picks();
  for (const bool same_list : {true, false}) {
    for (const int64_t M : {8, 16}) add_scan(100'000, M, 100, same_list);
    for (const int64_t M : {8, 9, 16}) add_scan(500'000, M, 10, same_list);
  }
  add_gathers();
  add_sums();
  add_beams();
  add_norms();
}

}  // namespace qinco::bench
