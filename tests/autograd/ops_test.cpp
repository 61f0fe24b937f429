// Every differentiable operation: against the double reference on every ISA, against finite differences, and present.
#include "tensor/ops.h"

#include <doctest/doctest.h>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "autograd/gradcheck.h"
#include "autograd/node.h"
#include "kernels/dispatch.h"
#include "op_cases.h"
#include "tensor/create.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

constexpr kernels::Isa kIsas[] = {kernels::Isa::reference, kernels::Isa::avx2, kernels::Isa::avx512};

// The value and the gradients of the inputs, with a seed that differs from element to element.
std::vector<Tensor> run(const OpCase& op_case, DType dtype) {
  std::vector<Variable> inputs;
  for (const Tensor& x : op_case.draw()) inputs.emplace_back(x.to(dtype), true);
  const Variable y = op_case.function(inputs);
  std::vector<Tensor> results{y.value()};
  y.backward(arange(y.value().numel(), 0.5, 0.0625, dtype).reshape(y.shape()));
  for (const Variable& input : inputs) results.push_back(input.grad());
  return results;
}

}  // namespace

TEST_CASE("ops: f32 on every ISA is the double reference up to rounding") {
  for (const OpCase& op_case : op_cases()) {
    CAPTURE(op_case.label);
    const std::vector<Tensor> expected = run(op_case, DType::f64);
    for (const kernels::Isa isa : kIsas) {
      if (isa > kernels::best_isa()) continue;
      CAPTURE(kernels::isa_name(isa));
      const kernels::ScopedIsa scope(isa);
      const std::vector<Tensor> found = run(op_case, DType::f32);
      REQUIRE(found.size() == expected.size());
      // Sums of at most 33 terms: 33 x 2^-24 = 2e-6 of the largest value.
      for (size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        REQUIRE(found[i].defined());
        CHECK(found[i].dtype() == DType::f32);
        CHECK(worst_difference(found[i], expected[i]) <= 2e-6);
      }
    }
  }
}

TEST_CASE("ops: gradients agree with finite differences in double") {
  for (const OpCase& op_case : op_cases()) {
    CAPTURE(op_case.label);
    CHECK(autograd::gradcheck(op_case.function, op_case.draw()) <= 1e-7);
  }
}

TEST_CASE("ops: every function of autograd/ops.h has a case") {
  std::ifstream header(QINCO_SOURCE_DIR "/autograd/ops.h");
  REQUIRE(header.good());
  std::stringstream text;
  text << header.rdbuf();
  const std::string source = text.str();
  std::set<std::string> declared;
  const std::regex declaration(R"(Variable (operator.|\w+)\()");
  for (std::sregex_iterator it(source.begin(), source.end(), declaration), end; it != end; ++it)
    if ((*it)[1] != "op") declared.insert((*it)[1]);  // `op` is the macros' placeholder: their rows come next
#define QINCO_ADD(op) declared.insert(#op);
  QINCO_UNARY_OPS(QINCO_ADD)
  QINCO_BINARY_OPS(QINCO_ADD)
#undef QINCO_ADD
#define QINCO_ADD(type, op, function) declared.insert("operator" #op);
  QINCO_OPERATORS(QINCO_ADD, Variable)
#undef QINCO_ADD
  CHECK(declared.size() >= 35);
  std::set<std::string> covered;
  for (const OpCase& op_case : op_cases()) covered.insert(op_case.op());
  for (const std::string& op : declared) CHECK_MESSAGE(covered.count(op) == 1, "no case for ", op);
  for (const std::string& op : covered) CHECK_MESSAGE(declared.count(op) == 1, "a case for no operation: ", op);
}

TEST_CASE("gradcheck: finds a gradient that is 0.1% off, and one that is NaN") {
  const auto times_three = [](double claimed) {
    return [claimed](const std::vector<Variable>& x) {
      return autograd::record(
          "triple", scale(x[0].value(), 3), {x[0]},
          [claimed](const Tensor& g, autograd::InputGradients& into) { into.set(0, scale(g, claimed)); });
    };
  };
  const std::vector<Tensor> inputs{arange(5, 1, 1, DType::f64)};
  CHECK(autograd::gradcheck(times_three(3), inputs) <= 1e-9);
  CHECK(autograd::gradcheck(times_three(3.003), inputs) >= 5e-4);
  CHECK(std::isnan(autograd::gradcheck(times_three(std::nan("")), inputs)));
  CHECK(contains(error_of([&] { autograd::gradcheck(times_three(3), {ones({2})}); }), "expected f64"));
}

