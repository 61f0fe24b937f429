// The engine: accumulation, sharing, freeing, long chains, errors.
#include <doctest/doctest.h>
#include <functional>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using namespace qinco::autograd;

namespace {

Variable leaf(const std::vector<double>& values) {
  return Variable(from_vector(values), true);
}
Tensor row(const std::vector<double>& values) {
  return from_vector(values);
}

}  // namespace

TEST_CASE("engine: gradients accumulate until zero_grad") {
  Variable x = leaf({2, 3});
  sum(square(x)).backward();
  sum(square(x)).backward();
  CHECK(same_bits(x.grad(), row({8, 12})));
  x.zero_grad();
  CHECK(!x.grad().defined());
  sum(square(x)).backward();
  CHECK(same_bits(x.grad(), row({4, 6})));
}

TEST_CASE("engine: a variable used many times gets the sum, each path once") {
  const Variable x = leaf({3});
  const Variable square_of = x * x, fourth = square_of * square_of;
  sum(fourth + square_of + x).backward();  // x^4 + x^2 + x at 3: 4*27 + 6 + 1
  CHECK(same_bits(x.grad(), row({115})));
}

TEST_CASE("engine: a path of any length is complete before it goes on") {
  // The short path from x arrives long before the long one: y's gradient must wait for both.
  const Variable x = leaf({1});
  const Variable y = x * 2.0;
  Variable slow = y;
  for (int i = 0; i < 50; ++i) slow = slow + 0.0;
  sum(y * slow).backward();
  CHECK(same_bits(x.grad(), row({8})));
}

TEST_CASE("engine: leaves' gradients never share memory") {
  const Variable a = leaf({1, 2}), b = leaf({3, 4});
  const Tensor seed = row({1, 1});
  (a + b).backward(seed);
  CHECK(!a.grad().shares_storage(b.grad()));
  CHECK(!a.grad().shares_storage(seed));
  a.grad().data<double>()[0] = 7;
  CHECK(same_bits(b.grad(), row({1, 1})));
  CHECK(same_bits(seed, row({1, 1})));
}

TEST_CASE("engine: a gradient that somebody holds is not changed under them") {
  const Variable x = leaf({1, 2});
  sum(x).backward();
  const Tensor held = x.grad();
  sum(x).backward();
  CHECK(same_bits(held, row({1, 1})));
  CHECK(same_bits(x.grad(), row({2, 2})));
}

TEST_CASE("engine: expanded and transposed gradients arrive contiguous") {
  const Variable x(arange(6, 0, 1, DType::f64).reshape({2, 3}), true);
  sum(transpose(x, 0, 1)).backward();
  CHECK(x.grad().is_contiguous());
  CHECK(same_bits(x.grad(), ones({2, 3}, DType::f64)));
}

TEST_CASE("engine: a leaf can be its own result") {
  const Variable x = leaf({5});
  x.backward();
  x.backward(row({2}));
  CHECK(same_bits(x.grad(), row({3})));
}

TEST_CASE("engine: constants and detached values get no gradient and keep no graph") {
  const Variable x = leaf({2}), constant(row({3}));
  const Variable y = x * constant;
  CHECK(y.requires_grad());
  CHECK(!(constant * 2.0).requires_grad());
  CHECK(!y.detach().requires_grad());
  CHECK(y.detach().value().shares_storage(y.value()));
  sum(y).backward();
  CHECK(!constant.grad().defined());
  {
    const NoGrad outer;
    { const NoGrad inner; }
    CHECK(!(x * x).requires_grad());
  }
  CHECK((x * x).requires_grad());
}

TEST_CASE("engine: backward() through a freed graph is an error, beside it is not") {
  const Variable x = leaf({2});
  const Variable shared = x * x;
  const Variable first = sum(shared), second = sum(shared * 2.0);
  first.backward();
  CHECK(contains(error_of([&] { second.backward(); }), "freed by an earlier backward()"));
  CHECK(contains(error_of([&] { first.backward(); }), "freed by an earlier backward()"));
  CHECK(same_bits(x.grad(), row({4})));
  sum(x * x).backward();
  CHECK(same_bits(x.grad(), row({8})));
}

