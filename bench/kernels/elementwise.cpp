// Element-wise kernels, optimisers, copies and whole-array reductions: limited by memory, so their arrays are larger
// than the second-level cache.
#include <array>
#include <cmath>
#include <fmt/format.h>

#include "bench/kernels/support.h"

namespace qinco::bench {

namespace {

constexpr int64_t kN = int64_t{1} << 22;
constexpr int64_t kRows = 4096, kCols = kN / kRows;
const std::string kShape = fmt::format("{}", kN);

Work moving(double arrays) {
  return {.bytes = arrays * sizeof(float) * static_cast<double>(kN)};
}

void add_unary(const char* name, kernels::UnaryOp op) {
  add("unary", fmt::format("{}/{}", name, kShape), moving(2), [=](const Context& context, const auto& table) {
    std::vector<float> x = normal(kN);
    for (float& v : x) v = op == kernels::UnaryOp::log || op == kernels::UnaryOp::sqrt ? std::fabs(v) : v;
    return [=, &context, &table, x = std::move(x), y = std::vector<float>(kN)]() mutable {
      table.unary(context, op, kN, x.data(), y.data());
    };
  });
  // x or y (whichever the op reads) and dy in, dx out; neg reads dy only, which the rate then understates.
  add("unary_backward", fmt::format("{}/{}", name, kShape), moving(3), [=](const Context& context, const auto& table) {
    std::vector<float> x = normal(kN);
    for (float& v : x) v = std::fabs(v);
    return [=, &context, &table, x = std::move(x), dy = normal(kN), dx = std::vector<float>(kN)]() mutable {
      table.unary_backward(context, op, kN, x.data(), x.data(), dy.data(), dx.data());
    };
  });
}

void add_binary(const char* name, kernels::BinaryOp op) {
  for (const bool broadcast : {false, true})
    add("binary", fmt::format("{}{}/{}x{}", name, broadcast ? "_row" : "", kRows, kCols), moving(broadcast ? 2 : 3),
        [=](const Context& context, const auto& table) {
          return [=, &context, &table, a = normal(kN), b = normal(kN), out = std::vector<float>(kN)]() mutable {
            table.binary(context, op, kRows, kCols, {a.data(), kCols, 1}, {b.data(), broadcast ? 0 : kCols, 1},
                         out.data());
          };
        });
}

void add_conversion(const std::string& half, decltype(Table<float>::to_f16) Table<float>::*to,
                    decltype(Table<float>::from_f16) Table<float>::*from) {
  add("to_" + half, kShape, moving(1.5), [to](const Context& context, const auto& table) {
    return [=, &context, &table, x = normal(kN), y = std::vector<uint16_t>(kN)]() mutable {
      (table.*to)(context, kN, x.data(), y.data());
    };
  });
  add("from_" + half, kShape, moving(1.5), [from](const Context& context, const auto& table) {
    return [=, &context, &table, x = std::vector<uint16_t>(kN, 0x3c00), y = normal(kN)]() mutable {
      (table.*from)(context, kN, x.data(), y.data());
    };
  });
}

void add_copies() {
  add("axpby", kShape, moving(3), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN), y = normal(kN)]() mutable {
      table.axpby(context, kN, 0.5f, x.data(), 0.5f, y.data());
    };
  });
  add("fill", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, y = normal(kN)]() mutable { table.fill(context, kN, 1.0f, y.data()); };
  });
  add("uniform", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, y = normal(kN)]() mutable { table.uniform(context, {}, kN, -1, 1, y.data()); };
  });
  add("dropout_mask", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, y = normal(kN)]() mutable { table.dropout_mask(context, {}, kN, 0.5, y.data()); };
  });
  add("normal", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, y = normal(kN)]() mutable { table.normal(context, {}, kN, 0, 1, y.data()); };
  });
  add_conversion("f16", &Table<float>::to_f16, &Table<float>::from_f16);
  add_conversion("bf16", &Table<float>::to_bf16, &Table<float>::from_bf16);
  add("strided_copy", fmt::format("transpose_{}x{}", kRows, kCols), moving(2),
      [](const Context& context, const auto& table) {
        return [&context, &table, x = normal(kN), y = std::vector<float>(kN)]() mutable {
          const std::array<int64_t, 2> shape = {kCols, kRows}, strides = {1, kCols};
          table.strided_copy(context, 2, shape.data(), strides.data(), x.data(), y.data());
        };
      });
  add("strided_write", fmt::format("into_every_second_row_{}x{}", kRows, kCols), moving(2),
      [](const Context& context, const auto& table) {
        return [&context, &table, x = normal(kN), y = std::vector<float>(2 * kN)]() mutable {
          const std::array<int64_t, 2> shape = {kRows, kCols}, strides = {2 * kCols, 1};
          table.strided_write(context, 2, shape.data(), strides.data(), x.data(), y.data());
        };
      });
}

void add_sums() {
  add("sum", kShape, moving(1), [](const Context& context, const auto& table) {
    return [&context, &table, x = normal(kN)] { benchmark::DoNotOptimize(table.sum(context, kN, x.data())); };
  });
  add("sum_squared_difference", kShape, moving(2), [](const Context& context, const auto& table) {
    return [&context, &table, a = normal(kN), b = std::vector<float>(kN)] {
      benchmark::DoNotOptimize(table.sum_squared_difference(context, kN, a.data(), b.data()));
    };
  });
}

void add_optimisers() {
  for (const bool decoupled : {false, true})  // p, m, v: in and out; g: in
    add("adam", fmt::format("{}/{}", decoupled ? "adamw" : "adam", kShape), moving(7),
        [=](const Context& context, const auto& table) {
          const kernels::AdamStep step{.weight_decay = 0.01, .decoupled = decoupled, .step = 3};
          return [=, &context, &table, p = normal(kN), g = normal(kN), m = std::vector<float>(kN),
                  v = std::vector<float>(kN)]() mutable {
            const qinco::kernels::AdamParameter<float> all{kN, p.data(), g.data(), m.data(), v.data()};
            table.adam(context, step, 1, &all);
          };
        });
  add("sgd", fmt::format("momentum/{}", kShape), moving(5), [](const Context& context, const auto& table) {
    const kernels::SgdStep step{.lr = 1e-6, .momentum = 0.9};
    return [=, &context, &table, p = normal(kN), g = normal(kN), buf = std::vector<float>(kN)]() mutable {
      table.sgd(context, step, kN, p.data(), g.data(), buf.data());
    };
  });
}

}  // namespace

void add_elementwise_kernels() {
#define QINCO_ADD(op) add_unary(#op, kernels::UnaryOp::op);
  QINCO_UNARY_OPS(QINCO_ADD)
#undef QINCO_ADD
#define QINCO_ADD(op) add_binary(#op, kernels::BinaryOp::op);
  QINCO_BINARY_OPS(QINCO_ADD)
#undef QINCO_ADD
  add_copies();
  add_sums();
  add_optimisers();
}

}  // namespace qinco::bench
