#include "qinco/training/trainer.h"

#include <cmath>
#include <doctest/doctest.h>
#include <filesystem>
#include <limits>
#include <vector>

#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/training/initialise.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

// The first values of real vectors, so that there is something to learn.
struct Data {
  VectorSet train, val;
  static Data sift(int64_t nt, int64_t nval, int64_t d) {
    const Tensor rows =
        read_rows(std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs", 0, nt + nval).slice(1, 0, d);
    return {VectorSet(rows.slice(0, 0, nt).contiguous()), VectorSet(rows.slice(0, nt, nt + nval).contiguous())};
  }
};

constexpr int64_t kNt = 410, kNval = 100, kBatch = 64;  // 7 batches, the last of 26
const QincoConfig kConfig{.d = 12, .M = 3, .K = 8, .L = 1, .h = 16, .db_scale = 128};

TrainOptions options_with(int64_t max_epochs) {
  TrainOptions options;
  options.batch_size = kBatch;
  options.max_epochs = max_epochs;
  options.seed = 5;
  return options;
}

Qinco start_model(const Data& data) {
  return initial_model(kConfig, train_initial_rq(data.train, kConfig.M, kConfig.K, {}), 5);
}

// What a run left: the loss of every batch, the epochs, the parameters.
struct Outcome {
  std::vector<double> losses;
  Progression progress;
  TensorMap parameters;
};

void check_equal(const Outcome& a, const Outcome& b) {
  CHECK(a.losses == b.losses);
  REQUIRE(a.progress.history.size() == b.progress.history.size());
  for (size_t i = 0; i < a.progress.history.size(); ++i) {
    CHECK(a.progress.history[i].train_loss == b.progress.history[i].train_loss);
    CHECK(a.progress.history[i].val_mse == b.progress.history[i].val_mse);
    CHECK(a.progress.history[i].best == b.progress.history[i].best);
  }
  for (const auto& [name, tensor] : a.parameters) CHECK(same_bits(tensor, b.parameters.at(name)));
}

// A run that is stopped after each of the batches `stops` (counted from the start) and gone on with by a new trainer.
Outcome run_with_stops(const Data& data, const TrainOptions& options, std::vector<size_t> stops) {
  Outcome outcome;
  for (bool finished = false; !finished;) {
    Qinco model = start_model(data);
    Trainer trainer(model, data.train, data.val, options);
    if (!outcome.losses.empty()) trainer.resume(load_checkpoint(options.checkpoint_path));
    TrainHooks hooks;
    hooks.batch = [&](int64_t, int64_t, double loss) { outcome.losses.push_back(loss); };
    hooks.stop_requested = [&] { return !stops.empty() && outcome.losses.size() >= stops.front(); };
    finished = trainer.run(hooks);
    if (!finished) stops.erase(stops.begin());
    outcome.progress = trainer.progress();
    outcome.parameters = model.state();
  }
  CHECK(stops.empty());
  return outcome;
}

}  // namespace

TEST_CASE("training lowers the validation error below the RQ's that it started from, and stores the best model") {
  const TemporaryDirectory directory;
  const Data data = Data::sift(3000, 500, 12);
  QincoConfig config = kConfig;
  config.h = 32;
  const ResidualQuantizer rq = train_initial_rq(data.train, config.M, config.K, {});
  Qinco model = initial_model(config, rq, 1);
  TrainOptions options = options_with(12);
  options.model_path = directory.file("model.safetensors");
  Trainer trainer(model, data.train, data.val, options);
  CHECK(trainer.run());
  const Progression& progress = trainer.progress();
  REQUIRE(progress.history.size() == 12);
  CHECK(progress.history[0].best);
  CHECK(progress.schedule.best < 0.97 * rq_mse(rq, data.val, 1));
  CHECK(progress.history.back().train_loss < progress.history.front().train_loss);
  CHECK(codec_mse(Codec(load_model(options.model_path)), data.val) == progress.schedule.best);
}

TEST_CASE("a run that is stopped and gone on with has the bits of one that was not") {
  const TemporaryDirectory directory;
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  TrainOptions options = options_with(3);
  const Outcome straight = run_with_stops(data, options, {});
  CHECK(straight.losses.size() == 21);
  options.checkpoint_path = directory.file("run.checkpoint");
  check_equal(run_with_stops(data, options, {3, 4, 12}), straight);  // within epochs, twice in one
  check_equal(run_with_stops(data, options, {7}), straight);         // before the validation
  check_equal(run_with_stops(data, options, {1, 14, 20}), straight);
  TrainOptions beam = options;
  beam.beam = {3, 2};
  const Outcome searched = run_with_stops(data, beam, {});
  CHECK(searched.losses != straight.losses);
  check_equal(run_with_stops(data, beam, {3, 12}), searched);
  options.cosine = true;  // the rate follows from the batch's number
  const Outcome cosine = run_with_stops(data, options, {});
  check_equal(run_with_stops(data, options, {5, 10}), cosine);
  CHECK(cosine.progress.history[0].lr == doctest::Approx(1e-3));
  CHECK(cosine.progress.history[2].lr == doctest::Approx(1e-5 + 0.5 * 0.99e-3 * (1 + std::cos(M_PI * 2 / 3))));
}

