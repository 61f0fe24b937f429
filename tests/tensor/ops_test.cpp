// Tensor operations on layouts that kernels cannot read at once: broadcast, transposed, empty. Their arithmetic is
// tested through autograd (tests/autograd/op_cases.h) and the kernels (tests/kernels).
#include "tensor/ops.h"

#include <cmath>
#include <doctest/doctest.h>

#include "kernels/context.h"
#include "kernels/dispatch.h"
#include "tensor/create.h"
#include "tensor/random.h"
#include "tests/support.h"
#include "tests/tensor/layouts.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

// Element (i0, i1, ...) of x for the flat row-major index `at` into `shape`, broadcasting x.
float element(const Tensor& x, const Shape& shape, int64_t at) {
  Tensor rest = x.expand(shape);
  int64_t scale = shape.numel();
  for (int i = 0; i < shape.size(); ++i) {
    scale /= shape[i];
    rest = rest.row(at / scale);
    at %= scale;
  }
  return rest.item<float>();
}

}  // namespace

TEST_CASE("tensor ops: broadcasting of every layout equals the loop") {
  const Tensor full3 = positive_values({3, 4, 5}, 1);
  const std::vector<Tensor> operands{full3,
                                     positive_values({5}, 2),
                                     positive_values({4, 1}, 3),
                                     positive_values({3, 1, 1}, 4),
                                     positive_values({3, 1, 5}, 5),
                                     positive_values({1, 4, 5}, 6),
                                     positive_values({}, 7),
                                     positive_values({5, 4, 3}, 8).transpose(0, 2),
                                     positive_values({5, 4}, 9).transpose(0, 1),
                                     positive_values({3, 4, 9}, 10).slice(2, 2, 7),
                                     positive_values({4, 9}, 11).slice(1, 2, 7),
                                     positive_values({3, 8, 5}, 12).slice(1, 1, 5)};
  for (const Tensor& a : operands)
    for (const Tensor& b : operands) {
      CAPTURE(a.shape().str());
      CAPTURE(b.shape().str());
      const Tensor difference = sub(a, b), product = mul(a, b);
      const Shape shape = broadcast_shapes(a.shape(), b.shape(), "test");
      REQUIRE(difference.shape() == shape);
      for (int64_t i = 0; i < shape.numel(); ++i) {
        const float x = element(a, shape, i), y = element(b, shape, i);
        CHECK(difference.data<float>()[i] == x - y);
        CHECK(product.data<float>()[i] == x * y);
      }
    }
}

TEST_CASE("tensor ops: operators are the ops, with numbers of the other operand's dtype") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor a = positive_values({2, 3}, 1).to(dtype), b = positive_values({3}, 2).to(dtype);
    const auto number = [&](double x) { return scalar(x, dtype); };
    CHECK(same_bits(a + b, add(a, b)));
    CHECK(same_bits(a - b, sub(a, b)));
    CHECK(same_bits(a * b, mul(a, b)));
    CHECK(same_bits(a / b, div(a, b)));
    CHECK(same_bits(-a, neg(a)));
    CHECK(same_bits(maximum(1, a), maximum(a, number(1))));
    CHECK(same_bits(minimum(maximum(a, 0.7), 1.3), minimum(number(1.3), maximum(number(0.7), a))));
    CHECK(same_bits(clamp(a, 0.7, 1.3), minimum(maximum(a, 0.7), 1.3)));
    CHECK(same_bits((a + 2) - 0.5, sub(add(a, number(2)), number(0.5))));
    CHECK(same_bits((a * 3) / 0.3, div(mul(a, number(3)), number(0.3))));
    CHECK(same_bits(1 - (2 + a), sub(number(1), add(number(2), a))));
    CHECK(same_bits(1 / (0.7 * a), div(number(1), mul(number(0.7), a))));
  }
}

