// Parameters: whose memory they write to, who shares them, which are frozen, what they are called.
#include <doctest/doctest.h>
#include <utility>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

// One step of SGD that subtracts 1 from every element.
void subtract_one(const std::vector<Variable>& parameters) {
  optim::SGD sgd(parameters, {.lr = 1});
  for (Variable parameter : parameters)
    parameter.set_grad(ones(parameter.shape(), parameter.dtype(), parameter.value().device()));
  sgd.step();
}

/// A module whose parameters are given to it.
struct Given : nn::Module {
  template <class... Values>
  explicit Given(const std::string& name, Values&&... values) {
    (register_parameter(name, std::forward<Values>(values)), ...);
  }
};

}  // namespace

TEST_CASE("parameter: tensors of a mapped file can be trained, and the file stays") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("table");
  write_safetensors(path, {{{"table", ones({4, 3})}}, {}});
  const Tensor mapped = read_safetensors(path).tensors.at("table");
  const Variable leaf(mapped, true);
  Variable set(zeros({4, 3}), true);
  set.set_value(mapped);
  const nn::Embedding embedding(mapped);
  const nn::Linear linear(mapped);
  const Given module("w", mapped);
  for (const Variable& parameter : {leaf, set, embedding.weight, linear.weight, module.parameters().front()}) {
    subtract_one({parameter});
    CHECK(same_bits(parameter.value(), zeros({4, 3})));
  }
  CHECK(same_bits(mapped, ones({4, 3})));
  CHECK(same_bits(read_safetensors(path).tensors.at("table"), ones({4, 3})));
  CHECK(Variable(mapped).value().shares_storage(mapped));  // nobody writes to a constant
}

TEST_CASE("parameter: a module's memory is its own") {
  Tensor table = ones({4, 3});
  const Tensor rows = table.slice(0, 1, 3), spread = ones({1, 3}).expand({2, 3});
  const Given whole("w", table), view("w", rows), last("w", table.slice(0, 3, 4)), expanded("w", spread);
  const nn::Embedding embedding(table);
  const Tensor offsets = ones({4});
  const nn::Linear linear(table, offsets);
  for (const Variable& parameter : {whole.parameters()[0], view.parameters()[0], last.parameters()[0],
                                    expanded.parameters()[0], embedding.weight, linear.weight, linear.bias}) {
    subtract_one({parameter});
    CHECK(same_bits(parameter.value(), zeros(parameter.shape())));
  }
  CHECK(same_bits(table, ones({4, 3})));
  CHECK(same_bits(offsets, ones({4})));
  CHECK(same_bits(spread, ones({2, 3})));
  CHECK(contains(error_of([] { Given("w", Tensor()); }), "module: parameter w: the tensor is undefined"));
}

TEST_CASE("parameter: a tensor just made, or moved to a module, is not copied") {
  constexpr int64_t kRows = 1000, kBytes = kRows * 256 * 4;
  const int64_t before = memory_stats().live;
  reset_memory_peak();
  const nn::Embedding made(zeros({kRows, 256}));
  CHECK(memory_stats().peak - before <= kBytes + kBytes / 2);
  Tensor table = zeros({kRows, 256});
  const std::byte* const memory = table.bytes();
  const Given moved("w", std::move(table));
  CHECK(moved.parameters()[0].value().bytes() == memory);
  table = zeros({kRows, 256});
  const std::byte* const weight = table.bytes();
  const nn::Linear linear(std::move(table));
  CHECK(linear.weight.value().bytes() == weight);
  CHECK(!linear.bias.defined());
}

namespace {

/// Scores of each row of a table against all rows, by the same weights: tied.
struct Tied : nn::Module {
  explicit Tied(uint64_t seed) : random(seed) {}
  Random random;
  nn::Embedding& tokens = register_module("tokens", nn::Embedding(5, 4, random));
  nn::Linear& scores = register_module("scores", nn::Linear(tokens.weight, Variable(zeros({5}), true)));
  Variable scale = register_parameter("scale", ones({1}));
  Variable again = register_parameter("again", scale);

