#include "qinco/training/checkpoint.h"

#include <doctest/doctest.h>

#include "qinco/training/trainer.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

const QincoConfig kConfig{.d = 4, .M = 2, .K = 4, .L = 1, .h = 3, .lowrank = true, .db_scale = 2.5F};

Checkpoint example() {
  Checkpoint c;
  c.run = {17,
           0.1 + 0.2,
           true,
           kernels::Precision::fast,
           {3, 2},
           0xffffffffffffffff,
           1000,
           10,
           0xfedcba9876543210,
           0xfedcba9876543211};
  c.progress.schedule.lr = 1e-4 / 3;
  c.progress.schedule.max_epochs = 77;
  c.progress.schedule.epochs = 2;
  c.progress.schedule.since_best = 1;
  c.progress.schedule.since_change = 1;
  c.progress.batch = 3;
  c.progress.loss_sum = 1.0 / 3;
  c.progress.seconds = 2.5;
  c.progress.train_seconds = 2.25;
  c.progress.start_mse = 1e5 / 7;
  c.progress.from_rq = false;
  c.progress.history = {{1, 1e-3, 0.7, 123.4, 5, 4, true}, {2, 1e-3 / 7, 0.6, 124.4, 6, 5, false}};
  c.config = kConfig;
  c.parameters = random_model(kConfig, 1).state();
  c.optimizer = {{"0.m", full({3}, 0.25)}, {"step", scalar(3, DType::f64)}};
  return c;
}

// A model, its data and a trainer over them.
struct Run {
  Qinco model = random_model(kConfig, 3);
  VectorSet train{random_vectors(kConfig, 40, 1)};
  VectorSet val{random_vectors(kConfig, 10, 2)};

  Trainer trainer(TrainOptions options) { return Trainer(model, train, val, options); }
};

template <class Change>
std::string load_error(Change&& change) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("run.checkpoint");
  save_checkpoint(path, example());
  SafetensorsFile file = read_safetensors(path);
  for (auto& [name, tensor] : file.tensors) tensor = tensor.clone();
  change(file);
  write_safetensors(path, file);
  try {
    load_checkpoint(path);
  } catch (const Error& error) {
    const std::string message = error.what();
    REQUIRE(message.rfind(fmt::format("{}: ", path), 0) == 0);
    return message.substr(path.size() + 2);
  }
  return "no error";
}

}  // namespace

TEST_CASE("a checkpoint reads back bit for bit") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("run.checkpoint");
  const Checkpoint before = example();
  save_checkpoint(path, before);
  const Checkpoint after = load_checkpoint(path);
  CHECK(after.run.batch_size == 17);
  CHECK(after.run.base_lr == before.run.base_lr);
  CHECK(after.run.cosine);
  CHECK(after.run.precision == kernels::Precision::fast);
  CHECK(after.run.beam == BeamSearch{3, 2});
  CHECK(after.run.seed == before.run.seed);
  CHECK(after.run.nt == 1000);
  CHECK(after.run.nval == 10);
  CHECK(after.run.data == before.run.data);
  CHECK(after.run.val_data == before.run.val_data);
  const PlateauSchedule& schedule = after.progress.schedule;
  CHECK(schedule.lr == before.progress.schedule.lr);
  CHECK(std::isinf(schedule.best));
  CHECK(schedule.max_epochs == 77);
  CHECK(schedule.epochs == 2);
  CHECK(schedule.since_best == 1);
  CHECK(schedule.since_change == 1);
  CHECK(after.progress.batch == 3);
  CHECK(after.progress.loss_sum == before.progress.loss_sum);
  CHECK(after.progress.seconds == 2.5);
  CHECK(after.progress.train_seconds == 2.25);
  CHECK(after.progress.start_mse == before.progress.start_mse);
  CHECK_FALSE(after.progress.from_rq);
  REQUIRE(after.progress.history.size() == 2);
  CHECK(after.progress.history[1].epoch == 2);
  CHECK(after.progress.history[1].lr == 1e-3 / 7);
  CHECK(after.progress.history[1].val_mse == 124.4);
  CHECK(after.progress.history[0].best);
  CHECK_FALSE(after.progress.history[1].best);
  CHECK(after.config.same_sizes(kConfig));
  CHECK(after.config.db_scale == 2.5F);
  for (const auto& [name, tensor] : before.parameters) CHECK(same_bits(after.parameters.at(name), tensor));
  REQUIRE(after.optimizer.size() == 2);
  for (const auto& [name, tensor] : before.optimizer) CHECK(same_bits(after.optimizer.at(name), tensor));
}

