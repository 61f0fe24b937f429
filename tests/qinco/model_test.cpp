#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <map>

#include "autograd/ops.h"
#include "qinco/model/qinco.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

std::map<std::string, std::string> shapes_of(const Qinco& model) {
  std::map<std::string, std::string> shapes;
  for (const auto& [name, parameter] : model.named_parameters()) shapes[name] = parameter.shape().str();
  return shapes;
}

// The worst relative difference between backward() and 4th-order central differences over all parameter elements.
double loss_gradient_error(const QincoConfig& config) {
  const int64_t n = 5;
  Qinco model = random_model(config, 3, DType::f64);
  const Tensor x = random_vectors(config, n, 4).to(DType::f64);
  const Tensor codes = random_codes(config, n, 5);
  model.loss(x, codes).backward();
  const auto loss_at = [&](double& value, double at) {
    const autograd::NoGrad no_grad;
    const double before = value;
    value = at;
    const double loss = model.loss(x, codes).item();
    value = before;
    return loss;
  };
  double worst = 0;
  for (const auto& [name, parameter] : model.named_parameters()) {
    const Tensor grad = parameter.grad();
    REQUIRE(grad.defined());
    double scale = 1e-12;
    for (int64_t i = 0; i < grad.numel(); ++i) scale = std::max(scale, std::abs(grad.data<double>()[i]));
    for (int64_t i = 0; i < grad.numel(); ++i) {
      double& value = parameter.value().data<double>()[i];
      const double at = value, step = 1e-4;
      const double numeric = (8 * (loss_at(value, at + step) - loss_at(value, at - step)) -
                              (loss_at(value, at + 2 * step) - loss_at(value, at - 2 * step))) /
                             (12 * step);
      const double error = std::abs(grad.data<double>()[i] - numeric) / scale;
      if (!(error <= worst)) worst = error;
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("for_each_parameter names the parameters of every variant and their shapes, without a model") {
  QincoConfig plain{.d = 5, .M = 3, .K = 8, .L = 2, .h = 3}, lowrank = plain, ivf = plain, single = plain;
  lowrank.lowrank = true;
  ivf.K_ivf = 6;
  single.M = 1;
  for (const QincoConfig& config : {plain, lowrank, ivf, single}) {
    CAPTURE(config.variant());
    std::map<std::string, std::string> shapes;
    for_each_parameter(
        config, [&](const std::string& name, const Shape& shape) { CHECK(shapes.emplace(name, shape.str()).second); });
    CHECK(shapes == shapes_of(random_model(config, 1)));
  }
}

TEST_CASE("QINCo has the reference's parameter names and shapes") {
  Random random(1);
  const Qinco model(QincoConfig{.d = 6, .M = 2, .K = 4, .L = 2, .h = 5}, random);
  const std::map<std::string, std::string> expected = {
      {"codebook0.weight", "[4,6]"},
      {"step1.codebook.weight", "[4,6]"},
      {"step1.MLPconcat.weight", "[6,12]"},
      {"step1.MLPconcat.bias", "[6]"},
      {"step1.residual_block0.0.weight", "[5,6]"},
      {"step1.residual_block0.2.weight", "[6,5]"},
      {"step1.residual_block1.0.weight", "[5,6]"},
      {"step1.residual_block1.2.weight", "[6,5]"},
  };
  CHECK(shapes_of(model) == expected);
  CHECK(model.parameter_count() == model.config().parameter_count());
}

TEST_CASE("QINCo-LR has the reference's parameter names and shapes") {
  Random random(1);
  const Qinco model(QincoConfig{.d = 6, .M = 3, .K = 4, .L = 1, .h = 5, .lowrank = true}, random);
  std::map<std::string, std::string> expected = {{"codebook0.weight", "[4,6]"}};
  for (const std::string step : {"step1.", "step2."}) {
    expected[step + "codebook.weight"] = "[4,6]";
    expected[step + "MLPconcat.0.weight"] = "[5,12]";
    expected[step + "MLPconcat.1.weight"] = "[6,5]";
    expected[step + "residual_block0.0.weight"] = "[5,6]";
    expected[step + "residual_block0.2.weight"] = "[6,5]";
  }
  CHECK(shapes_of(model) == expected);
  CHECK(model.parameter_count() == model.config().parameter_count());
}

TEST_CASE("linear layers start uniform in +-1/sqrt(fan_in)") {
  const QincoConfig config{.d = 16, .M = 2, .K = 2, .L = 1, .h = 64};
  Random random(9);
  const Qinco model(config, random);
  const std::map<std::string, double> bounds = {{"step1.MLPconcat.weight", 1 / std::sqrt(32.0)},
                                                {"step1.MLPconcat.bias", 1 / std::sqrt(32.0)},
                                                {"step1.residual_block0.0.weight", 1 / std::sqrt(16.0)},
                                                {"step1.residual_block0.2.weight", 1 / std::sqrt(64.0)}};
  for (const nn::NamedParameter& p : model.named_parameters()) {
    if (!bounds.count(p.name)) continue;
    const Tensor& w = p.parameter.value();
    float largest = 0;
    for (int64_t i = 0; i < w.numel(); ++i) largest = std::max(largest, std::abs(w.data<float>()[i]));
    CAPTURE(p.name);
    CHECK(largest <= bounds.at(p.name) * 1.000001);
    CHECK(largest >= bounds.at(p.name) * 0.75);  // the largest of 16 or more draws
  }
}

TEST_CASE("the gradient of the whole loss equals finite differences, in double") {
  CHECK(loss_gradient_error({.d = 4, .M = 3, .K = 4, .L = 2, .h = 5}) <= 1e-7);
  CHECK(loss_gradient_error({.d = 4, .M = 3, .K = 4, .L = 2, .h = 3, .lowrank = true}) <= 1e-7);
  CHECK(loss_gradient_error({.d = 1, .M = 2, .K = 2, .L = 1, .h = 1}) <= 1e-7);
  CHECK(loss_gradient_error({.d = 3, .M = 1, .K = 4, .L = 1, .h = 1}) <= 1e-7);
}

TEST_CASE("a prefix of the codes decodes to the same partial reconstructions") {
  const QincoConfig config{.d = 7, .M = 4, .K = 8, .L = 1, .h = 6};
  const Qinco model = random_model(config, 1);
  const Tensor codes = random_codes(config, 9, 2);
  const std::vector<Variable> all = model.decode_partials(codes);
  REQUIRE(all.size() == 4);
  for (int64_t m = 1; m <= 4; ++m) {
    const std::vector<Variable> prefix = model.decode_partials(codes.slice(1, 0, m));
    REQUIRE(static_cast<int64_t>(prefix.size()) == m);
    CHECK(same_bits(prefix.back().value(), all[static_cast<size_t>(m - 1)].value()));
  }
}

TEST_CASE("a config out of range is an error that names the value") {
  Random random(1);
  const auto message = [&](const QincoConfig& config) {
    try {
      const Qinco model(config, random);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(message({.d = 0}) == "d: expected 1 to 1048576, found 0");
  CHECK(message({.d = 4, .M = 0}) == "M: expected 1 to 1048576, found 0");
  CHECK(message({.d = 4, .K = 100}) == "K: expected a power of two from 2 to 65536, found 100");
  CHECK(message({.d = 4, .K = 1 << 17}) == "K: expected a power of two from 2 to 65536, found 131072");
  CHECK(message({.d = 4, .L = -1}) == "L: expected 1 to 1048576, found -1");
  CHECK(message({.d = 4, .h = 0}) == "h: expected 1 to 1048576, found 0");
  CHECK(message({.d = 4, .db_scale = 0}) == "db_scale: expected a finite value above 0, found 0");
  CHECK(message({.d = 4, .db_scale = std::nanf("")}) == "db_scale: expected a finite value above 0, found nan");
}