  Variable loss(const Tensor& ids, const Tensor& targets) {
    return autograd::cross_entropy(scores(tokens(ids)) * scale, targets);
  }
};

}  // namespace

TEST_CASE("parameter: a shared one is listed, trained, saved and loaded once") {
  const TemporaryDirectory directory;
  const Tensor ids = from_vector<int32_t>({0, 1, 2, 3, 4}), targets = from_vector<int32_t>({1, 2, 3, 4, 0});
  Tied net(1), other(2);
  std::string names;
  for (const auto& [name, parameter] : net.named_parameters()) names += name + " ";
  CHECK(names == "scale tokens.weight scores.bias ");
  CHECK(net.parameter_count() == 1 + 20 + 5);

  // The gradient is the sum of what the two uses give, one update is made, and both uses see it.
  net.loss(ids, targets).backward();
  const Variable table(net.tokens.weight.value().clone(), true), head(table.value().clone(), true);
  autograd::cross_entropy(autograd::linear(autograd::embedding(table, ids), head), targets).backward();
  CHECK(worst_difference(net.tokens.weight.grad(), add(table.grad(), head.grad())) <= 1e-6);
  optim::SGD sgd(net.parameters(), {.lr = 0.5});
  const Tensor expected = sub(table.value(), scale(net.tokens.weight.grad(), 0.5));
  sgd.step();
  CHECK(worst_difference(net.scores.weight.value(), expected) <= 1e-6);

  nn::save(net, directory.file("tied"));
  CHECK(read_safetensors(directory.file("tied")).tensors.size() == 3);
  nn::load(other, directory.file("tied"));
  CHECK(same_bits(other.scores.weight.value(), net.tokens.weight.value()));
  CHECK(same_bits(other.loss(ids, targets).value(), net.loss(ids, targets).value()));
}

TEST_CASE("parameter: a shared one loads by any of its names, or by all of one value") {
  const Tied net(1);
  Tied other(2);
  TensorMap state = net.state();
  const auto loads = [&] {
    other.load(Tied(3).state());
    other.load(state);
    return same_bits(other.tokens.weight.value(), net.tokens.weight.value());
  };
  const auto error = [&] {
    const Tensor before = other.tokens.weight.value().clone();
    const std::string message = error_of([&] { other.load(state); });
    CHECK(same_bits(other.tokens.weight.value(), before));
    return message;
  };
  state["scores.weight"] = state["tokens.weight"].clone();
  state["again"] = state["scale"];
  CHECK(loads());
  state.erase("tokens.weight");
  CHECK(loads());
  state.erase("scores.weight");
  CHECK(contains(error(), "load: parameter tokens.weight is missing"));
  state["tokens.weight"] = net.tokens.weight.value();
  state["scores.weight"] = add(net.tokens.weight.value(), ones({5, 4}));
  CHECK(contains(error(), "load: tokens.weight and scores.weight are one parameter here, and differ"));
  state["scores.weight"] = zeros({4, 5});
  CHECK(contains(error(), "load: scores.weight: expected f32 [5,4], found f32 [4,5]"));
}

