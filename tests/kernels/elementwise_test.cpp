// unary, unary_backward, binary, axpby, fill against the reference, which computes in double and rounds once.
#include <doctest/doctest.h>

#include "kernels/functors.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(unary);
QINCO_COVERS(unary_backward);
QINCO_COVERS(binary);
QINCO_COVERS(axpby);
QINCO_COVERS(fill);

struct NamedUnary {
  UnaryOp op;
  const char* name;
};
#define QINCO_NAMED(op) {UnaryOp::op, #op},
constexpr NamedUnary kUnaryOps[] = {QINCO_UNARY_OPS(QINCO_NAMED)};
#undef QINCO_NAMED

struct NamedBinary {
  BinaryOp op;
  const char* name;
};
#define QINCO_NAMED(op) {BinaryOp::op, #op},
constexpr NamedBinary kBinaryOps[] = {QINCO_BINARY_OPS(QINCO_NAMED)};
#undef QINCO_NAMED

// Distance between floats of y's size, at least the smallest denormal.
double ulp(double y) {
  int exponent = 0;
  std::frexp(y, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}

// The error that op(x) = y may have. The correctly rounded operations must be exact. exp, log and tanh state their ulps
// in simd_math.h; the sigmoid adds a sum and a quotient. gelu's 1 + erf cancels for x < 0: its error is one of x. silu
// is a product with the sigmoid, and with that one's error, which is no smaller than a denormal's. CUDA's functions are
// off by up to 2 ulps (CUDA C++ Programming Guide, mathematical functions).
double unary_bound(const Version& version, UnaryOp op, double x, double y) {
  const double scale = version.cuda ? 2 : 1;
  switch (op) {
    case UnaryOp::exp:
    case UnaryOp::log:
      return scale * 1.25 * ulp(y);
    case UnaryOp::tanh:
      return scale * 1.75 * ulp(y);
    case UnaryOp::sigmoid:
      return scale * 3 * ulp(y);
    case UnaryOp::silu:
      return scale * (4 * ulp(y) + 3 * std::fabs(x) * 0x1p-149);
    case UnaryOp::gelu:
      return scale * 2 * ulp(x);
    default:
      return 0;
  }
}

// The derivatives of tanh, sigmoid, gelu and silu are of size 1 and made of a few roundings of terms of that size.
double backward_bound(UnaryOp op, double dy) {
  const bool rounds = op == UnaryOp::tanh || op == UnaryOp::sigmoid || op == UnaryOp::gelu || op == UnaryOp::silu;
  return rounds ? 6 * kEpsilon * std::fabs(dy) : 0;
}

// What an op of two numbers must be, to the last bit.
float binary_value(BinaryOp op, float x, float y) {
  switch (op) {
    case BinaryOp::add:
      return x + y;
    case BinaryOp::sub:
      return x - y;
    case BinaryOp::mul:
      return x * y;
    case BinaryOp::div:
      return x / y;
    case BinaryOp::maximum:
      return std::max(x, y);
    case BinaryOp::minimum:
      return std::min(x, y);
  }
  return kNan;
}

std::vector<float> arguments(UnaryOp op, int64_t n) {
  std::vector<float> x = Data(7).normal(n, 0, 3);
  if (op == UnaryOp::log || op == UnaryOp::sqrt)
    for (float& value : x) value = std::fabs(value) + 0.01f;
  return x;
}

std::vector<float> run_unary(const Table<float>& t, const Context& context, UnaryOp op, const std::vector<float>& x,
                             int64_t offset = 1) {
  Buffer<float> in(x, offset), out(static_cast<int64_t>(x.size()), offset + 2);
  t.unary(context, op, in.size(), in.data(), out.data());
  CHECK(out.guards_hold());
  Buffer<float> both(x, offset);
  t.unary(context, op, both.size(), both.data(), both.data());
  CHECK(same_bits(both.values(), out.values()));
  return out.values();
}

// What the op needs of x and y; the other is null.
std::vector<float> run_backward(const Table<float>& t, const Context& context, UnaryOp op, const std::vector<float>& x,
                                const std::vector<float>& y, const std::vector<float>& dy, int64_t apart = 1) {
  Buffer<float> xs(x, apart), ys(y, 2 * apart), dys(dy, 3 * apart), dx(static_cast<int64_t>(x.size()), 4 * apart);
  functors::visit_unary(op, [&](auto f) {
    t.unary_backward(context, op, xs.size(), f.kReadsX ? xs.data() : nullptr, f.kReadsY ? ys.data() : nullptr,
                     dys.data(), dx.data());
    t.unary_backward(context, op, xs.size(), xs.data(), ys.data(), dys.data(), dys.data());
  });
  CHECK(dx.guards_hold());
  CHECK(same_bits(dys.values(), dx.values()));
  return dx.values();
}

}  // namespace