TEST_CASE("a run that is stopped while a batch or a validation block is encoded goes on with the same bits") {
  const TemporaryDirectory directory;
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  TrainOptions options = options_with(1);
  const Outcome straight = run_with_stops(data, options, {});
  options.checkpoint_path = directory.file("run.checkpoint");
  const size_t asked_per_batch = static_cast<size_t>(kConfig.M), validation = 7 * asked_per_batch;
  for (const size_t asked : {size_t{2}, 3 * asked_per_batch + 3, validation + 2}) {  // the last question, answered yes
    Outcome outcome;
    TrainHooks hooks;
    hooks.batch = [&](int64_t, int64_t, double loss) { outcome.losses.push_back(loss); };
    size_t questions = 0;
    hooks.stop_requested = [&] { return ++questions == asked; };
    Qinco stopped = start_model(data);
    Trainer first(stopped, data.train, data.val, options);
    CHECK_FALSE(first.run(hooks));
    CHECK(questions == asked);
    CHECK(outcome.losses.size() == std::min<size_t>((asked - 1) / asked_per_batch, 7));
    CHECK(load_checkpoint(options.checkpoint_path).progress.batch == static_cast<int64_t>(outcome.losses.size()));
    Qinco model = start_model(data);
    Trainer second(model, data.train, data.val, options);
    second.resume(load_checkpoint(options.checkpoint_path));
    CHECK(second.run(hooks));
    outcome.progress = second.progress();
    outcome.parameters = model.state();
    check_equal(outcome, straight);
  }
}

TEST_CASE("training gives the same bits at any thread count") {
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  const int threads = kernels::default_threads();
  kernels::set_default_threads(1);
  const Outcome serial = run_with_stops(data, options_with(2), {});
  kernels::set_default_threads(3);
  check_equal(run_with_stops(data, options_with(2), {}), serial);
  kernels::set_default_threads(threads);
}

TEST_CASE("training at precision fast follows exact training, with the same bits at any thread count, on every ISA") {
  using kernels::Isa, kernels::Precision;
  constexpr QincoConfig config{.d = 40, .M = 3, .K = 64, .L = 2, .h = 48, .db_scale = 128};
  constexpr int64_t kBatchRows = 100, kBatches = 6;
  const Data data = Data::sift(kBatchRows * kBatches, 1, config.d);
  const Qinco start = initial_model(config, train_initial_rq(data.train, config.M, config.K, {}), 5);
  for (const Isa isa : kernels::available_isas()) {
    CAPTURE(isa_name(isa));
    const kernels::ScopedIsa scope(isa);
    const auto losses = [&](Precision precision) {
      Random unused(0);
      Qinco model(config, unused);
      model.load(start.state());
      BatchTrainer trainer(model, 1e-3, precision);
      const Tensor rows = Tensor::empty({kBatchRows, config.d});
      std::vector<double> all;
      for (int64_t b = 0; b < kBatches; ++b) {
        data.train.copy(b * kBatchRows, (b + 1) * kBatchRows, rows.data<float>());
        all.push_back(trainer.step(rows));
      }
      return all;
    };
    const std::vector<double> exact = losses(Precision::exact), fast = losses(Precision::fast);
    for (size_t i = 0; i < exact.size(); ++i) CHECK(fast[i] == doctest::Approx(exact[i]).epsilon(5e-3).scale(0));
    CHECK(exact.back() < 0.95 * exact.front());
    if (isa == Isa::amx) CHECK(fast != exact);  // products and screen in bfloat16
    const int threads = kernels::default_threads();
    kernels::set_default_threads(3);
    CHECK(losses(Precision::fast) == fast);
    kernels::set_default_threads(threads);
  }
}

TEST_CASE("an epoch visits every vector once, in an order of its own, the last batch being smaller") {
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  Qinco model = start_model(data);
  Trainer trainer(model, data.train, data.val, options_with(1));
  std::vector<int64_t> done;
  TrainHooks hooks;
  hooks.batch = [&](int64_t vectors, int64_t total, double) {
    CHECK(total == kNt);
    done.push_back(vectors);
  };
  CHECK(trainer.run(hooks));
  CHECK(done == std::vector<int64_t>{64, 128, 192, 256, 320, 384, 410});
}

TEST_CASE("a checkpoint within an epoch has the seconds of its batches in those of the epoch") {
  const TemporaryDirectory directory;
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  TrainOptions options = options_with(1);
  options.checkpoint_path = directory.file("run.checkpoint");
  options.checkpoint_seconds = 0;
  Qinco model = start_model(data);
  Trainer trainer(model, data.train, data.val, options);
  TrainHooks hooks;
  int64_t batches = 0;
  hooks.batch = [&](int64_t, int64_t, double) {
    if (batches++ == 0) return;  // the checkpoint of the batch before is there
    const Progression saved = load_checkpoint(options.checkpoint_path).progress;
    CHECK(saved.batch == batches - 1);
    CHECK(saved.train_seconds > 0);
    CHECK(saved.seconds >= saved.train_seconds);
  };
  CHECK(trainer.run(hooks));
  CHECK(batches == 7);
}