TEST_CASE("tensor ops: sum_to undoes expand") {
  const Shape wide{2, 3, 4, 5};
  for (const Shape& narrow : {Shape{}, {5}, {4, 1}, {3, 1, 1}, {2, 1, 4, 1}, {1, 3, 1, 5}, {2, 3, 4, 5}}) {
    CAPTURE(narrow.str());
    const Tensor x = arange(narrow.numel(), 1, 1, DType::f64).reshape(narrow);
    const double repeats = static_cast<double>(wide.numel()) / static_cast<double>(narrow.numel());
    CHECK(same_bits(sum_to(x.expand(wide), narrow), scale(x, repeats)));
  }
  CHECK(contains(error_of([] { sum_to(ones({2, 3}), {2}); }), "[2] does not broadcast to [2,3]"));
  CHECK(contains(error_of([] { sum_to(ones({2, 1}), {2, 3}); }), "[2,3] does not broadcast to [2,1]"));
}

TEST_CASE("tensor ops: matmul and linear read transposed and sliced views in place") {
  const Tensor a = positive_values({7, 5}, 1), b = positive_values({5, 6}, 2), bias = positive_values({6}, 3);
  const Tensor expected = matmul(a.to(DType::f64), b.to(DType::f64));
  const Tensor at = a.transpose(0, 1).contiguous(), bt = b.transpose(0, 1).contiguous();
  const Tensor wide_a = concat({positive_values({7, 2}, 4), a, positive_values({7, 1}, 5)}, 1).slice(1, 2, 7);
  for (const Tensor& left : {a, at.transpose(0, 1), wide_a}) {
    for (const Tensor& right : {b, bt.transpose(0, 1)}) CHECK(worst_difference(matmul(left, right), expected) <= 1e-6);
    CHECK(worst_difference(matmul(left, bt, false, true), expected) <= 1e-6);
    CHECK(worst_difference(linear(left, bt), expected) <= 1e-6);
    CHECK(worst_difference(linear(left, b.transpose(0, 1), bias), add(expected, bias.to(DType::f64))) <= 1e-6);
  }
  CHECK(worst_difference(matmul(at, bt, true, true), expected) <= 1e-6);
  // One row, one column, and rows or columns picked out of a matrix.
  CHECK(worst_difference(matmul(a.slice(0, 3, 4), b), expected.slice(0, 3, 4)) <= 1e-6);
  CHECK(worst_difference(matmul(a, b.slice(1, 2, 3)), expected.slice(1, 2, 3)) <= 1e-6);
  CHECK(worst_difference(matmul(at.slice(1, 3, 4).transpose(0, 1), b), expected.slice(0, 3, 4)) <= 1e-6);
}

TEST_CASE("tensor ops: matmul of a batch is each product by itself, whatever the sizes and the threads") {
  // Products shared out whole, several in a chunk and one in each; ones that all threads share; one with no end.
  struct Sizes {
    int64_t batch, m, k, n;
  };
  for (const auto& [batch, m, k, n] : {Sizes{200, 16, 17, 15}, {9, 33, 64, 128}, {3, 170, 170, 170}, {5, 9, 0, 7}})
    for (const DType dtype : {DType::f32, DType::f64}) {
      if (dtype == DType::f64 && m * k * n > int64_t{1} << 20)
        continue;  // plain loops, in the order of the sizes alone
      const Tensor a = positive_values({batch, m, k}, 1, dtype), b = positive_values({batch, k, n}, 2, dtype);
      const Tensor at = a.transpose(1, 2).contiguous(), bt = b.transpose(1, 2).contiguous();
      const Tensor wide = concat({b, b}, 2);
      struct Form {
        Tensor left, right;
        bool trans_a = false, trans_b = false;
      };
      for (const Form& form : {Form{a, b},
                               {at, b, true},
                               {a, bt, false, true},
                               {at.transpose(1, 2), bt.transpose(1, 2)},
                               {a, wide.slice(2, 0, n)},
                               {a, b.row(batch / 2).expand({batch, k, n})},
                               {a, b.row(0).slice(1, 0, 1).expand({batch, k, n})},  // a layout that is copied
                               {a.row(1).expand({batch, m, k}), b}}) {
        std::vector<Tensor> products;
        for (int64_t i = 0; i < batch; ++i)
          products.push_back(matmul(form.left.row(i), form.right.row(i), form.trans_a, form.trans_b).unsqueeze(0));
        const Tensor expected = concat(products, 0);
        for (const int threads : {1, 2, 3}) {
          kernels::Scratch scratch;
          kernels::Context context;
          context.threads = threads;
          context.scratch = &scratch;
          const kernels::ContextScope scope(context);
          CHECK(same_bits(matmul(form.left, form.right, form.trans_a, form.trans_b), expected));
        }
      }
    }
  // Two leading dimensions, one of them repeated.
  const Tensor a = positive_values({4, 6, 5}, 3), b = positive_values({3, 4, 5, 7}, 4);
  const Tensor all = matmul(a.expand({3, 4, 6, 5}), b);
  for (int64_t i = 0; i < 3; ++i) CHECK(same_bits(all.row(i), matmul(a, b.row(i))));
}

