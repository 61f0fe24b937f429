// Training with batches that are recorded and queued as a whole, against training kernel by kernel.
#include <cmath>
#include <cstdlib>
#include <doctest/doctest.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qinco/training/batch_trainer.h"
#include "tests/qinco/full_device.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;
using tests::test_devices;

namespace {

/// A model in training on a device, with batches recorded or not.
struct Training {
  Training(const QincoConfig& config, Device device, bool recorded, kernels::Precision precision,
           const BeamSearch& beam = {})
      : model(random_model(config, 1)) {
    if (config.K_ivf > 0) Random(8).normal(model.codebook(0).value());
    model.to(device);
    const char* const before = std::getenv("QINCO_CUDA_GRAPHS");
    const std::string kept = before ? before : "";
    setenv("QINCO_CUDA_GRAPHS", recorded ? "1" : "0", 1);
    trainer = std::make_unique<BatchTrainer>(model, 1e-2, precision, beam);
    before ? setenv("QINCO_CUDA_GRAPHS", kept.c_str(), 1) : unsetenv("QINCO_CUDA_GRAPHS");
  }

  Qinco model;
  std::unique_ptr<BatchTrainer> trainer;
};

}  // namespace

TEST_CASE("device: recorded batches train to the same bits") {
  for (const Device device : test_devices())
    for (const auto& [lowrank, K_ivf] : {std::pair(false, 0), std::pair(true, 0), std::pair(false, 21)})
      for (const auto& search : {std::pair(kernels::Precision::exact, BeamSearch{}),
                                 {kernels::Precision::fast, BeamSearch{}},
                                 {kernels::Precision::exact, BeamSearch{3, 4}}}) {
        const kernels::Precision precision = search.first;
        const BeamSearch beam = search.second;
        if ((lowrank || K_ivf > 0) && precision == kernels::Precision::fast) continue;
        if (lowrank && beam.size > 1) continue;
        const QincoConfig config = small_config(2, lowrank, K_ivf);
        CAPTURE(config.variant());
        CAPTURE(beam.size);
        Training plain(config, device, false, precision, beam), recorded(config, device, true, precision, beam);
        const std::vector<int64_t> sizes = {8, 8, 8, 12, 8, 5, 5, 8};
        const std::vector<bool> together = {false, true, true, false, true, false, true, false};
        for (size_t i = 0; i < sizes.size(); ++i) {
          CAPTURE(i);
          const Tensor x = random_vectors(config, sizes[i], 10 + i);
          std::vector<int32_t> first(static_cast<size_t>(sizes[i]));
          for (size_t j = 0; j < first.size(); ++j) first[j] = static_cast<int32_t>(j % 21);
          for (BatchTrainer* trainer : {plain.trainer.get(), recorded.trainer.get()})
            trainer->adam().set_lr(1e-2 / static_cast<double>(1 + i));
          const int32_t* const known = K_ivf > 0 ? first.data() : nullptr;
          CHECK(plain.trainer->step(x, known) == recorded.trainer->step(x, known));
          CHECK_FALSE(plain.trainer->recorded());
          CHECK(recorded.trainer->recorded() == together[i]);
          if (i == 2) recorded.trainer->codec().update(recorded.model);  // as validation does
        }
        const TensorMap state = plain.model.state();
        for (const auto& entry : recorded.model.state())
          CHECK_MESSAGE(same_bits(entry.second, state.at(entry.first)), entry.first.c_str());
      }
}

TEST_CASE("device: recorded batches of larger models train to the same bits") {
  // One whose products take tiles, and one whose search has products of its own (d > 256); with vectors in a batch.
  const std::vector<std::pair<QincoConfig, int64_t>> configs = {
      {{.d = 64, .M = 2, .K = 16, .L = 1, .h = 64, .db_scale = 2.5f}, 64},
      {{.d = 264, .M = 2, .K = 16, .L = 2, .h = 16, .db_scale = 2.5f}, 20}};
  for (const Device device : test_devices())
    for (const auto& sized : configs) {
      const QincoConfig& config = sized.first;
      const int64_t n = sized.second;
      CAPTURE(config.d);
      Training plain(config, device, false, kernels::Precision::exact),
          recorded(config, device, true, kernels::Precision::exact);
      for (uint64_t i = 0; i < 3; ++i) {
        CAPTURE(i);
        const Tensor x = random_vectors(config, n, 70 + i);
        CHECK(plain.trainer->step(x) == recorded.trainer->step(x));
        CHECK(recorded.trainer->recorded() == (i > 0));
        std::vector<int32_t> expected(static_cast<size_t>(n * config.M)), found(expected.size());
        plain.trainer->codec().encode(n, x.data<float>(), expected.data());
        recorded.trainer->codec().encode(n, x.data<float>(), found.data());
        CHECK(found == expected);
      }
      CHECK(recorded.trainer->recording_error().empty());
    }
}