TEST_CASE("a file that is no whole checkpoint is an error that says why") {
  CHECK(load_error([](SafetensorsFile& file) { file.metadata["format"] = "qinco"; }) ==
        "expected a file of format 'qinco-checkpoint', found 'qinco'");
  CHECK(load_error([](SafetensorsFile& file) { file.metadata.erase("batch"); }) == "no 'batch' in the metadata");
  CHECK(load_error([](SafetensorsFile& file) { file.metadata["batch"] = "-1"; }) ==
        "metadata 'batch': expected 0 or more, found -1");
  CHECK(load_error([](SafetensorsFile& file) { file.metadata["epochs"] = std::to_string(3); }) ==
        "tensor 'progress.history': expected f64 [3,6], found f64 [2,6]");
  CHECK(load_error([](SafetensorsFile& file) { file.tensors.erase("progress.numbers"); }) ==
        "no tensor 'progress.numbers'");
  CHECK(load_error([](SafetensorsFile& file) { file.tensors["other"] = zeros({1}); }) == "unexpected tensor 'other'");
  CHECK(load_error([](SafetensorsFile& file) { file.tensors.at("progress.numbers").data<double>()[0] = 0; }) ==
        "expected a learning rate above 0, found 0");
  CHECK(load_error([](SafetensorsFile& file) { file.tensors.at("progress.numbers").data<double>()[1] = NAN; }) ==
        "tensor 'progress.numbers' holds a NaN");
  CHECK(load_error([](SafetensorsFile& file) { file.tensors.erase("model.codebook0.weight"); }).rfind("expected", 0) ==
        0);
}

TEST_CASE("a run goes on only from a checkpoint of its own data and options") {
  const TemporaryDirectory directory;
  TrainOptions options;
  options.batch_size = 16;
  options.max_epochs = 1;
  options.checkpoint_path = directory.file("run.checkpoint");
  Run run;
  CHECK(run.trainer(options).run());
  Checkpoint checkpoint = load_checkpoint(options.checkpoint_path);

  const auto resume_error = [&](Run& other, const TrainOptions& changed) {
    try {
      other.trainer(changed).resume(checkpoint);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(resume_error(run, options) == "no error");
  TrainOptions changed = options;
  changed.max_epochs = 9;
  CHECK(resume_error(run, changed) == "no error");
  changed = options, changed.batch_size = 8;
  CHECK(resume_error(run, changed) == "batch_size: the checkpoint was made with 16, found 8");
  changed = options, changed.seed = 2;
  CHECK(resume_error(run, changed) == "seed: the checkpoint was made with 1, found 2");
  changed = options, changed.lr = 0.5;
  CHECK(resume_error(run, changed) == "lr: the checkpoint was made with 0.001, found 0.5");
  changed = options, changed.cosine = true;
  CHECK(resume_error(run, changed) == "lr_schedule: the checkpoint was made with plateau, found cosine");
  changed = options, changed.precision = kernels::Precision::fast;
  CHECK(resume_error(run, changed) == "precision: the checkpoint was made with exact, found fast");
  changed = options, changed.beam = {2, 0};
  CHECK(resume_error(run, changed) == "beam_size: the checkpoint was made with 1, found 2");
  changed = options, changed.beam = {1, 3};
  CHECK(resume_error(run, changed) == "candidates: the checkpoint was made with 4, found 3");
  Run other;
  other.train = VectorSet(random_vectors(kConfig, 40, 9));
  CHECK(resume_error(other, options) == "training data: not what the checkpoint was made with");
  other.train = VectorSet(random_vectors(kConfig, 41, 1));
  CHECK(resume_error(other, options) == "nt: the checkpoint was made with 40, found 41");
  other.train = run.train;
  CHECK(resume_error(other, options) == "no error");
  other.val = VectorSet(random_vectors(kConfig, 10, 9));
  CHECK(resume_error(other, options) == "validation data: not what the checkpoint was made with");
  SafetensorsFile file = read_safetensors(options.checkpoint_path);
  REQUIRE(file.metadata.erase("val_data") == 1);  // as older checkpoints are
  REQUIRE(file.metadata.erase("beam_size") == 1);
  const std::string older = directory.file("older.checkpoint");
  write_safetensors(older, file);
  checkpoint = load_checkpoint(older);
  CHECK(resume_error(other, options) == "no error");
}