TEST_CASE("tensor ops: operands of every layout give what contiguous ones do") {
  using Operation = Tensor (*)(const Tensor& x, const Tensor& row, const Tensor& ids);
  constexpr Operation kOperations[] = {
      [](const Tensor& x, const Tensor&, const Tensor&) { return exp(x); },
      [](const Tensor& x, const Tensor& row, const Tensor&) { return add(x, row); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return scale(x, 3); },
      [](const Tensor& x, const Tensor& row, const Tensor&) {
        return linear(ones({6, 3}), ones({5, 3}), row, x, true);
      },
      [](const Tensor& x, const Tensor&, const Tensor&) { return sum(x); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return mean(x, 0); },
      [](const Tensor& x, const Tensor&, const Tensor&) {
        return squared_error(x, ones({6, 5}), 0.5);
      },
      [](const Tensor& x, const Tensor&, const Tensor&) {
        return squared_error(ones({6, 5}), x, 0.5);
      },
      [](const Tensor& x, const Tensor&, const Tensor&) { return row_squared_norms(x); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return argmin_rows(x); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return softmax(x); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return log_softmax(x); },
      [](const Tensor& x, const Tensor&, const Tensor&) { return log_sum_exp(x); },
      [](const Tensor& x, const Tensor&, const Tensor& ids) { return gather_rows(x, ids); },
      [](const Tensor& x, const Tensor&, const Tensor& ids) {
        const Tensor out = zeros({4, 5});
        scatter_add_rows(out, ids, x);
        return out;
      },
      [](const Tensor& x, const Tensor&, const Tensor&) {
        const Tensor out = ones({6, 5});
        axpby(2, x, -1, out);
        return out;
      },
      [](const Tensor& x, const Tensor&, const Tensor&) { return unary_backward(kernels::UnaryOp::tanh, {}, x, x); }};
  const Tensor x = positive_values({6, 5}, 1), row = positive_values({5}, 2);
  const Tensor ids = from_vector<int32_t>({3, 0, 3, 1, 2, 0});
  for (const Operation operation : kOperations) {
    CAPTURE(&operation - kOperations);
    const Tensor expected = operation(x, row, ids);
    for (const Layout layout : kLayouts)
      CHECK(same_bits(operation(laid_out(x, layout), laid_out(row, layout), laid_out(ids, layout)), expected));
    if (expected.dim() > 0)
      CHECK(same_bits(operation(ones({1, 5}).expand({6, 5}), row, ids), operation(ones({6, 5}), row, ids)));
  }
}