TEST_CASE("device: recorded batches are recorded anew where parameters lie elsewhere, and not where it fails") {
  for (const Device device : test_devices()) {
    const QincoConfig config = small_config(2, false, 0);
    Training plain(config, device, false, kernels::Precision::exact),
        recorded(config, device, true, kernels::Precision::exact);
    for (uint64_t i = 0; i < 4; ++i) {
      CAPTURE(i);
      if (i == 2)
        for (Qinco* model : {&plain.model, &recorded.model})
          for (Variable parameter : model->parameters()) parameter.set_value(mul(parameter.value(), parameter.value()));
      const Tensor x = random_vectors(config, 8, 50 + i);
      CHECK(plain.trainer->step(x) == recorded.trainer->step(x));
      CHECK(recorded.trainer->recorded() == (i > 0));
    }
    // Within a recording there is no other: the batch is queued all the same.
    Training nested(config, device, true, kernels::Precision::exact);
    const Tensor x = random_vectors(config, 8, 60).to(device);
    nested.trainer->queue_step(x);
    const kernels::Recording around(device, [&] { nested.trainer->queue_step(x); });
    CHECK_FALSE(nested.trainer->recorded());
    CHECK(tests::contains(nested.trainer->recording_error(), "records already"));
  }
}

TEST_CASE("device: recorded batches are recorded anew where a parameter is frozen, and where it no longer is") {
  for (const Device device : test_devices()) {
    const QincoConfig config = small_config(2, false, 0);
    Training plain(config, device, false, kernels::Precision::exact),
        recorded(config, device, true, kernels::Precision::exact);
    for (uint64_t i = 0; i < 8; ++i) {
      CAPTURE(i);
      if (i == 2 || i == 5)
        for (const Qinco* model : {&plain.model, &recorded.model}) {
          Variable frozen = model->codebook(1);
          frozen.set_requires_grad(i == 5);
        }
      const Tensor x = random_vectors(config, 8, 50 + i);
      CHECK(plain.trainer->step(x) == recorded.trainer->step(x));
      CHECK(recorded.trainer->recorded() == (i > 0));
    }
    CHECK(same_bits(plain.model.codebook(1).value(), recorded.model.codebook(1).value()));
  }
}

TEST_CASE("device: recorded batches give their memory back where a batch of another size lacks it") {
  for (const Device device : test_devices()) {
    const QincoConfig config = small_config(2, false, 0);
    const Tensor x = random_vectors(config, 1200, 80), fewer = x.slice(0, 0, 1000).contiguous();
    Training plain(config, device, false, kernels::Precision::exact),
        recorded(config, device, true, kernels::Precision::exact),
        without(config, device, false, kernels::Precision::exact);
    const auto same_step = [&](const Tensor& batch, bool together) {
      CHECK(plain.trainer->step(batch) == recorded.trainer->step(batch));
      CHECK(recorded.trainer->recorded() == together);
    };
    same_step(x, false);
    same_step(x, true);
    const double loss = plain.trainer->step(fewer);
    const bool emulated = tests::contains(kernels::device_description(device), "emulated");
    {
      const FullDevice full(device, size_t{16} << 10);
      if (emulated)
        CHECK_THROWS_AS(without.trainer->step(fewer), OutOfMemory);  // a GPU's memory may have room in holes
      CHECK(recorded.trainer->step(fewer) == loss);
      CHECK_FALSE(recorded.trainer->recorded());
    }
    CHECK(plain.trainer->step(x) == recorded.trainer->step(x));
    if (emulated) CHECK_FALSE(recorded.trainer->recorded());  // anew
    same_step(x, true);
  }
}