TEST_CASE("parameter: what cannot be shared is an error, and memory that cannot be written to is copied") {
  const Variable leaf(ones({2}), true), result = leaf * 2.0;
  CHECK(contains(error_of([&] { Given("w", result); }), "parameter w: expected a leaf of f32 or f64"));
  CHECK(contains(error_of([] { Given("w", Variable(ones({2}, DType::i32))); }), "expected a leaf of f32 or f64"));
  CHECK(contains(error_of([] { Given("w", Variable()); }), "parameter w: the variable is undefined"));
  CHECK(contains(error_of([&] { nn::Linear{leaf}; }),
                 "linear: expected a weight [out,in], sizes of at least 1, found shape [2]"));
  const Variable weight(ones({3, 2}), true);
  CHECK(contains(error_of([&] { nn::Linear(weight, leaf); }),
                 "linear: weight [3,2]: expected a bias f32 [3], found f32 [2]"));
  CHECK(
      contains(error_of([&] { nn::Linear(weight, Variable(zeros({3}, DType::f64))); }), "bias f32 [3], found f64 [3]"));
  CHECK(contains(error_of([] { nn::Linear(ones({3, 2}), zeros({2})); }), "expected a bias f32 [3], found f32 [2]"));
  CHECK(error_of([] { nn::Linear{Tensor()}; }) == "linear: the weight is undefined");
  CHECK(contains(error_of([&] { nn::Embedding{leaf}; }),
                 "embedding: expected a table [N,d], sizes of at least 1, found shape [2]"));
  std::vector<float> theirs = {1, 1};
  Given given("w", Variable(wrap(theirs.data(), {2}, DType::f32, nullptr)));
  given.load({{"w", zeros({2})}});
  CHECK(theirs == std::vector<float>{1, 1});
}

TEST_CASE("parameter: values that lie on parameters are loaded as they were") {
  const auto counted = [](double start) { return arange(9, start).reshape({3, 3}); };
  nn::Sequential net(nn::Linear(counted(0)), nn::Linear(counted(100)));
  const Tensor first = net.parameters()[0].value(), second = net.parameters()[1].value();
  net.load({{"0.weight", second}, {"1.weight", first.transpose(0, 1)}});
  CHECK(same_bits(net.state().at("0.weight"), counted(100)));
  CHECK(same_bits(net.state().at("1.weight"), counted(0).transpose(0, 1).contiguous()));
  net.load({{"0.weight", first.transpose(0, 1)}, {"1.weight", second}});
  CHECK(same_bits(net.state().at("0.weight"), counted(100).transpose(0, 1).contiguous()));
  CHECK(same_bits(net.state().at("1.weight"), counted(0).transpose(0, 1).contiguous()));
}

TEST_CASE("parameter: a frozen one can be loaded, whatever its value lies on") {
  const TemporaryDirectory directory;
  write_safetensors(directory.file("table"), {{{"table", ones({2, 2})}}, {}});
  const Tensor mapped = read_safetensors(directory.file("table")).tensors.at("table");
  const Tensor wanted = from_vector<float>({1, 2, 3, 4}).reshape({2, 2});
  for (const Tensor& value : {mapped, ones({1, 2}).expand({2, 2}), zeros({2, 2}).transpose(0, 1)}) {
    nn::Embedding embedding(ones({2, 2}));
    embedding.weight.set_requires_grad(false);
    embedding.weight.set_value(value);
    embedding.load({{"weight", wanted}});
    CHECK(same_bits(embedding.weight.value().contiguous(), wanted));
  }
  CHECK(same_bits(mapped, ones({2, 2})));
}

TEST_CASE("parameter: names are not empty, have no '.', and are there once") {
  struct Parent : nn::Module {
    explicit Parent(const std::string& name) { register_module(name, nn::ReLU()); }
  };
  for (const std::string name : {"", ".", "a.b", "a."}) {
    const std::string expected = "named \"" + name + "\": expected a name that is not empty and without '.'";
    CHECK(contains(error_of([&] { Given(name, ones({1})); }), "module: a parameter " + expected));
    CHECK(contains(error_of([&] { Parent{name}; }), "module: a module " + expected));
  }
  CHECK(contains(error_of([] { Given("w", ones({1}), ones({1})); }), "two parameters named w"));
  const Variable shared(ones({1}), true);
  CHECK(contains(error_of([&] { Given("w", shared, shared); }), "two parameters named w"));
}

