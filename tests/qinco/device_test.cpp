// Codecs and training on the devices besides the CPU, against the CPU. Codes are judged by their rate of mismatch and
// by the error they reach: near ties may fall either way.
#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#include "qinco/codec/product_codec.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/training/initialise.h"
#include "qinco/training/trainer.h"
#include "tests/qinco/full_device.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;
using tests::test_devices;

namespace {

constexpr double kRounding = 1e-5;  // single precision through a model, relative

/// Codes and reconstructions of one codec.
struct Coded {
  std::vector<int32_t> codes;
  Tensor xhat;
};

template <class AnyCodec, class... Arguments>
Coded encode(const AnyCodec& codec, int64_t codes, const Tensor& x, Arguments... arguments) {
  Coded coded{std::vector<int32_t>(static_cast<size_t>(x.size(0) * codes)), Tensor::empty(x.shape())};
  codec.encode(x.size(0), x.data<float>(), arguments..., coded.codes.data(), coded.xhat.data<float>());
  return coded;
}

// At most one vector in 10^4 (of these: none) may have another code, and the error must be the same.
void check_same_codes(const Coded& found, const Coded& expected, const Tensor& x) {
  size_t mismatches = 0;
  for (size_t i = 0; i < found.codes.size(); ++i) mismatches += found.codes[i] != expected.codes[i];
  CHECK(static_cast<double>(mismatches) <= 1e-4 * static_cast<double>(found.codes.size()));
  CHECK(sum_squared_difference(x, found.xhat) ==
        doctest::Approx(sum_squared_difference(x, expected.xhat)).epsilon(kRounding));
}

Tensor sift_rows(int64_t begin, int64_t end, int64_t d) {
  return read_rows(std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs", begin, end)
      .slice(1, 0, d)
      .contiguous();
}

const QincoConfig kTrained{.d = 12, .M = 3, .K = 8, .L = 1, .h = 16, .db_scale = 128};
constexpr int64_t kBatch = 64;

TrainOptions options_with(int64_t max_epochs) {
  TrainOptions options;
  options.batch_size = kBatch;
  options.max_epochs = max_epochs;
  options.seed = 5;
  return options;
}

}  // namespace

TEST_CASE("device: the codec encodes and decodes as on the CPU") {
  for (const Device device : test_devices())
    for (const auto& [lowrank, K_ivf] : {std::pair(false, 0), std::pair(true, 0), std::pair(false, 21)})
      for (const kernels::Precision precision : {kernels::Precision::exact, kernels::Precision::fast}) {
        const QincoConfig config = small_config(3, lowrank, K_ivf);
        CAPTURE(config.variant());
        Qinco model = random_model(config, 1);
        if (K_ivf > 0) Random(8).normal(model.codebook(0).value());
        const Codec here(model), there(model, precision, device);
        CHECK(there.device() == device);
        const Tensor x = random_vectors(config, 150, 2);
        const int64_t M = config.codes();
        const Coded expected = encode(here, M, x), found = encode(there, M, x);
        const bool exact = precision == kernels::Precision::exact;
        if (exact) check_same_codes(found, expected, x);
        // The reconstruction is the one that decoding the codes gives, here and there; and so for prefixes.
        const Tensor decoded = Tensor::empty(x.shape()), on_cpu = Tensor::empty(x.shape());
        for (int64_t used = 1; used <= M; ++used) {
          there.decode(150, found.codes.data(), M, used, decoded.data<float>());
          here.decode(150, found.codes.data(), M, used, on_cpu.data<float>());
          CHECK(relative_difference(decoded, on_cpu) <= kRounding);
          std::vector<int32_t> few(static_cast<size_t>(150 * used));
          there.encode(150, x.data<float>(), few.data(), nullptr, nullptr, used);
          bool begins = true;
          for (int64_t i = 0; i < 150; ++i)
            begins =
                begins && std::equal(few.begin() + i * used, few.begin() + (i + 1) * used, found.codes.begin() + i * M);
          CHECK(begins);
        }
        CHECK(relative_difference(found.xhat, decoded) <= kRounding);
        const Tensor kept = Tensor::empty(x.shape(), DType::f32, device);
        there.decode_to_device(150, found.codes.data(), M, M, kept.data<float>());
        CHECK(same_bits(kept, decoded));
        CHECK(encode(there, M, x).codes == found.codes);
        if (K_ivf == 0 || !exact) continue;
        std::vector<int32_t> first, again(found.codes.size());
        for (size_t i = 0; i < found.codes.size(); i += static_cast<size_t>(M)) first.push_back(found.codes[i]);
        there.encode(150, x.data<float>(), again.data(), nullptr, first.data());
        CHECK(again == found.codes);
      }
}

TEST_CASE("device: a beam search ends with the CPU's codes") {
  for (const Device device : test_devices())
    for (const auto& [lowrank, K_ivf] : {std::pair(false, 0), std::pair(true, 0), std::pair(false, 21)})
      for (const BeamSearch beam : {BeamSearch{1, 5}, BeamSearch{4, 3}, BeamSearch{2, 16}}) {
        if (lowrank && beam.size != 4) continue;
        const QincoConfig config = small_config(3, lowrank, K_ivf);
        CAPTURE(config.variant());
        CAPTURE(beam.size);
        Qinco model = random_model(config, 1);
        if (K_ivf > 0) Random(8).normal(model.codebook(0).value());
        const Codec here(model, kernels::Precision::exact, {}, beam),
            there(model, kernels::Precision::exact, device, beam);
        const Tensor x = random_vectors(config, 40, 2);
        const int64_t M = config.codes();
        const Coded expected = encode(here, M, x), found = encode(there, M, x);
        check_same_codes(found, expected, x);
        CHECK(encode(there, M, x).codes == found.codes);
        std::vector<int32_t> first, again(found.codes.size());
        for (size_t i = 0; i < found.codes.size(); i += static_cast<size_t>(M)) first.push_back(found.codes[i]);
        there.encode(40, x.data<float>(), again.data(), nullptr, first.data());
        for (size_t i = 0; i < first.size(); ++i) CHECK(again[i * static_cast<size_t>(M)] == first[i]);
        if (K_ivf > 0) CHECK(again == found.codes);
      }
}

TEST_CASE("device: the codec follows a model that is there itself") {
  for (const Device device : test_devices()) {
    const QincoConfig config = small_config(3, false, 0);
    Qinco model = random_model(config, 1);
    const Tensor x = random_vectors(config, 60, 2);
    Codec codec(model, kernels::Precision::exact, device);
    Qinco other = random_model(config, 7);
    const Coded expected = encode(Codec(other), config.M, x);
    other.to(device);
    CHECK(other.device() == device);
    codec.update(other);
    check_same_codes(encode(codec, config.M, x), expected, x);
    check_same_codes(encode(Codec(other), config.M, x), expected, x);  // from there to the CPU
    CHECK(tests::contains(
        tests::error_of([&] { codec.decode(60, std::vector<int32_t>(180, 16).data(), 3, 3, x.data<float>()); }),
        "row 0"));
  }
}

TEST_CASE("device: PQ-QINCo with a rotation encodes and decodes as on the CPU") {
  for (const Device device : test_devices()) {
    QincoConfig config = small_config(3, false, 0);
    config.d = 4;
    ProductQinco model;
    for (const uint64_t seed : {1, 2}) model.parts.push_back(random_model(config, seed));
    const Tensor rotation = Tensor::empty({8, 8});
    Random(3).normal(rotation, 0, 0.4);
    model.rotation = rotation;
    const ProductCodec here(model), there(model, kernels::Precision::exact, device);
    const Tensor x = tests::normal_vectors(90, 8, 4);
    const int64_t M = here.M();
    const Coded expected = encode(here, 2 * M, x, M), found = encode(there, 2 * M, x, M);
    check_same_codes(found, expected, x);
    const Tensor kept = Tensor::empty(x.shape(), DType::f32, device), decoded = Tensor::empty(x.shape());
    there.decode(90, found.codes.data(), M, M, decoded.data<float>());
    there.decode_to_device(90, found.codes.data(), M, M, kept.data<float>());
    CHECK(same_bits(kept, decoded));
    CHECK(relative_difference(decoded, found.xhat) <= kRounding);
  }
}

TEST_CASE("device: the losses of training are the CPU's, and the same bits in every run") {
  using kernels::Precision;
  for (const Device device : test_devices())
    for (const auto& [lowrank, precision] :
         {std::pair(false, Precision::exact), std::pair(true, Precision::exact), std::pair(false, Precision::fast)}) {
      QincoConfig config = kTrained;
      config.lowrank = lowrank;
      const VectorSet train(sift_rows(0, 400, config.d));
      const Qinco start = initial_model(config, train_initial_rq(train, config.M, config.K, {}), 5);
      const auto losses = [&](Device where, Precision with) {
        Random unused(0);
        Qinco model(config, unused);
        model.load(start.state());
        model.to(where);
        BatchTrainer trainer(model, 1e-3, with);
        std::vector<double> all;
        for (int64_t b = 0; b < 6; ++b)
          all.push_back(trainer.step(sift_rows(b * kBatch, (b + 1) * kBatch, config.d).to(where)));
        all.push_back(sum_squared_difference(model.codebook(1).value(), zeros_like(model.codebook(1).value())));
        return all;
      };
      const std::vector<double> expected = losses(Device{}, Precision::exact), found = losses(device, precision);
      // Roundings of single precision, and Adam's first steps, which have the size of lr whatever the gradient's; with
      // `fast`, roundings to 10 bits and a code chosen by them here and there.
      const double tolerance = precision == Precision::exact ? 2e-4 : 2e-2;
      for (size_t i = 0; i < expected.size(); ++i) CHECK(found[i] == doctest::Approx(expected[i]).epsilon(tolerance));
      CHECK(losses(device, precision) == found);
      if (precision == Precision::fast && emulated(device)) CHECK(losses(device, Precision::exact) != found);
    }
}

TEST_CASE("device: a run that is stopped and gone on with there ends with the bits of one that was not") {
  const Tensor rows = sift_rows(0, 510, kTrained.d);
  const VectorSet train(rows.slice(0, 0, 410).contiguous()), val(rows.slice(0, 410, 510).contiguous());
  for (const Device device : test_devices()) {
    const TemporaryDirectory directory;
    const auto run = [&](const std::string& name, int64_t stop_after) {
      TrainOptions options = options_with(2);
      options.model_path = directory.file(name + ".safetensors");
      options.checkpoint_path = directory.file(name + ".checkpoint");
      for (bool resume = false;; resume = true) {
        Qinco model = initial_model(kTrained, train_initial_rq(train, kTrained.M, kTrained.K, {}), 5);
        model.to(device);
        Trainer trainer(model, train, val, options);
        if (resume) trainer.resume(load_checkpoint(options.checkpoint_path));
        int64_t batches = 0;
        TrainHooks hooks;
        hooks.batch = [&](int64_t, int64_t, double) { ++batches; };
        hooks.stop_requested = [&] { return !resume && stop_after > 0 && batches >= stop_after; };
        if (trainer.run(hooks)) return trainer.progress();
      }
    };
    const Progression whole = run("whole", 0), stopped = run("stopped", 4);
    REQUIRE(whole.history.size() == 2);
    for (size_t i = 0; i < 2; ++i) {
      CHECK(whole.history[i].train_loss == stopped.history[i].train_loss);
      CHECK(whole.history[i].val_mse == stopped.history[i].val_mse);
    }
    CHECK(whole.history[1].val_mse < whole.history[0].val_mse);
    const TensorMap a = load_model(directory.file("whole.safetensors")).state();
    for (const auto& [name, tensor] : load_model(directory.file("stopped.safetensors")).state())
      CHECK(same_bits(tensor, a.at(name)));
  }
}

TEST_CASE("device: IVF-QINCo trains on centroids and residuals as on the CPU") {
  const Tensor rows = sift_rows(0, 360, kTrained.d);
  const VectorSet train(rows.slice(0, 0, 300).contiguous()), val(rows.slice(0, 300, 360).contiguous());
  const Tensor centroids = rows.slice(0, 0, 10).contiguous();
  QincoConfig config = kTrained;
  config.K_ivf = 10;
  for (const Device device : test_devices()) {
    const auto val_mse = [&](Device where) {
      const ResidualQuantizer rq = train_initial_rq(train, config.M, config.K, {}, where, centroids);
      Qinco model = initial_model(config, rq, 5, centroids);
      model.to(where);
      Trainer trainer(model, train, val, options_with(1));
      trainer.run();
      return trainer.progress().history.front().val_mse;
    };
    // k-means and training amplify roundings: the same quality, not the same numbers.
    CHECK(val_mse(device) == doctest::Approx(val_mse(Device{})).epsilon(0.02));
  }
}

TEST_CASE("device: batches of a resident training set are the host's rows") {
  const VectorSet vectors(sift_rows(0, 50, 12));
  const std::vector<int32_t> ids = {3, 49, 0, 3};
  const Tensor expected = Tensor::empty({4, 12});
  vectors.gather(4, ids.data(), expected.data<float>());
  for (const Device device : test_devices()) {
    BatchReader there(vectors, 8, device);
    const Tensor batch = there.read(4, ids.data());
    CHECK(batch.device() == device);
    CHECK(same_bits(batch, expected));
  }
}

TEST_CASE("device: batches of a training set that does not fit are the host's rows too") {
  const int64_t n = 200'000, d = 128;  // 102 MB: a driver allots memory by 2 MB or more, and keeps what it was given
  const VectorSet vectors(tests::normal_vectors(n, d, 1));
  for (const Device device : test_devices()) {
    FullDevice full(device);
    full.leave_one_piece();
    REQUIRE(kernels::memory_info(device).free / 2 < static_cast<size_t>(n * d) * sizeof(float));
    const int64_t live = memory_stats(device).live;
    BatchReader reader(vectors, 8, device);
    CHECK(memory_stats(device).live == live);
    // Many are asked for before the first is looked at: the device may be that far behind.
    std::vector<Tensor> batches;
    const auto ids_of = [](int32_t i) { return std::vector<int32_t>{i, 199'999 - i, 7 * i + 1}; };
    for (int32_t i = 0; i < 10; ++i) batches.push_back(reader.read(3, ids_of(i).data()));
    const Tensor expected = Tensor::empty({3, d});
    for (int32_t i = 0; i < 10; ++i) {
      vectors.gather(3, ids_of(i).data(), expected.data<float>());
      CHECK(same_bits(batches[static_cast<size_t>(i)], expected));
    }
  }
}

TEST_CASE("device: out of memory is an error that says how much, and everything works again afterwards") {
  const Tensor x = sift_rows(0, 20'000, kTrained.d), few = x.slice(0, 0, kBatch).contiguous(),
               more = x.slice(0, 0, 1000).contiguous();
  Random random(5);
  const Qinco start(kTrained, random);
  for (const Device device : test_devices()) {
    Qinco model(kTrained, random);
    model.load(start.state());
    model.to(device);
    const Codec codec(model, kernels::Precision::exact, device);
    BatchTrainer trainer(model, 1e-3);
    const Coded before = encode(codec, kTrained.M, few);
    {
      const FullDevice full(device);
      for (const std::string& error :
           {tests::error_of([&] { Tensor::empty({64 << 20}, DType::f32, device); }),
            tests::error_of([&] { encode(codec, kTrained.M, x); }), tests::error_of([&] { trainer.step(x); })}) {
        CAPTURE(error);
        CHECK(tests::contains(error, "device " + device.name() + ": out of memory: "));
        CHECK(tests::contains(error, " bytes wanted, "));
        CHECK(tests::contains(error, " free"));
      }
    }
    check_same_codes(encode(codec, kTrained.M, more), encode(Codec(start), kTrained.M, more), more);
    CHECK(encode(codec, kTrained.M, few).codes == before.codes);
    const double loss = trainer.step(few.to(device));
    CHECK(std::isfinite(loss));
    CHECK(trainer.step(few.to(device)) < loss);
  }
}