TEST_CASE("engine: a gradient is not added to in memory that is not its own") {
  std::vector<double> theirs = {1, 1};  // may be a mapped file, which cannot be written to
  Variable x = leaf({5, 6});
  x.set_grad(wrap(theirs.data(), {2}, DType::f64, nullptr));
  sum(x).backward();
  CHECK(same_bits(x.grad(), row({2, 2})));
  CHECK(theirs == std::vector<double>{1, 1});
}

TEST_CASE("engine: an error in a backward function leaves a usable state") {
  const Variable x = leaf({2});
  const auto failing = [](const Variable& v) {
    return record("failing", v.value().clone(), {v}, [](const Tensor&, InputGradients&) { fail("as planned"); });
  };
  const Variable kept = x * 3.0, total = sum(failing(kept) + kept);
  CHECK(error_of([&] { total.backward(); }) == "as planned");
  CHECK(!x.grad().defined());
  CHECK(contains(error_of([&] { total.backward(); }), "freed by an earlier backward()"));
  sum(kept).backward();
  CHECK(same_bits(x.grad(), row({3})));
}

TEST_CASE("engine: gradients of the wrong kind are found, naming the operation") {
  const auto wrong = [](const Tensor& gradient) {
    return [gradient] {
      const Variable x = leaf({1, 2});
      const auto backward = [gradient](const Tensor&, InputGradients& into) { into.set(0, gradient); };
      sum(record("wrong", x.value().clone(), {x}, backward)).backward();
    };
  };
  CHECK(contains(error_of(wrong(Tensor())), "wrong: backward gave no gradient"));
  CHECK(contains(error_of(wrong(ones({2}))), "wrong: backward gave a gradient of f32 for an input of f64"));
  for (const Shape& shape : {Shape{3}, Shape{}, Shape{2, 1}})
    CHECK(error_of(wrong(ones(shape, DType::f64))) ==
          "wrong: backward gave a gradient of shape " + shape.str() + " for an input of shape [2]");
}

TEST_CASE("engine: misuse is an error") {
  const Variable x = leaf({1, 2});
  CHECK(contains(error_of([&] { square(x).backward(); }), "expected one element, found shape [2]"));
  CHECK(contains(error_of([&] { square(x).backward(ones({2})); }), "expected a seed f64 [2], found f32 [2]"));
  CHECK(error_of([&] { square(x).backward(Tensor()); }) == "backward: the seed is undefined");
  CHECK(error_of([] { Variable(scalar(1), true).backward(Tensor()); }) == "backward: the seed is undefined");
  CHECK(contains(error_of([&] { sum(Variable(row({1}))).backward(); }), "does not depend on one that requires"));
  CHECK(contains(error_of([&] { Variable(ones({2}, DType::i32), true); }), "a gradient needs f32 or f64, found i32"));
  CHECK(contains(error_of([&] { Variable{Tensor()}; }), "undefined"));
  CHECK(contains(error_of([&] { (void)Variable().value(); }), "undefined"));
  Variable y = square(x);
  CHECK(contains(error_of([&] { y.set_value(row({1, 2})); }), "the variable is the result of square"));
  Variable z = leaf({1, 2});
  CHECK(contains(error_of([&] { z.set_value(row({1})); }), "expected f64 [2], found f64 [1]"));
  CHECK(contains(error_of([&] { Variable(scalar(1)).set_value(Tensor()); }), "set_value: the tensor is undefined"));
  CHECK(contains(error_of([&] { z.set_grad(row({1})); }), "set_grad: expected f64 [2], found f64 [1]"));
  CHECK(contains(error_of([&] { z.set_value(ones({2})); }), "set_value: expected f64 [2], found f32 [2]"));
  CHECK(contains(error_of([&] { z.set_grad(ones({2})); }), "set_grad: expected f64 [2], found f32 [2]"));
}

