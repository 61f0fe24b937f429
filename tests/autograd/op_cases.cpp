#include "op_cases.h"

#include <cmath>

#include "tensor/create.h"
#include "tensor/random.h"

namespace qinco::tests {

namespace {

using namespace autograd;
using Inputs = std::vector<Variable>;

// Ids 3, 10, 17, ... modulo n: every row, some of them more than once.
Tensor ids(const Shape& shape, int n) {
  std::vector<int32_t> values;
  for (int i = 0; i < shape.numel(); ++i) values.push_back((7 * i + 3) % n);
  return from_vector(values, shape);
}

double drawn(Random& random, Draw draw, int64_t i) {
  const double u = random.uniform();
  switch (draw) {
    case Draw::plain:
      return 2 * u - 1;
    case Draw::positive:
      return 0.5 + 1.5 * u;
    case Draw::off_zero:
      return (i % 2 == 0 ? 1 : -1) * (0.2 + 1.3 * u);
    case Draw::biased:
      break;
  }
  return (i % 2 == 0 ? 3 : -3) + 0.5 * u;
}

void add_elementwise(std::vector<OpCase>& cases) {
  const Draw positive = Draw::positive;
  cases.push_back({"neg", {{{3, 17}}}, [](const Inputs& x) { return neg(x[0]); }});
  cases.push_back({"relu", {{{3, 17}, Draw::off_zero}}, [](const Inputs& x) { return relu(x[0]); }});
  cases.push_back({"gelu", {{{5, 33}}}, [](const Inputs& x) { return gelu(x[0]); }});
  cases.push_back({"tanh", {{{5, 33}}}, [](const Inputs& x) { return tanh(x[0]); }});
  cases.push_back({"sigmoid", {{{5, 33}}}, [](const Inputs& x) { return sigmoid(x[0]); }});
  cases.push_back({"exp", {{{65}}}, [](const Inputs& x) { return exp(x[0]); }});
  cases.push_back({"log", {{{65}, positive}}, [](const Inputs& x) { return log(x[0]); }});
  cases.push_back({"sqrt", {{{65}, positive}}, [](const Inputs& x) { return sqrt(x[0]); }});
  cases.push_back({"square", {{{2, 3, 5}}}, [](const Inputs& x) { return square(x[0]); }});
  cases.push_back({"abs", {{{3, 17}, Draw::off_zero}}, [](const Inputs& x) { return abs(x[0]); }});
  cases.push_back({"silu", {{{5, 33}}}, [](const Inputs& x) { return silu(x[0]); }});
  cases.push_back({"square: transposed", {{{7, 3}}}, [](const Inputs& x) { return square(transpose(x[0], 0, 1)); }});
  cases.push_back({"add", {{{4, 9}}, {{4, 9}}}, [](const Inputs& x) { return add(x[0], x[1]); }});
  cases.push_back({"add: row", {{{4, 9}}, {{9}}}, [](const Inputs& x) { return add(x[0], x[1]); }});
  cases.push_back({"add: same twice", {{{4, 9}}}, [](const Inputs& x) { return add(x[0], x[0]); }});
  cases.push_back({"sub", {{{4, 9}}, {{4, 9}}}, [](const Inputs& x) { return sub(x[0], x[1]); }});
  cases.push_back({"sub: column", {{{4, 1}}, {{4, 9}}}, [](const Inputs& x) { return sub(x[0], x[1]); }});
  cases.push_back({"mul", {{{17}}, {{17}}}, [](const Inputs& x) { return mul(x[0], x[1]); }});
  cases.push_back({"mul: both ways", {{{5, 1}}, {{1, 7}}}, [](const Inputs& x) { return mul(x[0], x[1]); }});
  cases.push_back({"mul: middle", {{{2, 3, 4}}, {{2, 1, 4}}}, [](const Inputs& x) { return mul(x[0], x[1]); }});
  cases.push_back(
      {"mul: transposed", {{{4, 3}}, {{3, 4}}}, [](const Inputs& x) { return mul(transpose(x[0], 0, 1), x[1]); }});
  cases.push_back({"div", {{{3, 5}}, {{3, 5}, positive}}, [](const Inputs& x) { return div(x[0], x[1]); }});
  cases.push_back({"div: scalar", {{{3, 5}}, {{}, positive}}, [](const Inputs& x) { return div(x[0], x[1]); }});
  cases.push_back({"maximum", {{{4, 9}}, {{4, 9}, Draw::biased}}, [](const Inputs& x) { return maximum(x[0], x[1]); }});
  cases.push_back(
      {"maximum: column", {{{4, 1}}, {{4, 9}, Draw::biased}}, [](const Inputs& x) { return maximum(x[0], x[1]); }});
  cases.push_back({"minimum", {{{4, 9}}, {{4, 9}, Draw::biased}}, [](const Inputs& x) { return minimum(x[0], x[1]); }});
  // Beyond the bounds, and between them.
  cases.push_back({"minimum: numbers", {{{9}, Draw::biased}}, [](const Inputs& x) {
                     return minimum(2, maximum(concat({x[0], 0.25 * x[0]}, 0), -1.5));
                   }});
  cases.push_back({"clamp", {{{9}, Draw::biased}}, [](const Inputs& x) {
                     return clamp(concat({x[0], 0.25 * x[0]}, 0), -1.5, 2);
                   }});
  cases.push_back({"operator+", {{{9}}, {{9}}}, [](const Inputs& x) { return 2.5 + (x[0] + x[1]) + 1.5; }});
  cases.push_back({"operator-", {{{9}}, {{9}}}, [](const Inputs& x) { return 2.5 - (-(x[0] - x[1]) - 1.5); }});
  cases.push_back({"operator*", {{{9}}, {{9}}}, [](const Inputs& x) { return 2.5 * (x[0] * x[1]) * 1.5; }});
  cases.push_back(
      {"operator/", {{{9}}, {{9}, positive}}, [](const Inputs& x) { return (2.5 / x[1]) * (x[0] / x[1]) / 1.5; }});
}

void add_matmul(std::vector<OpCase>& cases) {
  cases.push_back({"matmul", {{{5, 17}}, {{17, 9}}}, [](const Inputs& x) { return matmul(x[0], x[1]); }});
  cases.push_back({"matmul: a^T", {{{17, 5}}, {{17, 9}}}, [](const Inputs& x) { return matmul(x[0], x[1], true); }});
  cases.push_back(
      {"matmul: b^T", {{{5, 17}}, {{9, 17}}}, [](const Inputs& x) { return matmul(x[0], x[1], false, true); }});
  cases.push_back(
      {"matmul: a^T b^T", {{{17, 5}}, {{9, 17}}}, [](const Inputs& x) { return matmul(x[0], x[1], true, true); }});
  cases.push_back({"matmul: batched", {{{2, 3, 4}}, {{2, 4, 5}}}, [](const Inputs& x) { return matmul(x[0], x[1]); }});
  cases.push_back({"matmul: views", {{{4, 3}}, {{5, 4}}}, [](const Inputs& x) {
                     return matmul(transpose(x[0], 0, 1), transpose(x[1], 0, 1));
                   }});
  cases.push_back({"linear", {{{3, 8}}, {{5, 8}}, {{5}}}, [](const Inputs& x) { return linear(x[0], x[1], x[2]); }});
  cases.push_back({"linear: no bias", {{{33, 7}}, {{3, 7}}}, [](const Inputs& x) { return linear(x[0], x[1]); }});
  cases.push_back(
      {"linear: 3-d", {{{2, 3, 4}}, {{5, 4}}, {{5}}}, [](const Inputs& x) { return linear(x[0], x[1], x[2]); }});
  cases.push_back({"linear_relu", {{{3, 2}}, {{17, 2}}, {{17}, Draw::biased}}, [](const Inputs& x) {
                     return linear_relu(x[0], x[1], x[2]);
                   }});
  cases.push_back({"linear_residual", {{{3, 8}}, {{5, 8}}, {{3, 5}}, {{5}}}, [](const Inputs& x) {
                     return linear_residual(x[0], x[1], x[2], x[3]);
                   }});
}

void add_losses(std::vector<OpCase>& cases) {
  cases.push_back({"softmax", {{{4, 17}}}, [](const Inputs& x) { return softmax(x[0]); }});
  cases.push_back({"log_softmax", {{{2, 3, 5}}}, [](const Inputs& x) { return log_softmax(x[0]); }});
  cases.push_back({"nll_loss", {{{6, 5}}}, [](const Inputs& x) { return nll_loss(x[0], ids({6}, 5)); }});
  cases.push_back({"cross_entropy", {{{9, 10}}}, [](const Inputs& x) { return cross_entropy(x[0], ids({9}, 10)); }});
  cases.push_back(
      {"cross_entropy: smoothed", {{{9, 10}}}, [](const Inputs& x) { return cross_entropy(x[0], ids({9}, 10), 0.1); }});
  cases.push_back({"mse_loss", {{{4, 9}}, {{4, 9}}}, [](const Inputs& x) { return mse_loss(x[0], x[1]); }});
  cases.push_back(
      {"sum_squared_error", {{{4, 9}}, {{4, 9}}}, [](const Inputs& x) { return sum_squared_error(x[0], x[1]); }});
  cases.push_back({"sum", {{{3, 11}}}, [](const Inputs& x) { return sum(square(x[0])); }});
  cases.push_back({"sum: first", {{{3, 11}}}, [](const Inputs& x) { return sum(square(x[0]), 0); }});
  cases.push_back({"sum: middle", {{{2, 3, 4}}}, [](const Inputs& x) { return sum(square(x[0]), 1); }});
  cases.push_back({"sum: last kept", {{{3, 11}}}, [](const Inputs& x) { return sum(square(x[0]), -1, true); }});
  cases.push_back({"mean", {{{3, 11}}}, [](const Inputs& x) { return mean(square(x[0])); }});
  cases.push_back({"mean: first", {{{3, 11}}}, [](const Inputs& x) { return mean(square(x[0]), 0); }});
  cases.push_back({"mean: last kept", {{{3, 11}}}, [](const Inputs& x) { return mean(square(x[0]), 1, true); }});
}

void add_shapes(std::vector<OpCase>& cases) {
  cases.push_back({"concat", {{{3, 2}}, {{3, 5}}}, [](const Inputs& x) { return square(concat({x[0], x[1]}, 1)); }});
  cases.push_back({"concat: first", {{{2, 3}}, {{4, 3}}}, [](const Inputs& x) { return square(concat(x, 0)); }});
  cases.push_back({"stack", {{{3, 4}}, {{3, 4}}}, [](const Inputs& x) { return square(stack(x, 1)); }});
  cases.push_back({"stack: last, three times", {{{2, 3}}, {{2, 3}}}, [](const Inputs& x) {
                     return square(stack({x[0], x[1], x[0]}, -1));
                   }});
  cases.push_back({"slice", {{{5, 6}}}, [](const Inputs& x) { return square(slice(x[0], 1, 2, 5)); }});
  cases.push_back({"slice: overlapping", {{{6, 3}}}, [](const Inputs& x) {
                     return mul(slice(x[0], 0, 0, 4), slice(x[0], 0, 2, 6));
                   }});
  cases.push_back({"reshape", {{{4, 6}}}, [](const Inputs& x) { return square(reshape(x[0], {3, -1})); }});
  cases.push_back({"reshape: of a view", {{{4, 6}}}, [](const Inputs& x) {
                     return square(reshape(transpose(x[0], 0, 1), {8, 3}));
                   }});
  cases.push_back({"transpose", {{{2, 3, 4}}}, [](const Inputs& x) { return square(transpose(x[0], 0, 2)); }});
  cases.push_back({"embedding", {{{5, 7}}}, [](const Inputs& x) { return square(embedding(x[0], ids({11}, 5))); }});
  cases.push_back({"embedding: 2-d ids", {{{5, 7}}}, [](const Inputs& x) {
                     return square(embedding(x[0], ids({2, 3}, 5)));
                   }});
  cases.push_back({"layer_norm", {{{4, 19}}, {{19}, Draw::positive}, {{19}}}, [](const Inputs& x) {
                     return layer_norm(x[0], x[1], x[2]);
                   }});
}

}  // namespace

std::vector<Tensor> OpCase::draw() const {
  std::vector<Tensor> values;
  Random random(2024, std::hash<std::string>{}(label));
  for (const Input& input : inputs) {
    const Tensor x = Tensor::empty(input.shape, DType::f64);
    for (int64_t i = 0; i < x.numel(); ++i)
      x.data<double>()[i] = static_cast<double>(static_cast<float>(drawn(random, input.draw, i)));
    values.push_back(x);
  }
  return values;
}

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = [] {
    std::vector<OpCase> all;
    add_elementwise(all);
    add_matmul(all);
    add_losses(all);
    add_shapes(all);
    return all;
  }();
  return cases;
}

}  // namespace qinco::tests
