// Modules: initialisation, state, files, generators. Parameters are in parameter_test.cpp.
#include <cmath>
#include <doctest/doctest.h>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

struct Net : nn::Module {
  explicit Net(uint64_t seed) : random(seed) {}
  Random random;
  nn::Embedding& codebook = register_module("codebook", nn::Embedding(5, 4, random));
  nn::Sequential& body =
      register_module("body", nn::Sequential(nn::Linear(4, 8, random), nn::ReLU(), nn::Linear(8, 3, false, random)));
  Variable scale = register_parameter("scale", ones({3}));

  Variable operator()(const Tensor& ids) { return body(codebook(ids)) * scale; }
};

std::vector<std::string> names(const nn::Module& module) {
  std::vector<std::string> all;
  for (const auto& [name, parameter] : module.named_parameters()) all.push_back(name);
  return all;
}

struct Moments {
  double mean, variance, low, high;
};
Moments moments(const Tensor& x) {
  const Tensor values = x.to(DType::f64).reshape({-1});
  const auto n = static_cast<double>(values.numel());
  const double mean = sum(values).item<double>() / n;
  double low = mean, high = mean;
  for (int64_t i = 0; i < values.numel(); ++i) {
    low = std::min(low, values.data<double>()[i]);
    high = std::max(high, values.data<double>()[i]);
  }
  return {mean, sum_squared_difference(values, full(values.shape(), mean, DType::f64)) / n, low, high};
}

}  // namespace

TEST_CASE("nn: parameters have PyTorch's names, in order") {
  const Net net(1);
  CHECK(names(net) ==
        std::vector<std::string>{"scale", "codebook.weight", "body.0.weight", "body.0.bias", "body.2.weight"});
  CHECK(net.parameter_count() == 3 + 20 + 32 + 8 + 24);
}

TEST_CASE("nn: Linear starts uniform in +-1/sqrt(in), bias too") {
  Random random(5);
  const nn::Linear layer(100, 2000, random);
  for (const Variable& parameter : {layer.weight, layer.bias}) {
    const Moments m = moments(parameter.value());
    const auto n = static_cast<double>(parameter.value().numel());
    CHECK(m.low >= -0.1);
    CHECK(m.high <= 0.1);
    CHECK(m.high - m.low >= 0.199);
    const double variance = 0.2 * 0.2 / 12;
    CHECK(std::abs(m.mean) <= 4 * std::sqrt(variance / n));
    CHECK(m.variance == doctest::Approx(variance).epsilon(6 / std::sqrt(n)));
  }
}

TEST_CASE("nn: Embedding starts normal, LayerNorm at 1 and 0") {
  Random random(6);
  const nn::Embedding embedding(500, 200, random);
  const Moments m = moments(embedding.weight.value());
  CHECK(std::abs(m.mean) <= 4 / std::sqrt(1e5));
  CHECK(m.variance == doctest::Approx(1).epsilon(6 * std::sqrt(2 / 1e5)));
  CHECK(m.high >= 3.5);
  nn::LayerNorm norm(7);
  CHECK(same_bits(norm.weight.value(), ones({7})));
  CHECK(same_bits(norm.bias.value(), zeros({7})));
  Tensor x = Tensor::empty({3, 7});
  random.normal(x, 5, 2);
  const Moments normalised = moments(norm(x).value());
  CHECK(std::abs(normalised.mean) <= 1e-6);
  CHECK(normalised.variance == doctest::Approx(1).epsilon(1e-4));
}

TEST_CASE("nn: layers are of the dtype that they are given, and LayerNorm of its eps") {
  Random random(7);
  nn::Linear linear(4, 3, true, random, DType::f64);
  const nn::Embedding embedding(5, 4, random, DType::f64);
  nn::LayerNorm norm(4, 3, DType::f64);  // of values that have mean 0 and variance 1: they are halved
  for (const Variable& parameter : {linear.weight, linear.bias, embedding.weight, norm.weight, norm.bias})
    CHECK(parameter.dtype() == DType::f64);
  const Tensor x = from_vector<double>({1, -1, 1, -1});
  CHECK(linear(x).dtype() == DType::f64);
  CHECK(worst_difference(norm(x).value(), scale(x, 0.5)) <= 1e-15);
  CHECK(worst_difference(nn::LayerNorm(4, 3)(x.to(DType::f32)).value(), scale(x, 0.5)) <= 1e-6);
  CHECK(nn::Dropout(0.5, 1)(x).dtype() == DType::f64);
}

TEST_CASE("nn: the same seed gives the same module") {
  CHECK(same_bits(Net(3).state().at("body.0.weight"), Net(3).state().at("body.0.weight")));
  CHECK(!same_bits(Net(3).state().at("body.0.weight"), Net(4).state().at("body.0.weight")));
}