TEST_CASE("tensor ops: what cannot be computed is an error that says what was found") {
  const Tensor x = ones({2, 3}), w = ones({5, 3}), wide = ones({2, 6}).slice(1, 0, 3);
  CHECK(contains(error_of([&] { linear(x, w, {}, ones({2, 4})); }), "expected a residual f32 [2,5], found f32 [2,4]"));
  CHECK(contains(error_of([&] { linear(x, w, {}, ones({10})); }), "expected a residual f32 [2,5], found f32 [10]"));
  CHECK(contains(error_of([&] { linear(x, w, {}, ones({2, 5}, DType::f64)); }), "found f64 [2,5]"));
  CHECK(error_of([&] {
          (void)sum_squared_difference(x, ones({3, 2}));
        }) == "sum_squared_difference: f32 [2,3] and f32 [3,2] differ");
  CHECK(contains(error_of([&] { (void)sum_squared_difference(x, ones({2, 3}, DType::f64)); }), "and f64 [2,3] differ"));
  CHECK(error_of([&] { axpby(1, x, 1, wide); }) == "axpby: expected a contiguous result of shape [2,3]");
  CHECK(error_of([&] { scatter_add_rows(wide, zeros({2}, DType::i32), x); }) ==
        "scatter_add_rows: expected a contiguous result with rows");
}

TEST_CASE("tensor ops: products are fast within a scope, where the processor has them, and exact again after it") {
  const Tensor a = positive_values({64, 64}, 1), b = positive_values({64, 64}, 2), exact = matmul(a, b);
  {
    const MatmulPrecision scope(kernels::Precision::fast);
    CHECK(same_bits(matmul(a, b), exact) == (kernels::active_isa() < kernels::Isa::amx));
    CHECK(worst_difference(matmul(a, b), exact) <= 0x1p-8);
  }
  CHECK(same_bits(matmul(a, b), exact));
}

TEST_CASE("tensor ops: empty tensors") {
  CHECK(matmul(ones({0, 3}), ones({3, 2})).shape() == Shape{0, 2});
  CHECK(same_bits(matmul(ones({2, 0}), ones({0, 3})), zeros({2, 3})));
  full({2, 3, 4, 5}, 7.0);  // what fresh memory may hold
  CHECK(same_bits(matmul(ones({2, 3, 4, 0}), ones({2, 3, 0, 5})), zeros({2, 3, 4, 5})));
  CHECK(add(ones({0, 3}), ones({3})).shape() == Shape{0, 3});
  CHECK(sum(ones({0})).item<double>() == 0);
  CHECK(same_bits(sum(ones({0, 2}), 0), zeros({2})));
  CHECK(gather_rows(ones({3, 2}), Tensor::empty({0}, DType::i32)).shape() == Shape{0, 2});
  CHECK(concat({ones({0, 2}), ones({1, 2})}, 0).shape() == Shape{1, 2});
  CHECK(relu(ones({0})).numel() == 0);
  CHECK(contains(error_of([] { mean(ones({0})); }), "no elements"));
  CHECK(contains(error_of([] { softmax(ones({2, 0})); }), "softmax"));
  CHECK(error_of([] { argmin_rows(ones({2, 0})); }) == "argmin_rows: the rows of shape [2,0] are empty");
  CHECK(error_of([] { argmax_rows(ones({2, 0})); }) == "argmax_rows: the rows of shape [2,0] are empty");
}

TEST_CASE("tensor ops: what is made of other operations names itself in errors") {
  const Tensor ids = ones({2, 2}, DType::i32);
  CHECK(error_of([&] { argmax_rows(ids); }) == "argmax_rows: expected f32 or f64, found i32");
  CHECK(error_of([&] { argmax_rows(ones({2})); }) == "argmax_rows: expected a matrix, found shape [2]");
  CHECK(error_of([&] { scale(ids, 2); }) == "scale: expected f32 or f64, found i32");
  CHECK(error_of([&] { clamp(ids, 0, 1); }) == "clamp: expected f32 or f64, found i32");
}