TEST_CASE("ops: closed forms") {
  const auto leaf = [](std::vector<double> values) { return Variable(from_vector(values), true); };
  const auto first = [](const Variable& x) { return x.grad().row(0).item<double>(); };
  SUBCASE("d/dx gelu(x) at 0 is 1/2") {
    const Variable x = leaf({0});
    autograd::gelu(x).backward(ones({1}, DType::f64));
    CHECK(first(x) == doctest::Approx(0.5).epsilon(1e-14));
  }
  SUBCASE("relu passes nothing at 0 and below") {
    const Variable x = leaf({0, -1, 2});
    autograd::sum(autograd::relu(x)).backward();
    CHECK(same_bits(x.grad(), from_vector<double>({0, 0, 1})));
  }
  SUBCASE("abs passes nothing at 0") {
    const Variable x = leaf({0, -1, 2});
    autograd::sum(autograd::abs(x)).backward();
    CHECK(same_bits(x.grad(), from_vector<double>({0, -1, 1})));
  }
  SUBCASE("of equal operands of maximum and minimum each gets half, infinite ones too") {  // as torch.maximum
    const double infinity = std::numeric_limits<double>::infinity();
    const std::vector<double> left{1, 1, 2, infinity, infinity, -infinity}, right{1, 2, 1, 1, infinity, -infinity};
    const Variable a = leaf(left), b = leaf(right), c = leaf(left), d = leaf(right);
    autograd::maximum(a, b).backward(full({6}, 4, DType::f64));
    CHECK(same_bits(a.grad(), from_vector<double>({2, 0, 4, 4, 2, 2})));
    CHECK(same_bits(b.grad(), from_vector<double>({2, 4, 0, 0, 2, 2})));
    autograd::minimum(c, d).backward(full({6}, 4, DType::f64));
    CHECK(same_bits(c.grad(), b.grad()));
    CHECK(same_bits(d.grad(), a.grad()));
  }
  SUBCASE("clamp passes nothing from its bounds on, and NaN") {  // the values and gradients are torch.clamp's
    const double infinity = std::numeric_limits<double>::infinity();
    const Variable x = leaf({-infinity, -1, 0, 0.5, 1, 2, infinity});
    const Variable y = autograd::clamp(x, 0, 1);
    CHECK(same_bits(y.value(), from_vector<double>({0, 0, 0, 0.5, 1, 1, 1})));
    autograd::sum(y).backward();
    CHECK(same_bits(x.grad(), from_vector<double>({0, 0, 0, 1, 0, 0, 0})));
    CHECK(same_bits(autograd::clamp(x, 2, 1).value(), ones({7}, DType::f64)));
    CHECK(std::isnan(autograd::clamp(leaf({std::nan("")}), 0, 1).item()));
  }
  SUBCASE("cross-entropy of equal logits is log C, its gradient (1/C - one-hot)/n") {
    const Variable x(zeros({2, 4}, DType::f64), true);
    const Variable loss = autograd::cross_entropy(x, from_vector<int32_t>({1, 3}));
    CHECK(loss.item() == doctest::Approx(std::log(4.0)).epsilon(1e-14));
    loss.backward();
    const Tensor expected = from_vector<double>({.125, -.375, .125, .125, .125, .125, .125, -.375}, {2, 4});
    CHECK(worst_difference(x.grad(), expected) <= 1e-15);
  }
  SUBCASE("the quotient rule: x/y at (3,2)") {
    const Variable x = leaf({3}), y = leaf({2});
    autograd::sum(x / y).backward();
    CHECK(first(x) == 0.5);
    CHECK(first(y) == -0.75);
  }
  SUBCASE("softmax is stable for large values") {
    const Variable x = leaf({1000, 1000, -1000});
    const Variable y = autograd::softmax(x);
    CHECK(worst_difference(y.value(), from_vector<double>({0.5, 0.5, 0})) <= 1e-15);
  }
  SUBCASE("layer norm's gradient of a constant direction is 0") {
    const Variable x = leaf({1, 2, 4, 8});
    autograd::sum(autograd::layer_norm(x, ones({4}, DType::f64), zeros({4}, DType::f64))).backward();
    CHECK(worst_difference(x.grad(), zeros({4}, DType::f64)) <= 1e-12);
  }
}