TEST_CASE("nn: Sequential fuses Linear and ReLU without a difference") {
  Random random(8);
  nn::Linear linear(6, 5, random);
  const Variable weight = linear.weight, bias = linear.bias;
  nn::Sequential fused(std::move(linear), nn::ReLU(), nn::Tanh());
  Tensor x = Tensor::empty({4, 6});
  random.normal(x);
  const Variable apart = autograd::tanh(autograd::relu(autograd::linear(x, weight, bias)));
  const Variable y = fused(x);
  CHECK(worst_difference(y.value(), apart.value()) <= 1e-6);
  autograd::sum(y).backward();
  const Tensor grad = weight.grad();
  fused.zero_grad();
  autograd::sum(apart).backward();
  CHECK(worst_difference(grad, weight.grad()) <= 1e-6);
  CHECK(!(grad.numel() == 0));
}

/// Has a forward of its own, which a fusion of Linear and ReLU would pass by.
struct Doubled : nn::Linear {
  using nn::Linear::Linear;
  Variable forward(const Variable& x) override {
    const Variable y = nn::Linear::forward(x);
    return autograd::add(y, y);
  }
};

TEST_CASE("nn: Sequential calls what a class derived from Linear computes") {
  Random random(9), same(9);
  nn::Sequential net(Doubled(3, 4, random), nn::ReLU());
  const nn::Linear linear(3, 4, same);
  const Tensor x = normal_vectors(5, 3, 1);
  const Variable plain = autograd::relu(autograd::linear(x, linear.weight, linear.bias));
  CHECK(worst_difference(net(x).value(), scale(plain.value(), 2)) <= 1e-6);
}

TEST_CASE("nn: activations are the operations of their names") {
  const Tensor x = arange(7, -3);
  CHECK(same_bits(nn::ReLU()(x).value(), relu(x)));
  CHECK(same_bits(nn::GELU()(x).value(), gelu(x)));
  CHECK(same_bits(nn::Tanh()(x).value(), tanh(x)));
  CHECK(same_bits(nn::Sigmoid()(x).value(), sigmoid(x)));
  CHECK(same_bits(nn::SiLU()(x).value(), silu(x)));
}

TEST_CASE("nn: Dropout in training and not") {
  nn::Sequential net(nn::Dropout(0.25, 9));
  const Tensor x = ones({100, 100});
  net.eval();
  CHECK(same_bits(net(x).value(), x));
  net.train();
  const Tensor y = net(x).value();
  const Moments m = moments(y);
  CHECK(m.low == 0);
  CHECK(m.high == doctest::Approx(1 / 0.75));
  CHECK(std::abs(m.mean - 1) <= 4 * std::sqrt(0.25 / 0.75 / 1e4));
  CHECK(!same_bits(net(x).value(), y));
  CHECK(contains(error_of([] { nn::Dropout(1, 0); }), "expected 0 <= p < 1, found 1"));
  Random random(5);
  nn::Dropout first(0.25, random), second(0.25, random);
  CHECK(!same_bits(first(x).value(), second(x).value()));
}

TEST_CASE("nn: layers of no size are refused by name") {
  Random random(1);
  CHECK(error_of([&] { nn::Embedding(0, 4, random); }) ==
        "embedding: expected sizes of at least 1, found count 0 and d 4");
  CHECK(error_of([&] { nn::Embedding(4, -1, random); }) ==
        "embedding: expected sizes of at least 1, found count 4 and d -1");
  CHECK(contains(error_of([] {
                   nn::Embedding(zeros({0, 4}));
                 }),
                 "embedding: expected a table [N,d], sizes of at least"));
  CHECK(contains(error_of([] { nn::Embedding(zeros({4, 0})); }), "found shape [4,0]"));
  CHECK(error_of([] { nn::Embedding{Tensor()}; }) == "embedding: the table is undefined");
  CHECK(contains(error_of([&] { nn::Linear(0, 4, random); }), "linear: expected sizes of at least 1, found in 0"));
  CHECK(contains(error_of([] { nn::Linear(Variable(zeros({4, 0}))); }), "linear: expected a weight [out,in]"));
  CHECK(error_of([] { nn::LayerNorm(0); }) == "layer_norm: expected a size of at least 1, found 0");
  CHECK(error_of([] { nn::LayerNorm(3, NAN); }) == "layer_norm: expected eps >= 0, found nan");
}

TEST_CASE("nn: a module that moved keeps its children and their references") {
  Net net(2);
  const Tensor ids = from_vector<int32_t>({0, 4, 2});
  const Tensor expected = net(ids).value();
  Net moved(std::move(net));
  CHECK(same_bits(moved(ids).value(), expected));
  CHECK(names(moved).size() == 5);
}