TEST_CASE("tensor ops: an undefined operand is an error that names the operation") {
  const Tensor none, x = ones({3});
  CHECK(error_of([&] { add(x, none); }) == "add: an operand is undefined");
  CHECK(error_of([&] { add(none, x); }) == "add: an operand is undefined");
  CHECK(error_of([&] { neg(none); }) == "neg: an operand is undefined");
  CHECK(error_of([&] { scale(none, 2); }) == "scale: an operand is undefined");
  CHECK(error_of([&] { sum(none); }) == "sum: an operand is undefined");
  CHECK(error_of([&] { mean(none); }) == "mean: an operand is undefined");
  CHECK(error_of([&] { softmax(none); }) == "softmax: an operand is undefined");
  CHECK(error_of([&] { argmax_rows(none); }) == "argmax_rows: an operand is undefined");
  CHECK(error_of([&] { matmul(ones({2, 2}), none); }) == "matmul: an operand is undefined");
  CHECK(error_of([&] { linear(ones({2, 2}), none); }) == "linear: an operand is undefined");
  CHECK(error_of([&] { gather_rows(x, none); }) == "gather_rows: the ids are undefined");
  CHECK(error_of([&] { concat({x, none}, 0); }) == "concat: an operand is undefined");
  CHECK(error_of([&] { stack({x, none}, 0); }) == "stack: an operand is undefined");
  CHECK(error_of([&] { stack({none, x}, 0); }) == "stack: an operand is undefined");
  CHECK(error_of([&] { clamp(none, 0, 1); }) == "clamp: an operand is undefined");
  CHECK(error_of([&] { Random(1).uniform(none, 0, 1); }) == "uniform: an operand is undefined");
  CHECK(contains(error_of([&] { zeros_like(none); }), "zeros_like: the tensor is undefined"));
}

TEST_CASE("tensor ops: unary_backward checks what the derivative reads") {
  using kernels::UnaryOp;
  const Tensor none, x = positive_values({2, 3}, 1), dy = positive_values({2, 3}, 2);
  CHECK(same_bits(unary_backward(UnaryOp::relu, none, x, dy), dy));
  CHECK(same_bits(unary_backward(UnaryOp::square, x, none, dy), scale(mul(x, dy), 2)));
  CHECK(error_of([&] { unary_backward(UnaryOp::relu, x, none, dy); }) ==
        "relu: its derivative reads y, which is undefined");
  CHECK(error_of([&] { unary_backward(UnaryOp::gelu, none, x, dy); }) ==
        "gelu: its derivative reads x, which is undefined");
  CHECK(error_of([&] { unary_backward(UnaryOp::gelu, ones({1}), none, dy); }) ==
        "gelu: x f32 [1] and its gradient f32 [2,3] differ");
  CHECK(contains(error_of([&] { unary_backward(UnaryOp::relu, none, ones({3, 2}), dy); }), "relu: y f32 [3,2]"));
  CHECK(contains(error_of([&] { unary_backward(UnaryOp::relu, none, x.to(DType::f64), dy); }), "relu: y f64 [2,3]"));
  CHECK(error_of([&] { unary_backward(UnaryOp::neg, none, none, none); }) == "neg: an operand is undefined");
}

TEST_CASE("tensor ops: rows by index and back") {
  const Tensor table = positive_values({4, 2, 3}, 1), ids = from_vector<int32_t>({3, 0, 3, 1, 3}, {5});
  const Tensor rows = gather_rows(table, ids);
  CHECK(rows.shape() == Shape{5, 2, 3});
  CHECK(same_bits(rows.row(4), table.row(3)));
  CHECK(same_bits(gather_rows(table.transpose(1, 2), ids), rows.transpose(1, 2).contiguous()));
  const Tensor words = arange(8, 0, 1, DType::u8).reshape({4, 2});
  CHECK(same_bits(gather_rows(words, ids.slice(0, 0, 2)), from_vector<uint8_t>({6, 7, 0, 1}, {2, 2})));
  const Tensor counts = ones({4});
  scatter_add_rows(counts, ids, ones({5}));
  CHECK(same_bits(counts, from_vector<float>({2, 2, 1, 4})));
  CHECK(contains(error_of([&] { gather_rows(table, from_vector<int64_t>({1})); }), "expected ids i32, found i64"));
  CHECK(contains(error_of([&] { scatter_add_rows(counts, ids, ones({4})); }), "expected x f32 [5], found f32 [4]"));
}