TEST_CASE("unary: every op meets its bound on tail sizes") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const auto& [op, name] : kUnaryOps) {
      for (const int64_t n : kTailSizes) {
        const std::vector<float> x = arguments(op, n);
        const std::vector<float> expected = run_unary(reference, TestContext(), op, x);
        const auto bound = [&, op = op](int64_t i) { return unary_bound(version, op, x[i], expected[i]); };
        for (const int64_t offset : {0, 1, 5})
          check_close(run_unary(t, TestContext(), op, x, offset), expected, bound,
                      fmt::format("{} {} n={}", version.name, name, n));
      }
    }
  });
}

TEST_CASE("unary: floats of every size, zeros, infinities and NaN") {
  // Every 9973rd bit pattern: 430,000 floats of both signs and all exponents, denormals and NaN included.
  std::vector<float> x = {0.0f, -0.0f, kInf, -kInf, kNan, 88.72283f, 88.72284f, -103.97f, -103.98f, 0x1p-149f, 1, -1};
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 9973) {
    const auto pattern = static_cast<uint32_t>(bits);
    float value = 0;
    std::memcpy(&value, &pattern, sizeof value);
    x.push_back(value);
  }
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const auto& [op, name] : kUnaryOps) {
      const std::vector<float> expected = run_unary(reference, TestContext(), op, x);
      const auto bound = [&, op = op](int64_t i) { return unary_bound(version, op, x[i], expected[i]); };
      check_close(run_unary(t, TestContext(), op, x), expected, bound, fmt::format("{} {}", version.name, name));
    }
  });
}

TEST_CASE("unary: values worked out by hand") {
  for_each_version_and_reference([](const Table<float>& t, const Version&) {
    const std::vector<float> x = {-2, -0.5f, 0, 1, kNan};
    check_equal(run_unary(t, TestContext(), UnaryOp::neg, x), {2, 0.5f, 0, -1, kNan}, "neg");
    check_equal(run_unary(t, TestContext(), UnaryOp::relu, x), {0, 0, 0, 1, kNan}, "relu");
    check_equal(run_unary(t, TestContext(), UnaryOp::abs, x), {2, 0.5f, 0, 1, kNan}, "abs");
    check_equal(run_backward(t, TestContext(), UnaryOp::abs, x, x, {3, 4, 5, 6, 7}), {-3, -4, 0, 6, 0}, "abs backward");
    check_equal(run_unary(t, TestContext(), UnaryOp::square, x), {4, 0.25f, 0, 1, kNan}, "square");
    check_equal(run_unary(t, TestContext(), UnaryOp::sqrt, x), {kNan, kNan, 0, 1, kNan}, "sqrt");
    const auto near = [](int64_t) { return 1e-7; };
    check_close(
        run_unary(t, TestContext(), UnaryOp::gelu, {-1, 0, 2}), std::vector{-0.158655254, 0.0, 1.954499736},
        [](int64_t) { return 3e-7; }, "gelu");
    check_close(run_unary(t, TestContext(), UnaryOp::sigmoid, {-1000, 0, 1, 1000}),
                std::vector{0.0, 0.5, 0.731058579, 1.0}, near, "sigmoid");
    check_close(run_unary(t, TestContext(), UnaryOp::silu, {-1000, -0.5f, 0, 1, 1000}),
                std::vector{0.0, -0.188770334, 0.0, 0.731058579, 1000.0}, near, "silu");
    check_close(run_unary(t, TestContext(), UnaryOp::tanh, {-0.5f, 20}), std::vector{-0.462117157, 1.0}, near, "tanh");
  });
}