TEST_CASE("nn: state and files carry every parameter") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("net.safetensors");
  Net net(1), other(2);
  const Tensor ids = from_vector<int32_t>({1, 3});
  CHECK(!same_bits(net(ids).value(), other(ids).value()));
  nn::save(net, path, {{"format", "test"}});
  nn::load(other, path);
  CHECK(same_bits(net(ids).value(), other(ids).value()));
  CHECK(read_safetensors(path).metadata.at("format") == "test");

  TensorMap state = net.state();
  CHECK(!state.at("scale").shares_storage(net.scale.value()));
  const auto load = [&] { other.load(state); };
  state["scale"] = ones({4});
  CHECK(error_of(load) == "load: scale: expected f32 [3], found f32 [4]");
  state["scale"] = ones({3}, DType::f64);
  CHECK(error_of(load) == "load: scale: expected f32 [3], found f64 [3]");
  state.erase("scale");
  CHECK(error_of(load) == "load: parameter scale is missing");
  state["scale"] = zeros({3});
  state["stray"] = ones({1});
  CHECK(error_of(load) == "load: unexpected parameter stray");
  CHECK(same_bits(other.scale.value(), ones({3})));
  write_safetensors(path, {state, {}});
  CHECK(error_of([&] { nn::load(other, path); }) == path + ": load: unexpected parameter stray");
}

namespace {

/// Training that draws: two Dropouts at different places of the tree, and all that a run is.
struct DropoutRun {
  double step() {
    adam.zero_grad();
    const Variable loss = autograd::mse_loss(net(x), y);
    loss.backward();
    adam.step();
    return loss.item();
  }

  Random random{20};
  nn::Sequential net{nn::Linear(6, 8, random), nn::Dropout(0.5, 21), nn::Sequential(nn::Tanh(), nn::Dropout(0.25, 22)),
                     nn::Linear(8, 2, random)};
  Tensor x = normal_vectors(16, 6, 1), y = normal_vectors(16, 2, 2);
  optim::Adam adam{net.parameters(), {.lr = 0.01}};
};

}  // namespace

TEST_CASE("nn: training with Dropout that is saved, loaded and continued is bit-equal to never stopped") {
  const TemporaryDirectory directory;
  DropoutRun whole, resumed;
  for (int i = 0; i < 7; ++i) whole.step();
  nn::save(whole.net, directory.file("net"));
  write_safetensors(directory.file("adam"), {whole.adam.state(), {}});
  write_safetensors(directory.file("random"), {whole.net.random_state(), {}});
  std::vector<double> expected;
  for (int i = 0; i < 5; ++i) expected.push_back(whole.step());

  resumed.step();  // a state that loading must replace
  nn::load(resumed.net, directory.file("net"));
  resumed.adam.load_state(read_safetensors(directory.file("adam")).tensors);
  resumed.net.load_random_state(read_safetensors(directory.file("random")).tensors);
  std::vector<double> found;
  for (int i = 0; i < 5; ++i) found.push_back(resumed.step());
  CHECK(found == expected);
  for (const auto& item : whole.net.state()) CHECK(same_bits(item.second, resumed.net.state().at(item.first)));
}

TEST_CASE("nn: the state of generators has all their bits, in the tree's names, and a wrong one changes nothing") {
  DropoutRun run;
  TensorMap state = run.net.random_state();
  REQUIRE(state.size() == 2);
  CHECK(same_bits(state.at("1.random"), from_vector<int64_t>({21, 0, 0})));
  CHECK(same_bits(state.at("2.1.random"), from_vector<int64_t>({22, 0, 0})));
  nn::Dropout large(0.5, ~uint64_t{0});
  CHECK(same_bits(large.random_state().at("random"), from_vector<int64_t>({-1, 0, 0})));
  large.load_random_state({{"random", from_vector<int64_t>({-2, -3, 1})}});
  CHECK(same_bits(large.random_state().at("random"), from_vector<int64_t>({-2, -3, 1})));

  const auto load = [&] { run.net.load_random_state(state); };
  state["1.random"] = from_vector<int64_t>({1, 2, 3});
  state["2.1.random"] = ones({3});
  CHECK(error_of(load) == "load_random_state: 2.1.random: expected i64 [3], found f32 [3]");
  state.erase("2.1.random");
  CHECK(error_of(load) == "load_random_state: generator 2.1.random is missing");
  state["2.1.random"] = from_vector<int64_t>({4, 5, 6});
  state["stray"] = from_vector<int64_t>({4, 5, 6});
  CHECK(error_of(load) == "load_random_state: unexpected generator stray");
  CHECK(same_bits(run.net.random_state().at("1.random"), from_vector<int64_t>({21, 0, 0})));
  struct Twice : nn::Module {
    Twice() {
      register_random("r", Random(1));
      register_random("r", Random(2));
    }
  };
  CHECK(contains(error_of([] { Twice(); }), "two generators named r"));
}