TEST_CASE("tensor ops: reductions in closed form") {
  const Tensor x = from_vector<float>({3, -1, 2, 5, -1, 4}, {2, 3});
  CHECK(same_bits(argmin_rows(x), from_vector<int32_t>({1, 1})));
  CHECK(same_bits(argmin_rows(x.transpose(0, 1)), from_vector<int32_t>({0, 0, 0})));
  CHECK(same_bits(argmax_rows(x), from_vector<int32_t>({0, 0})));
  const float nan = std::nanf("");
  CHECK(same_bits(argmax_rows(from_vector<float>({nan, 1, 2, nan, nan, nan}, {2, 3})), from_vector<int32_t>({2, 0})));
  CHECK(same_bits(row_squared_norms(x), from_vector<float>({14, 42})));
  CHECK(sum_squared_difference(x, zeros({2, 3})) == 56);
  CHECK(mean(x).item<float>() == 2);
  CHECK(same_bits(mean(x, 1), from_vector<float>({4.0f / 3, 8.0f / 3})));
  for (const int64_t n : {41, 47, 55, 61}) {  // whose inverses, rounded and times n, are not 1
    CHECK(same_bits(mean(ones({n, 2}), 0), ones({2})));
    CHECK(same_bits(mean(ones({2, n}, DType::f64), 1, true), ones({2, 1}, DType::f64)));
  }
  CHECK(worst_difference(log_sum_exp(zeros({2, 3})), full({2}, std::log(3.0))) <= 1e-6);
  // More ones than a float can count one by one.
  CHECK(sum(scalar(1).expand({40'000'000})).item<double>() == 4e7);
}

TEST_CASE("tensor ops: concat of every dtype") {
  for (const DType dtype : {DType::u8, DType::f16, DType::i32, DType::f64}) {
    const Tensor a = arange(6, 0, 1, dtype).reshape({2, 3}), b = arange(4, 10, 1, dtype).reshape({2, 2});
    const Tensor joined = concat({a, b}, 1);
    CHECK(same_bits(joined.slice(1, 0, 3), a));
    CHECK(same_bits(joined.slice(1, 3, 5), b));
  }
  CHECK(contains(error_of([] { concat({}, 0); }), "no tensors"));
  CHECK(contains(error_of([] { concat({ones({2}), ones({2}, DType::f64)}, 0); }), "dtypes f32 and f64 differ"));
}

TEST_CASE("tensor ops: stack of every dtype, along every dimension") {
  for (const DType dtype : {DType::u8, DType::f16, DType::i32, DType::f64}) {
    const Tensor a = arange(6, 0, 1, dtype).reshape({2, 3}),
                 b = arange(6, 10, 1, dtype).reshape({3, 2}).transpose(0, 1);
    for (const int64_t dim : {0, 1, 2, -1, -2, -3}) {
      const int d = normalise_dim(dim, 3, "test");
      const Tensor stacked = stack({a, b, a}, dim);
      REQUIRE(stacked.shape()[d] == 3);
      CHECK(same_bits(stacked.slice(d, 0, 1).squeeze(d), a));
      CHECK(same_bits(stacked.slice(d, 1, 2).squeeze(d), b));
      CHECK(same_bits(stacked.slice(d, 2, 3).squeeze(d), a));
    }
  }
  CHECK(same_bits(stack({scalar(1), scalar(2)}, 0), from_vector<float>({1, 2})));
  CHECK(stack({ones({0, 2})}, 1).shape() == Shape{0, 1, 2});
  CHECK(error_of([] { stack({}, 0); }) == "stack: no tensors");
  CHECK(error_of([] { stack({ones({2})}, 2); }) == "stack: dimension 2 of a tensor with 2");
  CHECK(error_of([] { stack({ones({2}), ones({1})}, 0); }) == "stack: f32 [2] and f32 [1] differ");
  CHECK(error_of([] { stack({ones({2}), ones({2}, DType::f64)}, 0); }) == "stack: f32 [2] and f64 [2] differ");
}