TEST_CASE("ops: linear's gradients of no rows, no inputs and no outputs") {
  for (const Shape& shape : {Shape{2, 0}, {0, 2}, {3, 0, 2}, {0, 3, 0}, {0}, {2}, {2, 3, 2}})
    for (const int64_t out : {0, 3}) {
      CAPTURE(shape.str());
      const int64_t in = shape[-1], rows = shape.sub(0, shape.size() - 1).numel();
      const Variable x(ones(shape), true), w(ones({out, in}), true), b(ones({out}), true);
      const Variable y = autograd::linear_relu(x, w, b);
      y.backward(ones(y.shape()));
      CHECK(same_bits(x.grad(), full(shape, static_cast<double>(out))));
      CHECK(same_bits(w.grad(), full({out, in}, static_cast<double>(rows))));
      CHECK(same_bits(b.grad(), full({out}, static_cast<double>(rows))));
    }
}

TEST_CASE("ops: errors name the operation and what it found") {
  const Variable a(ones({3, 4})), b(ones({5, 6}));
  CHECK(error_of([&] { autograd::matmul(a, b); }) == "matmul: [3,4] x [5,6]: inner sizes 4 and 5 differ");
  CHECK(error_of([&] { a + b; }) == "add: shapes [3,4] and [5,6] do not broadcast");
  CHECK(contains(error_of([&] { autograd::linear(a, b); }), "linear: x [3,4] and w [5,6]"));
  CHECK(contains(error_of([&] { autograd::linear(a, ones({2, 4}), ones({3})); }), "expected a bias f32 [2]"));
  CHECK(error_of([&] { autograd::mse_loss(a, b); }) == "mse_loss: f32 [3,4] and f32 [5,6] differ");
  CHECK(error_of([&] {
          autograd::mse_loss(a, ones({3, 4}, DType::f64));
        }) == "mse_loss: f32 [3,4] and f64 [3,4] differ");
  CHECK(error_of([&] { autograd::sum_squared_error(a, b); }) == "sum_squared_error: f32 [3,4] and f32 [5,6] differ");
  const Variable ids(ones({3}, DType::i32));
  CHECK(error_of([&] { autograd::mse_loss(ids, ids); }) == "mse_loss: expected f32 or f64, found i32");
  CHECK(contains(error_of([&] {
                   autograd::embedding(a, from_vector<int32_t>({0, 3}));
                 }),
                 "id 3 at position 1, expected 0..2"));
  CHECK(contains(error_of([&] { autograd::embedding(a, from_vector<int32_t>({-1})); }), "id -1"));
  CHECK(contains(error_of([&] {
                   autograd::cross_entropy(a, from_vector<int32_t>({0, 4, 0}));
                 }),
                 "target 4 at position 1, expected 0..3"));
  for (const double part : {-0.1, 1.5, std::nan("")})
    CHECK(contains(error_of([&] {
                     autograd::cross_entropy(a, from_vector<int32_t>({0, 1, 0}), part);
                   }),
                   "cross_entropy: expected a label smoothing from 0 to 1, found"));
  CHECK(contains(error_of([&] { autograd::nll_loss(a, from_vector<int32_t>({0})); }), "expected [n,C] and i32 [n]"));
  CHECK(contains(error_of([&] { a + Variable(ones({3, 4}, DType::f64)); }), "dtypes f32 and f64 differ"));
  CHECK(contains(error_of([&] { autograd::exp(ones({2}, DType::i32)); }), "exp: expected f32 or f64, found i32"));
  CHECK(contains(error_of([&] { autograd::layer_norm(a, ones({3}), ones({3})); }), "layer_norm: x [3,4]"));
  CHECK(contains(error_of([&] { autograd::layer_norm(a, ones({4}), ones({4}, DType::f64)); }), "dtypes of x, gamma"));
  CHECK(contains(error_of([&] { autograd::slice(a, 1, 2, 5); }), "slice: 2..5 of dimension 1 of shape [3,4]"));
  CHECK(contains(error_of([&] { autograd::concat({a, b}, 0); }), "concat: [3,4] and [5,6] differ"));
  CHECK(error_of([&] { autograd::stack({a, b}, 0); }) == "stack: f32 [3,4] and f32 [5,6] differ");
  CHECK(error_of([&] { autograd::maximum(a, b); }) == "maximum: shapes [3,4] and [5,6] do not broadcast");
  CHECK(contains(error_of([&] { autograd::reshape(a, {5, -1}); }), "reshape: 12 elements of shape [3,4] into [5,-1]"));
}