TEST_CASE("engine: 200,000 nodes in a chain, forward, backward and freed, within the stack and without a leak") {
  const int64_t before = memory_stats().live;
  for (const bool with_backward : {true, false}) {
    const Variable x = leaf({1});
    Variable y = x;
    for (int i = 0; i < 200'000; ++i) y = y + 1.0;
    CHECK(y.item() == 200'001);
    if (with_backward) {
      sum(y).backward();
      CHECK(same_bits(x.grad(), row({1})));
    }
  }
  CHECK(memory_stats().live == before);
}

TEST_CASE("engine: backward() frees intermediate values as it goes") {
  constexpr int kSteps = 64;
  constexpr int64_t kBytes = int64_t{1} << 20;
  const Variable x(zeros({kBytes / 8}, DType::f64), true);
  const int64_t before = memory_stats().live;
  Variable y = x;
  for (int i = 0; i < kSteps; ++i) y = exp(y) - 1.0;
  CHECK(memory_stats().live - before >= kSteps * kBytes);
  const Variable loss = sum(y);
  y = Variable();
  reset_memory_peak();
  loss.backward();
  // Gradients in flight are few: the peak is the graph itself and a handful more.
  CHECK(memory_stats().peak - before <= (kSteps + 4) * kBytes);
  CHECK(memory_stats().live - before <= 2 * kBytes);
}

TEST_CASE("engine: a value that backward does not read goes with its last variable") {
  constexpr int64_t kBytes = int64_t{1} << 18, kSmall = 4096;  // what holds one value or shape
  const Variable x(zeros({kBytes / 8}, DType::f64), true);
  const int64_t before = memory_stats().live;
  const auto held = [&] { return memory_stats().live - before; };
  Variable y = x;
  for (int i = 0; i < 16; ++i) y = y + 1.0;
  CHECK(held() <= kBytes + kSmall);
  y = Variable();
  CHECK(held() == 0);

  Variable scaled = x * 2.0;
  const Variable positive = relu(scaled);  // reads its result
  CHECK(held() >= 2 * kBytes);
  scaled = Variable();
  CHECK(held() <= kBytes + kSmall);
  positive.backward(ones({kBytes / 8}, DType::f64));
  CHECK(same_bits(x.grad(), zeros({kBytes / 8}, DType::f64)));
}

TEST_CASE("engine: a linear layer that is frozen keeps no input") {
  constexpr int64_t kBytes = int64_t{1} << 18, kSmall = 4096;
  const Variable x(zeros({kBytes / 64, 8}, DType::f64), true);
  const Tensor weight = ones({8, 8}, DType::f64);
  const int64_t before = memory_stats().live;
  for (const bool frozen : {false, true}) {
    Variable hidden = x + 1.0;
    const Variable w(weight, !frozen), y = linear(hidden, w);
    hidden = Variable();
    CHECK((memory_stats().live - before <= kBytes + kSmall) == frozen);
  }
}

TEST_CASE("engine: targets and ids may be filled again before backward()") {
  using Op = std::function<Variable(const Variable&, const Tensor&)>;
  const auto grad = [](const Op& f, int32_t refill) {
    const Variable x(arange(6, 0.5, 0.25, DType::f64).reshape({2, 3}), true);
    const Tensor list = from_vector<int32_t>({0, 1});
    const Variable y = f(x, list);
    list.data<int32_t>()[0] = refill;
    sum(y).backward();
    return x.grad();
  };
  const auto entropy = [](const Variable& x, const Tensor& list) { return cross_entropy(x, list); };
  for (const Op& f : {Op(nll_loss), Op(entropy), Op(embedding)})
    for (const int32_t refill : {1, 100}) CHECK(same_bits(grad(f, refill), grad(f, 0)));
}

TEST_CASE("engine: a leaf's gradient keeps no more memory than it needs") {
  const Variable x(ones({1}), true);
  const int64_t before = memory_stats().live;
  sum(square(concat({zeros({1 << 16}), x}, 0))).backward();
  CHECK(same_bits(x.grad(), full({1}, 2)));
  CHECK(memory_stats().live - before <= 64);
}