namespace {

// Steps of AdamW, whose decay moves all that it is allowed to, on a regression by two layers.
double train_steps(nn::Sequential& net, optim::Optimizer& optimizer, int steps) {
  const Tensor x = normal_vectors(16, 4, 1), y = normal_vectors(16, 2, 2);
  double loss = 0;
  for (int i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    const Variable error = autograd::mse_loss(net(x), y);
    error.backward();
    optimizer.step();
    loss = error.item();
  }
  return loss;
}

nn::Sequential two_layers(uint64_t seed) {
  Random random(seed);
  nn::Sequential net;
  net.append(nn::Linear(4, 6, random));
  net.append(nn::Tanh());
  net.append(nn::Linear(6, 2, random));
  return net;
}

void set_first_trained(const nn::Module& net, bool on) {
  for (auto& [name, parameter] : net.named_parameters())
    if (name.starts_with("0.")) Variable(parameter).set_requires_grad(on);
}

}  // namespace

TEST_CASE("parameter: a frozen one keeps its value, is saved with the others, and can be trained again") {
  nn::Sequential net = two_layers(3);
  optim::AdamW adam(net.parameters(), {.lr = 0.01});
  train_steps(net, adam, 2);
  const TensorMap before = net.state();
  set_first_trained(net, false);
  CHECK(net.parameters().size() == 4);
  for (const nn::NamedParameter& p : net.named_parameters())
    CHECK_MESSAGE(p.parameter.grad().defined() == !p.name.starts_with("0."), p.name);  // what it had goes
  const double at_first = train_steps(net, adam, 1);
  CHECK(train_steps(net, adam, 5) < at_first);
  const TensorMap frozen = net.state();
  CHECK(same_bits(frozen.at("0.weight"), before.at("0.weight")));
  CHECK(same_bits(frozen.at("0.bias"), before.at("0.bias")));
  CHECK(!same_bits(frozen.at("2.weight"), before.at("2.weight")));
  CHECK(same_bits(adam.state().at("steps"), from_vector<int64_t>({2, 2, 8, 8})));
  CHECK(optim::clip_grad_norm(net.parameters(), 1e9) > 0);

  // A new optimiser takes frozen parameters, and goes on from the other's state, and trains them when they may be.
  nn::Sequential other = two_layers(4);
  set_first_trained(other, false);
  optim::AdamW second(other.parameters(), {.lr = 0.01});
  other.load(frozen);
  second.load_state(adam.state());
  for (nn::Sequential* each : {&net, &other}) set_first_trained(*each, true);
  CHECK(train_steps(net, adam, 3) == train_steps(other, second, 3));
  CHECK(!same_bits(net.state().at("0.weight"), before.at("0.weight")));
  CHECK(same_bits(net.state().at("0.weight"), other.state().at("0.weight")));
}

TEST_CASE("parameter: freezing between an operation and its backward, and what cannot be frozen") {
  Variable a(ones({2}), true), b(ones({2}), true);
  const Variable product = autograd::sum(a * b);
  a.set_requires_grad(false);
  product.backward();
  CHECK(!a.grad().defined());
  CHECK(same_bits(b.grad(), ones({2})));
  CHECK(!(a * 2.0).requires_grad());
  a.set_grad(Tensor());
  CHECK(contains(error_of([&] { a.set_grad(ones({2})); }), "no leaf that requires a gradient"));
  const Variable later = autograd::sum(a * b);
  a.set_requires_grad(true);  // too late for what was recorded without it
  later.backward();
  CHECK(!a.grad().defined());

  Variable result = a * b, ids(ones({2}, DType::i32)), undefined;
  CHECK(error_of([&] { result.set_requires_grad(false); }) == "set_requires_grad: the variable is the result of mul");
  CHECK(contains(error_of([&] { ids.set_requires_grad(true); }), "a gradient needs f32 or f64, found i32"));
  CHECK(contains(error_of([&] { undefined.set_requires_grad(true); }), "undefined"));
  std::vector<float> theirs = {1, 1};
  Variable constant(wrap(theirs.data(), {2}, DType::f32, nullptr));
  constant.set_requires_grad(true);
  subtract_one({constant});
  CHECK(theirs == std::vector<float>{1, 1});
}
