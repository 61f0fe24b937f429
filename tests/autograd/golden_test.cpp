// Against PyTorch: tests/golden/ops.safetensors, made by tests/golden/make_ops_golden.py.
#include <doctest/doctest.h>
#include <memory>
#include <set>

#include "autograd/optim/optimizer.h"
#include "autograd/optim/schedule.h"
#include "op_cases.h"
#include "tensor/create.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

const TensorMap& golden() {
  static const SafetensorsFile file = read_safetensors(QINCO_SOURCE_DIR "/tests/golden/ops.safetensors");
  return file.tensors;
}

const Tensor& golden(const std::string& name) {
  const auto found = golden().find(name);
  if (found == golden().end()) FAIL("no golden array " << name);
  return found->second;
}

std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& name, const std::vector<Variable>& p) {
  using namespace optim;
  if (name == "sgd") return std::make_unique<SGD>(p, SgdOptions{.lr = 0.1});
  if (name == "sgd momentum") return std::make_unique<SGD>(p, SgdOptions{.lr = 0.1, .momentum = 0.9});
  if (name == "sgd nesterov decay")
    return std::make_unique<SGD>(p, SgdOptions{.lr = 0.1, .momentum = 0.8, .weight_decay = 0.02, .nesterov = true});
  if (name == "adam") return std::make_unique<Adam>(p, AdamOptions{.lr = 0.05});
  if (name == "adam decay")
    return std::make_unique<Adam>(
        p, AdamOptions{.lr = 0.05, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1});
  if (name == "adamw") return std::make_unique<AdamW>(p, AdamWOptions{.lr = 0.05, .weight_decay = 0.1});
  FAIL("no optimiser named " << name);
  return nullptr;
}

}  // namespace

TEST_CASE("golden: values and gradients of every case are PyTorch's") {
  std::set<std::string> unused;
  for (const auto& [name, tensor] : golden())
    if (name.starts_with("ops/")) unused.insert(name.substr(4, name.rfind('/') - 4));
  for (const OpCase& op_case : op_cases()) {
    CAPTURE(op_case.label);
    const std::string prefix = "ops/" + op_case.label + "/";
    std::vector<Variable> inputs;
    for (size_t i = 0; i < op_case.inputs.size(); ++i) {
      inputs.emplace_back(golden(prefix + "in" + std::to_string(i)).clone(), true);
      REQUIRE(inputs.back().shape() == op_case.inputs[i].shape);
    }
    const Variable out = op_case.function(inputs);
    // Both sides round in single precision, in different orders: sums of up to 33 terms.
    CHECK(worst_difference(out.value(), golden(prefix + "out")) <= 2e-6);
    out.backward(golden(prefix + "seed"));
    for (size_t i = 0; i < inputs.size(); ++i)
      CHECK(worst_difference(inputs[i].grad(), golden(prefix + "grad" + std::to_string(i))) <= 2e-6);
    unused.erase(op_case.label);
  }
  for (const std::string& label : unused) FAIL_CHECK("a golden case without a test: " << label);
}

TEST_CASE("golden: ten steps of every optimiser are PyTorch's") {
  for (const std::string name : {"sgd", "sgd momentum", "sgd nesterov decay", "adam", "adam decay", "adamw"}) {
    CAPTURE(name);
    const std::string prefix = "optim/" + name + "/";
    Variable parameter(golden(prefix + "start").clone(), true);
    const auto optimizer = make_optimizer(name, {parameter});
    const Tensor &gradients = golden(prefix + "gradients"), &trajectory = golden(prefix + "trajectory");
    REQUIRE(gradients.size(0) == 10);
    for (int64_t t = 0; t < gradients.size(0); ++t) {
      CAPTURE(t);
      parameter.set_grad(gradients.row(t));
      optimizer->step();
      CHECK(worst_difference(parameter.value(), trajectory.row(t)) <= 1e-6);
    }
  }
}

TEST_CASE("golden: the schedules are PyTorch's") {
  const Tensor &losses = golden("schedule/plateau/values"), &rates = golden("schedule/plateau/rates");
  optim::ReduceOnPlateau plateau(0.5, {.factor = 0.3, .patience = 3, .threshold = 0.01, .cooldown = 2, .min_lr = 1e-3});
  std::set<double> distinct;
  for (int64_t i = 0; i < losses.numel(); ++i) {
    CAPTURE(i);
    const double rate = plateau.step(losses.data<double>()[i]);
    CHECK(rate == doctest::Approx(rates.data<double>()[i]).epsilon(1e-12));
    distinct.insert(rate);
  }
  CHECK(distinct.size() >= 4);

  const Tensor& cosine_rates = golden("schedule/cosine/rates");
  optim::CosineSchedule cosine(0.5, {.steps = 20, .min_lr = 0.01});
  for (int64_t i = 0; i < cosine_rates.numel(); ++i) {
    CAPTURE(i);
    CHECK(cosine.step() == doctest::Approx(cosine_rates.data<double>()[i]).epsilon(1e-9));
  }
}