TEST_CASE("unary_backward: every op meets its bound and reads only what it says") {
  const Table<float>& reference = table<float>(Isa::reference);
  for_each_version([&](const Table<float>& t, const Version& version) {
    for (const auto& [op, name] : kUnaryOps) {
      for (const int64_t n : kTailSizes) {
        const std::vector<float> x = arguments(op, n), dy = Data(8).normal(n);
        const std::vector<float> y = run_unary(reference, TestContext(), op, x);
        const auto bound = [&, op = op](int64_t i) { return backward_bound(op, dy[i]); };
        const std::vector<float> expected = run_backward(reference, TestContext(), op, x, y, dy);
        for (const int64_t apart : {0, 1})  // aligned, and not
          check_close(run_backward(t, TestContext(), op, x, y, dy, apart), expected, bound,
                      fmt::format("{} {} n={}", version.name, name, n));
      }
    }
  });
}

TEST_CASE("unary and unary_backward: the same bits at any thread count") {
  const int64_t n = 100'003;
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const auto& [op, name] : kUnaryOps) {
      const std::vector<float> x = arguments(op, n);
      const auto forward = [&, op = op](const Context& context) { return run_unary(t, context, op, x); };
      const auto backward = [&, op = op](const Context& context) { return run_backward(t, context, op, x, x, x); };
      check_any_thread_count(forward, fmt::format("{} {}", version.name, name));
      check_any_thread_count(backward, fmt::format("{} {} backward", version.name, name));
    }
  });
}

namespace {

// The ways an operand can be broadcast over [rows,cols].
enum class Layout { full, padded_rows, oddly_padded_rows, row, column, strided_column, scalar };
constexpr Layout kLayouts[] = {Layout::full,  Layout::padded_rows, Layout::oddly_padded_rows,
                               Layout::row,   Layout::column,      Layout::strided_column,
                               Layout::scalar};

constexpr int64_t kPadding = 4, kOddPadding = 5;

Operand<float> make_operand(Layout layout, const float* data, int64_t cols) {
  switch (layout) {
    case Layout::full:
      return {data, cols, 1};
    case Layout::padded_rows:
      return {data, cols + kPadding, 1};
    case Layout::oddly_padded_rows:
      return {data, cols + kOddPadding, 1};
    case Layout::row:
      return {data, 0, 1};
    case Layout::column:
      return {data, 1, 0};
    case Layout::strided_column:
      return {data, 2, 0};
    case Layout::scalar:
      break;
  }
  return {data, 0, 0};
}

}  // namespace

TEST_CASE("binary: every op with every broadcast is exact") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const NamedBinary& named : kBinaryOps)
      for (const Layout left : kLayouts)
        for (const Layout right : kLayouts)
          for (const auto& [rows, apart] : {std::pair<int64_t, int64_t>{1, 0}, {1, 1}, {3, 1}, {17, 0}, {17, 1}})
            for (const int64_t cols : kTailSizes) {
              const int64_t extent = rows * (cols + kOddPadding);
              Buffer<float> lefts(Data(9).normal(extent), apart), rights(Data(10).normal(extent), 2 * apart);
              Buffer<float> out(rows * cols, 3 * apart);
              const Operand<float> a = make_operand(left, lefts.data(), cols);
              const Operand<float> b = make_operand(right, rights.data(), cols);
              t.binary(TestContext(), named.op, rows, cols, a, b, out.data());
              std::vector<float> expected;
              for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < cols; ++j) {
                  const float x = a.data[i * a.row_stride + j * a.col_stride];
                  const float y = b.data[i * b.row_stride + j * b.col_stride];
                  expected.push_back(binary_value(named.op, x, y));
                }
              const bool ok = out.guards_hold() && same_bits(out.values(), expected);
              const std::string what = fmt::format("{} {} rows={} cols={} layouts {} {}", version.name, named.name,
                                                   rows, cols, static_cast<int>(left), static_cast<int>(right));
              CHECK_MESSAGE(ok, what);
            }
  });
}

