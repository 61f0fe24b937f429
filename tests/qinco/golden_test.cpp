// Against PyTorch: tests/golden/model_qinco_golden.py made the files and says what is in them.
#include <cmath>
#include <doctest/doctest.h>
#include <string>

#include "autograd/ops.h"
#include "qinco/codec/codec.h"
#include "qinco/io/vectors.h"
#include "qinco/training/trainer.h"
#include "tensor/safetensors.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

// Single precision against single precision, through some tens of roundings; errors are of whole tensors.
constexpr double kGoldenRounding = 2e-6;

struct Golden {
  SafetensorsFile file;
  QincoConfig config;
  int64_t B = 0;
  int64_t first_row = 0;
  double lr = 0;

  explicit Golden(const std::string& name)
      : file(read_safetensors(std::string(QINCO_SOURCE_DIR) + "/tests/golden/" + name + ".safetensors")) {
    config = {integer("d"),
              integer("M"),
              integer("K"),
              integer("L"),
              integer("h"),
              integer("lowrank") != 0,
              std::stof(file.metadata.at("db_scale"))};
    B = integer("B");
    first_row = integer("first_row");
    lr = std::stod(file.metadata.at("lr"));
  }

  int64_t integer(const std::string& key) const { return std::stoll(file.metadata.at(key)); }
  const Tensor& tensor(const std::string& name) const { return file.tensors.at(name); }

  Qinco model() const {
    TensorMap parameters;
    for (const auto& [name, tensor] : file.tensors)
      if (name.rfind("param.", 0) == 0) parameters.emplace(name.substr(6), tensor);
    Random unused(0);
    Qinco model(config, unused);
    model.load(parameters);
    return model;
  }

  // Batch b in the original space.
  Tensor batch(int64_t b) const {
    const std::string learn = std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs";
    const int64_t begin = first_row + b * B;
    return read_rows(learn, begin, begin + B).slice(1, 0, config.d).contiguous();
  }
  Tensor scaled_batch(int64_t b) const { return div(batch(b), scalar(config.db_scale)); }
};

const char* const kVariants[] = {"qinco", "qinco_lr"};

void check_forward(Device device) {
  for (const std::string variant : kVariants) {
    CAPTURE(variant);
    const Golden golden(variant + "_step");
    Qinco model = golden.model();
    model.to(device);
    const Tensor codes = golden.tensor("codes").to(device);

    const Tensor code0 = codes.slice(1, 0, 1).squeeze(1).contiguous();
    const Tensor code1 = codes.slice(1, 1, 2).squeeze(1).contiguous();
    const Variable f1 = model.step(1).forward(autograd::embedding(model.codebook(1), code1),
                                              autograd::embedding(model.codebook(0), code0));
    CHECK(relative_difference(f1.value(), golden.tensor("f1")) <= kGoldenRounding);

    const std::vector<Variable> partials = model.decode_partials(codes);
    for (size_t m = 0; m < partials.size(); ++m) {
      CAPTURE(m);
      CHECK(relative_difference(partials[m].value(), golden.tensor("partial" + std::to_string(m))) <= kGoldenRounding);
    }
    const Variable loss = model.loss(golden.scaled_batch(0).to(device), codes);
    CHECK(std::abs(loss.item() / golden.tensor("loss").item<double>() - 1) <= kGoldenRounding);
    loss.backward();
    for (const nn::NamedParameter& p : model.named_parameters()) {
      CAPTURE(p.name);
      CHECK(relative_difference(p.parameter.grad(), golden.tensor("grad." + p.name)) <= kGoldenRounding);
    }
  }
}

void check_codec(Device device) {
  for (const std::string variant : kVariants) {
    CAPTURE(variant);
    const Golden golden(variant + "_step");
    const Codec codec(golden.model(), kernels::Precision::exact, device);
    const Tensor x = golden.batch(0);
    const Tensor codes = Tensor::empty({golden.B, golden.config.M}, DType::i32);
    codec.encode(golden.B, x.data<float>(), codes.data<int32_t>());
    CHECK(same_bits(codes, golden.tensor("codes")));
    for (int64_t m = 1; m <= golden.config.M; ++m) {
      const Tensor xhat = Tensor::empty({golden.B, golden.config.d});
      codec.decode(golden.B, codes.data<int32_t>(), golden.config.M, m, xhat.data<float>());
      const Tensor expected = mul(golden.tensor("partial" + std::to_string(m - 1)), scalar(golden.config.db_scale));
      CHECK(relative_difference(xhat, expected) <= codec_rounding());
    }
  }
}

void check_adam(Device device) {
  for (const std::string variant : kVariants) {
    const Golden golden(variant + "_step");
    Qinco model = golden.model();
    model.to(device);
    BatchTrainer trainer(model, golden.lr);
    for (int64_t step = 1; step <= 10; ++step) {
      trainer.step(golden.batch(step - 1));
      const std::string prefix = "adam" + std::to_string(step) + ".";
      if (!golden.file.tensors.count(prefix + "codebook0.weight")) continue;
      for (const nn::NamedParameter& p : model.named_parameters()) {
        CAPTURE(variant);
        CAPTURE(prefix + p.name);
        // Relative to how far the steps moved it. Adam's first steps divide small gradients by themselves, rounding
        // errors included, hence more than kGoldenRounding.
        const Tensor start = golden.tensor("param." + p.name);
        const Tensor moved = sub(p.parameter.value().to(Device{}), start),
                     expected = sub(golden.tensor(prefix + p.name), start);
        CHECK(relative_difference(moved, expected) <= 1e-3);
      }
    }
  }
}

}  // namespace

TEST_CASE("forward, decode and gradients equal PyTorch's") {
  check_forward(Device{});
}

TEST_CASE("the codec's codes and reconstructions equal PyTorch's on every ISA") {
  for (const kernels::Isa isa : kernels::available_isas()) {
    const kernels::ScopedIsa scoped(isa);
    CAPTURE(kernels::isa_name(isa));
    check_codec(Device{});
  }
}

TEST_CASE("parameters after 1, 2 and 10 Adam steps equal PyTorch's") {
  check_adam(Device{});
}

TEST_CASE("device: forward, gradients, codes, reconstructions and Adam steps equal PyTorch's") {
  for (const Device device : tests::test_devices()) {
    check_forward(device);
    check_codec(device);
    check_adam(device);
  }
}

TEST_CASE("the losses of 50 training batches equal PyTorch's") {
  for (const std::string variant : kVariants) {
    const Golden golden(variant + "_losses");
    const Tensor& losses = golden.tensor("losses");
    REQUIRE(losses.numel() == 50);
    Qinco model = golden.model();
    BatchTrainer trainer(model, golden.lr);
    double worst = 0;
    for (int64_t b = 0; b < 50; ++b) {
      const double loss = trainer.step(golden.batch(b));
      const double difference = std::abs(loss / losses.data<double>()[b] - 1);
      if (!(difference <= worst)) worst = difference;
    }
    CAPTURE(variant);
    MESSAGE(variant, ": largest relative difference of the 50 losses ", worst);
    CHECK(worst <= 1e-4);
    CHECK(losses.data<double>()[49] < 0.9 * losses.data<double>()[0]);  // it did train
  }
}