TEST_CASE("a sample of vectors is spread over all of them") {
  const Tensor rows = Tensor::empty({10, 1});
  for (int64_t i = 0; i < 10; ++i) rows.data<float>()[i] = static_cast<float>(i);
  const VectorSet vectors(rows);
  CHECK(same_bits(vectors.sample(10), rows));
  CHECK(same_bits(vectors.sample(99), rows));
  const Tensor some = vectors.sample(4);
  CHECK(std::vector<float>(some.data<float>(), some.data<float>() + 4) == std::vector<float>{0, 2, 5, 7});
}

TEST_CASE("a model gone on from has to be beaten before anything counts as better") {
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  Qinco model = start_model(data);
  Trainer trainer(model, data.train, data.val, options_with(2));
  trainer.start_from(1e-9, false);
  CHECK(trainer.run());
  for (const EpochRecord& epoch : trainer.progress().history) CHECK_FALSE(epoch.best);
  CHECK(trainer.progress().schedule.best == 1e-9);
}

TEST_CASE("training that diverges says so, also after its last batch, and leaves no checkpoint to diverge from again") {
  const TemporaryDirectory directory;
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  TrainOptions options = options_with(5);
  options.lr = 1e30;
  options.checkpoint_path = directory.file("run.checkpoint");
  options.checkpoint_seconds = 0;
  Qinco model = start_model(data);
  CHECK_THROWS_WITH_AS(Trainer(model, data.train, data.val, options).run(),
                       doctest::Contains("training diverged: loss"), Error);
  CHECK_FALSE(std::filesystem::exists(options.checkpoint_path));
  options.max_epochs = 1;
  options.batch_size = std::numeric_limits<int64_t>::max();  // one batch
  Qinco other = start_model(data);
  CHECK_THROWS_WITH_AS(Trainer(other, data.train, data.val, options).run(),
                       doctest::Contains("training diverged: validation MSE"), Error);
  CHECK_FALSE(std::filesystem::exists(options.checkpoint_path));  // made after the batch
}

TEST_CASE("vectors of another dimension than the model's are an error") {
  const Data data = Data::sift(kNt, kNval, kConfig.d + 1);
  Random random(1);
  Qinco model(kConfig, random);
  CHECK_THROWS_WITH_AS(Trainer(model, data.train, data.val, options_with(1)),
                       "training: expected vectors of d=12, found 13 and 13", Error);
}

TEST_CASE("no vectors to train on or to validate on, and vectors that are not finite, are errors") {
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  const VectorSet none(Tensor::empty({0, kConfig.d}));
  Qinco model = start_model(data);
  CHECK_THROWS_WITH_AS(Trainer(model, none, data.val, options_with(1)), doctest::Contains("found 0 and"), Error);
  CHECK_THROWS_WITH_AS(Trainer(model, data.train, none, options_with(1)), doctest::Contains("and 0"), Error);
  const Tensor rows = full({3, 2}, 1e15);
  CHECK(VectorSet(rows).max_entry() == 1e15f);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    rows.data<float>()[4] = bad;
    CHECK_THROWS_WITH_AS(VectorSet{rows}, "vectors: expected finite values, found NaN or infinity", Error);
  }
}

TEST_CASE("vector sets of bytes and of floats hold the same vectors") {
  const std::string path = std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/query.bvecs";
  const VectorFile file = VectorFile::open(path);
  const VectorSet bytes(file, 10, 310);
  const Tensor rows = read_rows(path, 10, 310);
  const VectorSet floats(rows);
  CHECK(bytes.size() == 300);
  CHECK(bytes.dim() == 128);
  CHECK(bytes.max_entry() == floats.max_entry());
  CHECK(bytes.fingerprint() == floats.fingerprint());
  CHECK(bytes.fingerprint() != VectorSet(file, 11, 311).fingerprint());
  const std::vector<int32_t> ids = {299, 0, 17, 17};
  const Tensor a = Tensor::empty({4, 128}), b = Tensor::empty({4, 128});
  bytes.gather(4, ids.data(), a.data<float>());
  floats.gather(4, ids.data(), b.data<float>());
  CHECK(same_bits(a, b));
  CHECK(same_bits(a.slice(0, 2, 3), rows.slice(0, 17, 18)));
  CHECK_THROWS_AS(VectorSet(file, 0, file.size() + 1), Error);
}

TEST_CASE("training leaves frozen parameters as they are, and moves the others") {
  const Data data = Data::sift(kNt, kNval, kConfig.d);
  Qinco model = start_model(data);
  Variable frozen = model.codebook(1);
  frozen.set_requires_grad(false);
  const TensorMap before = model.state();
  Trainer trainer(model, data.train, data.val, options_with(1));
  CHECK(trainer.run({}));
  for (const auto& item : model.state()) {
    CAPTURE(item.first);
    CHECK(same_bits(item.second, before.at(item.first)) == (item.first == "step1.codebook.weight"));
  }
}