TEST_CASE("binary: maximum and minimum of infinities, zeros and NaN, in whole vectors and in tails") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const std::vector<float> a = {kNan, 1, kNan, kInf, -kInf, kInf, 2, 0}, b = {1, kNan, kNan, -kInf, kInf, kInf, 2, 0};
    for (const int64_t times : {1, 2, 9}) {
      std::vector<float> as, bs, larger, smaller;
      for (int64_t i = 0; i < 8 * times - 1; ++i) {
        const auto at = static_cast<size_t>(i % 8);
        as.push_back(a[at]);
        bs.push_back(b[at]);
        larger.push_back(at < 3 ? kNan : std::max(a[at], b[at]));
        smaller.push_back(at < 3 ? kNan : std::min(a[at], b[at]));
      }
      const auto run = [&](BinaryOp op) {
        Buffer<float> x(as), y(bs), out(static_cast<int64_t>(as.size()));
        t.binary(TestContext(), op, 1, out.size(), {x.data(), out.size(), 1}, {y.data(), out.size(), 1}, out.data());
        return out.values();
      };
      check_equal(run(BinaryOp::maximum), larger, version.name);
      check_equal(run(BinaryOp::minimum), smaller, version.name);
    }
  });
}

TEST_CASE("binary: in place, empty, and the same bits at any thread count") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const int64_t rows = 301, cols = 257;
    const std::vector<float> a = Data(1).normal(rows * cols), row = Data(2).normal(cols);
    const auto fresh = [&](const Context& context) {
      Buffer<float> x(a), bias(row, 2), out(rows * cols, 3);
      t.binary(context, BinaryOp::add, rows, cols, {x.data(), cols, 1}, {bias.data(), 0, 1}, out.data());
      return out.values();
    };
    check_any_thread_count(fresh, version.name);
    Buffer<float> x(a), bias(row, 2);
    t.binary(TestContext(2), BinaryOp::add, rows, cols, {x.data(), cols, 1}, {bias.data(), 0, 1}, x.data());
    CHECK(same_bits(x.values(), fresh(TestContext(1))));

    Buffer<float> untouched(4);
    t.binary(TestContext(), BinaryOp::add, 0, 4, {x.data(), 4, 1}, {x.data(), 4, 1}, untouched.data());
    t.binary(TestContext(), BinaryOp::add, 4, 0, {x.data(), 0, 1}, {x.data(), 0, 1}, untouched.data());
    check_equal(untouched.values(), {kNan, kNan, kNan, kNan}, "empty");
  });
}

TEST_CASE("axpby: exact on integers, two roundings else, does not read y when beta is 0") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t n : kTailSizes) {
      int64_t apart = 0;
      const auto run = [&](const std::vector<float>& x, const std::vector<float>& y, float alpha, float beta) {
        Buffer<float> from(x, apart), to(y, 2 * apart);
        t.axpby(TestContext(), n, alpha, from.data(), beta, to.data());
        CHECK(to.guards_hold());
        return to.values();
      };
      const std::string what = fmt::format("{} n={}", version.name, n);
      const std::vector<float> k = Data(3).integers(n), l = Data(4).integers(n), x = Data(5).normal(n);
      std::vector<float> sum(k), twice(k);
      std::vector<double> mixed(x.begin(), x.end());
      for (size_t i = 0; i < sum.size(); ++i) {
        sum[i] = 2 * k[i] - 3 * l[i];
        twice[i] = 2 * k[i];
        mixed[i] = 0.3f * static_cast<double>(x[i]) + 0.7f * static_cast<double>(k[i]);
      }
      const auto bound = [&](int64_t i) { return 2 * kEpsilon * (std::fabs(0.3 * x[i]) + std::fabs(0.7 * k[i])); };
      for (; apart < 2; ++apart) {  // aligned, and not
        check_equal(run(k, l, 2, -3), sum, what);
        check_equal(run(k, std::vector<float>(k.size(), kNan), 2, 0), twice, what);
        check_close(run(x, k, 0.3f, 0.7f), mixed, bound, what);
      }
    }
  });
}

TEST_CASE("fill: every element, nothing else") {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t n : kTailSizes) {
      for (const int64_t offset : {0, 1}) {
        Buffer<float> out(n, offset);
        t.fill(TestContext(), n, 2.5f, out.data());
        CHECK(out.guards_hold());
        check_equal(out.values(), std::vector<float>(static_cast<size_t>(n), 2.5f), version.name);
      }
    }
    const auto run = [&](const Context& context) {
      Buffer<float> out(70'001);
      t.fill(context, out.size(), -1.0f, out.data());
      return out.values();
    };
    check_any_thread_count(run, version.name);
  });
}

}  // namespace qinco::kernels::tests
