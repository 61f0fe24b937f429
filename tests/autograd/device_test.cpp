// Gradients, modules and optimisers on the devices besides the CPU.
#include <doctest/doctest.h>
#include <memory>

#include "autograd/gradcheck.h"
#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "op_cases.h"
#include "tensor/create.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

// The value and the gradients of the inputs, with a seed that differs from element to element.
std::vector<Tensor> run(const OpCase& op_case, DType dtype, Device device) {
  std::vector<Variable> inputs;
  for (const Tensor& x : op_case.draw()) inputs.emplace_back(x.to(dtype).to(device), true);
  const Variable y = op_case.function(inputs);
  std::vector<Tensor> results{y.value()};
  y.backward(arange(y.value().numel(), 0.5, 0.0625, dtype, device).reshape(y.shape()));
  for (const Variable& input : inputs) results.push_back(input.grad());
  return results;
}

struct LayersNet : nn::Module {
  explicit LayersNet(Random& random)
      : layers(register_module("layers", nn::Sequential(nn::Linear(5, 16, random), nn::ReLU(), nn::LayerNorm(16),
                                                        nn::Linear(16, 3, random)))) {}
  nn::Sequential& layers;
};

// The losses of 20 steps on fixed data.
std::vector<double> train(LayersNet& net, optim::Optimizer& optimizer, Device device, int steps) {
  const Tensor x = Tensor::empty({32, 5}, DType::f32, device), y = Tensor::empty({32, 3}, DType::f32, device);
  Random(3).normal(x);
  Random(4).normal(y);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    const Variable loss = autograd::mse_loss(net.layers(x), y);
    optimizer.zero_grad();
    loss.backward();
    optim::clip_grad_norm(net.parameters(), 0.5);
    optimizer.step();
    losses.push_back(loss.item());
  }
  return losses;
}

std::unique_ptr<optim::Optimizer> make_optimizer(int kind, const LayersNet& net) {
  if (kind == 0) return std::make_unique<optim::SGD>(net.parameters(), optim::SgdOptions{.lr = 0.1, .momentum = 0.9});
  if (kind == 1) return std::make_unique<optim::Adam>(net.parameters(), optim::AdamOptions{.lr = 0.01});
  return std::make_unique<optim::AdamW>(net.parameters(), optim::AdamWOptions{.lr = 0.01, .weight_decay = 0.1});
}

}  // namespace

TEST_CASE("device: every op's value and gradients are those of the CPU, and the same bits in every run") {
  for (const Device device : test_devices())
    for (const OpCase& op_case : op_cases()) {
      CAPTURE(op_case.label);
      for (const DType dtype : {DType::f32, DType::f64}) {
        const std::vector<Tensor> expected = run(op_case, DType::f64, Device{});
        const std::vector<Tensor> found = run(op_case, dtype, device), again = run(op_case, dtype, device);
        REQUIRE(found.size() == expected.size());
        for (size_t i = 0; i < found.size(); ++i) {
          CAPTURE(i);
          REQUIRE(found[i].defined());
          CHECK(found[i].device() == device);
          CHECK(found[i].dtype() == dtype);
          // Sums of at most 33 terms, as on the CPU.
          CHECK(worst_difference(found[i], expected[i]) <= (dtype == DType::f32 ? 2e-6 : 1e-14));
          CHECK(same_bits(found[i], again[i]));
        }
      }
    }
}

TEST_CASE("device: gradients agree with finite differences in double") {
  for (const Device device : test_devices())
    for (const OpCase& op_case : op_cases()) {
      CAPTURE(op_case.label);
      std::vector<Tensor> inputs;
      for (const Tensor& x : op_case.draw()) inputs.push_back(x.to(device));
      CHECK(autograd::gradcheck(op_case.function, inputs) <= 1e-7);
    }
}

TEST_CASE("device: PyTorch's values and gradients of every case") {
  const TensorMap golden = read_safetensors(QINCO_SOURCE_DIR "/tests/golden/ops.safetensors").tensors;
  for (const Device device : test_devices())
    for (const OpCase& op_case : op_cases()) {
      CAPTURE(op_case.label);
      const std::string prefix = "ops/" + op_case.label + "/";
      std::vector<Variable> inputs;
      for (size_t i = 0; i < op_case.inputs.size(); ++i)
        inputs.emplace_back(golden.at(prefix + "in" + std::to_string(i)).to(device), true);
      const Variable out = op_case.function(inputs);
      CHECK(worst_difference(out.value(), golden.at(prefix + "out")) <= 2e-6);
      out.backward(golden.at(prefix + "seed").to(device));
      for (size_t i = 0; i < inputs.size(); ++i)
        CHECK(worst_difference(inputs[i].grad(), golden.at(prefix + "grad" + std::to_string(i))) <= 2e-6);
    }
}

TEST_CASE("device: a module moves there, trains as on the CPU with every optimiser, and goes on from its state") {
  for (const Device device : test_devices())
    for (const int kind : {0, 1, 2}) {
      CAPTURE(kind);
      Random random(1), same(1);
      LayersNet here(random), there(same);
      there.to(device);
      for (const Variable& parameter : there.parameters()) CHECK(parameter.value().device() == device);
      const auto optimizer = make_optimizer(kind, here), on_device = make_optimizer(kind, there);
      const std::vector<double> expected = train(here, *optimizer, Device{}, 20);
      const std::vector<double> found = train(there, *on_device, device, 10);
      // Roundings of single precision, carried through ten and twenty updates.
      for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-4));

      Random other(2);
      LayersNet resumed(other);
      resumed.to(device);
      resumed.load(there.state());
      const auto carried = make_optimizer(kind, resumed);
      carried->load_state(on_device->state());
      const std::vector<double> rest = train(there, *on_device, device, 10);
      CHECK(rest == train(resumed, *carried, device, 10));
      for (size_t i = 0; i < rest.size(); ++i) CHECK(rest[i] == doctest::Approx(expected[10 + i]).epsilon(1e-3));
    }
}

TEST_CASE("device: dropout's masks are the CPU's, in every call and backward") {
  for (const Device device : test_devices())
    for (const DType dtype : {DType::f32, DType::f64}) {
      nn::Dropout here(0.3, 9), there(0.3, 9);
      for (int call = 0; call < 3; ++call) {
        const Variable x(arange(99, 1, 0.25, dtype).reshape({9, 11}), true), y(x.value().to(device), true);
        const Variable expected = here(x), found = there(y);
        CHECK(found.value().device() == device);
        CHECK(same_bits(found.value(), expected.value()));
        expected.backward(ones({9, 11}, dtype));
        found.backward(ones({9, 11}, dtype, device));
        CHECK(same_bits(y.grad(), x.grad()));
      }
    }
}

TEST_CASE("device: a gradient elsewhere is an error that names the parameter and both devices") {
  for (const Device device : test_devices()) {
    Variable first(ones({2}), true), second(ones({2}), true);
    optim::SGD sgd({first, second}, {.lr = 1});
    first.set_grad(ones({2}));
    second.set_grad(ones({2}, DType::f32, device));
    CHECK(error_of([&] { sgd.step(); }) == "optimizer: parameter 1 is on cpu, its gradient on " + device.name());
    CHECK(same_bits(first.value(), ones({2})));
  }
}
