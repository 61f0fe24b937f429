#include "apps/qinco/train_run.h"

#include <algorithm>
#include <filesystem>
#include <sys/stat.h>
#include <vector>

#include "apps/qinco/progress.h"
#include "apps/qinco/signals.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/rq.h"
#include "qinco/training/initialise.h"
#include "qinco/training/trainer.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco::app {
namespace {

Tensor read_centroids(const TrainArguments& arguments, int64_t d) {
  const Tensor centroids = read_all(arguments.ivf_centroids);
  check(centroids.size(1) == d, "{}: centroids have dimension {}, expected {} as in {}", arguments.ivf_centroids,
        centroids.size(1), d, arguments.training_data);
  return centroids;
}

QincoConfig new_config(const TrainArguments& arguments, const VectorSet& train, const Tensor& centroids) {
  const QincoConfig base;
  QincoConfig config;
  config.d = train.dim();
  config.M = arguments.M.value_or(base.M);
  config.K = arguments.K.value_or(base.K);
  config.L = arguments.L.value_or(base.L);
  config.h = arguments.h.value_or(base.h);
  config.lowrank = arguments.lowrank;
  if (centroids.defined()) config.K_ivf = centroids.size(0);
  config.db_scale = choose_db_scale(arguments, train);
  config.validate();
  return config;
}

// Options that were given must agree with the model that training goes on from.
void check_agrees(const TrainArguments& arguments, const QincoConfig& config, int64_t d, const std::string& source) {
  const auto check_option = [&](const char* name, auto given, auto found) {
    if (given) check(*given == found, "{}: expected {}={} as given, found {}", source, name, *given, found);
  };
  check_option("d", std::optional(d), config.d);
  check_option("M", arguments.M, config.M);
  check_option("K", arguments.K, config.K);
  check_option("L", arguments.L, config.L);
  check_option("h", arguments.h, config.h);
  check_option("db_scale", arguments.db_scale, config.db_scale);
  check(!arguments.lowrank || config.lowrank, "{}: expected a low-rank model as given, found {}", source,
        config.variant());
}

ResidualQuantizer make_rq(const Common& common, const TrainArguments& arguments, const QincoConfig& config,
                          const VectorSet& train, const Tensor& centroids, const Stopping& stopping) {
  if (!arguments.rq_codebooks.empty()) return load_rq(arguments.rq_codebooks);
  RqOptions options;
  options.beam_size = arguments.rq_beam_size;
  options.seed = common.seed;
  Progress progress(common.text(), "RQ", config.M, "steps");
  options.on_step = [&](int64_t step, int64_t) { progress.update(step); };
  options.poll = [&] { stopping.before_training(); };
  return train_initial_rq(train, config.M, config.K, options, common.device(), centroids);
}

// What a run starts from, and its validation error.
struct Start {
  Qinco model;
  double mse = 0;
  bool from_rq = true;
};

Start start_new(const Common& common, const TrainArguments& arguments, const Split& data, const Stopping& stopping) {
  const Tensor centroids = arguments.ivf ? read_centroids(arguments, data.train.dim()) : Tensor();
  const QincoConfig config = new_config(arguments, data.train, centroids);
  arguments.beam.search(config.K).validate(config.K);  // before long work
  const ResidualQuantizer rq = make_rq(common, arguments, config, data.train, centroids, stopping);
  Start start{initial_model(config, rq, common.seed, centroids)};
  const auto poll = [&] { stopping.before_training(); };
  start.mse = rq_mse(rq, data.val, arguments.rq_beam_size, common.device(), centroids, poll);
  if (!arguments.save_rq_codebooks.empty()) save_rq(arguments.save_rq_codebooks, rq);
  common.print("RQ {}x{} beam {}: validation MSE {:.6g}", config.M, config.K, arguments.rq_beam_size, start.mse);
  return start;
}

Start start_from_model(const Common& common, const TrainArguments& arguments, const Split& data,
                       const Stopping& stopping) {
  Start start{load_model(arguments.init_model)};
  check_agrees(arguments, start.model.config(), data.train.dim(), arguments.init_model);
  Codec codec(start.model, arguments.precision, common.device(), arguments.beam.search(start.model.config().K));
  codec.set_poll([&] { stopping.before_training(); });
  start.mse = codec_mse(codec, data.val);
  start.from_rq = false;
  common.print("{}: validation MSE {:.6g}", arguments.init_model, start.mse);
  if (arguments.model != arguments.init_model) save_model(arguments.model, start.model);
  return start;
}

// Where --ivf was given again, its centroids must be those that the run began with: they stay as they are.
void check_centroids(const TrainArguments& arguments, const Checkpoint& checkpoint, int64_t d) {
  const Tensor centroids = read_centroids(arguments, d);
  check(centroids.size(0) == checkpoint.config.K_ivf, "{}: expected the {} centroids as given, found {}",
        arguments.checkpoint_path(), centroids.size(0), checkpoint.config.K_ivf);
  const Tensor given = div(centroids, scalar(checkpoint.config.db_scale));  // as initial_model scales them
  const float* const found = checkpoint.parameters.at("codebook0.weight").data<float>();
  check(std::equal(found, found + given.numel(), given.data<float>()),
        "{}: expected the centroids of {} as given, found others", arguments.checkpoint_path(),
        arguments.ivf_centroids);
}

Start start_from_checkpoint(const Common& common, const TrainArguments& arguments, const Checkpoint& checkpoint,
                            const Split& data) {
  check_agrees(arguments, checkpoint.config, data.train.dim(), arguments.checkpoint_path());
  if (arguments.ivf) check_centroids(arguments, checkpoint, data.train.dim());
  Random unused(0);
  Start start{Qinco(checkpoint.config, unused)};
  common.print("{}: going on in epoch {} after {} batches", arguments.checkpoint_path(),
               checkpoint.progress.schedule.epochs + 1, checkpoint.progress.batch);
  return start;
}

// The line of a finished epoch, and its progress line while it runs.
class EpochPrinter {
 public:
  EpochPrinter(const Common& common, const Trainer& trainer) : common_(common), trainer_(trainer) {}

  void batch(int64_t done, int64_t total, double loss) {
    const int64_t epoch = trainer_.progress().schedule.epochs + 1;
    if (!progress_) progress_.emplace(common_.text(), fmt::format("epoch {}", epoch), total, "vectors", done);
    progress_->update(done, fmt::format("loss {:.5g}", loss));
  }

  void epoch(const EpochRecord& record) {
    progress_.reset();
    const auto nt = static_cast<double>(trainer_.identity().nt);
    common_.print("epoch {:>3}  lr {:.0e}  train loss {:.6f}  val MSE {:.6g}  {:.0f} vectors/s  {:.1f} s{}",
                  record.epoch, record.lr, record.train_loss, record.val_mse, nt / record.train_seconds, record.seconds,
                  record.best ? "  best" : "");
  }

 private:
  const Common& common_;
  const Trainer& trainer_;
  std::optional<Progress> progress_;
};

Json results(const TrainArguments& arguments, const QincoConfig& config, const Trainer& trainer) {
  const Progression& progress = trainer.progress();
  const RunIdentity& run = trainer.identity();
  Json epochs = Json::array();
  double train_seconds = 0;
  for (const EpochRecord& e : progress.history) {
    train_seconds += e.train_seconds;
    epochs.push_back({{"epoch", e.epoch},
                      {"lr", e.lr},
                      {"train_loss", e.train_loss},
                      {"val_mse", e.val_mse},
                      {"seconds", e.seconds},
                      {"train_seconds", e.train_seconds},
                      {"best", e.best}});
  }
  const auto trained = static_cast<double>(run.nt) * static_cast<double>(progress.history.size());
  return {{"model", arguments.model},
          {"variant", config.variant()},
          {"d", config.d},
          {"M", config.M},
          {"K", config.K},
          {"K_ivf", config.K_ivf},
          {"L", config.L},
          {"h", config.h},
          {"db_scale", config.db_scale},
          {"parameters", config.parameter_count()},
          {"nt", run.nt},
          {"nval", run.nval},
          {"batch_size", run.batch_size},
          {"lr", run.base_lr},
          {"lr_schedule", arguments.lr_schedule},
          {"precision", kernels::name(run.precision)},
          {"beam_size", run.beam.size},
          {"candidates", run.beam.candidates},
          {"seed", run.seed},
          {progress.from_rq ? "rq_val_mse" : "init_val_mse", progress.start_mse},
          {"best_val_mse", progress.history.empty() ? Json(nullptr) : Json(progress.schedule.best)},
          {"vectors_per_second", train_seconds > 0 ? trained / train_seconds : 0.0},
          {"epochs", epochs}};
}

Start make_start(const Common& common, const TrainArguments& arguments, const std::optional<Checkpoint>& checkpoint,
                 const Split& data, const Stopping& stopping) {
  if (checkpoint) return start_from_checkpoint(common, arguments, *checkpoint, data);
  if (!arguments.init_model.empty()) return start_from_model(common, arguments, data, stopping);
  return start_new(common, arguments, data, stopping);
}

TrainOptions train_options(const Common& common, const TrainArguments& arguments) {
  TrainOptions options;
  options.batch_size = arguments.batch_size;
  options.lr = arguments.lr;
  options.max_epochs = arguments.max_epochs;
  options.cosine = arguments.lr_schedule == "cosine";
  options.seed = common.seed;
  options.precision = arguments.precision;
  options.model_path = arguments.model;
  options.checkpoint_path = arguments.checkpoint_path();
  options.validate();
  check(arguments.rq_beam_size >= 1, "rq_beam_size: expected 1 or more, found {}", arguments.rq_beam_size);
  return options;
}

// A run goes on as it was begun: what it stored last, and may never beat, must be there at the end too.
void check_stored_model(const TrainArguments& arguments, const Progression& progress) {
  const std::vector<EpochRecord>& epochs = progress.history;
  const bool stored = !progress.from_rq ||
                      std::any_of(epochs.begin(), epochs.end(), [](const EpochRecord& epoch) { return epoch.best; });
  check(!stored || std::filesystem::exists(arguments.model),
        "{}: no such file, expected the best model so far of the run of {}", arguments.model,
        arguments.checkpoint_path());
}

// Whether a file is a whole checkpoint.
bool is_checkpoint(const std::string& path) {
  try {
    load_checkpoint(path);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

void Stopping::before_training() const {
  if (!signals.requested()) return;
  throw Stopped(signals.received(), parts_done ? fmt::format("stopped; go on with: {}", resume_command)
                                               : std::string("stopped before the first batch: nothing to go on from"));
}

float choose_db_scale(const TrainArguments& arguments, const VectorSet& train, const std::string& whose) {
  if (arguments.db_scale) return *arguments.db_scale;
  const float largest = train.max_entry();
  check(largest > 0, "{}: db_scale is the largest entry of {}, {}: give another with --db_scale",
        arguments.training_data, whose, largest);
  return largest;
}

bool has_checkpoint(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && (status.st_size > 0 || !S_ISREG(status.st_mode));
}

std::optional<Progression> check_run(const Common& common, const TrainArguments& arguments) {
  train_options(common, arguments);
  const std::string checkpoint = arguments.checkpoint_path();
  // The default checkpoint is not among the options that the program compares.
  for (const auto& [option, path] : {std::pair("--training_data", &arguments.training_data),
                                     {"--rq_codebooks", &arguments.rq_codebooks},
                                     {"--save_rq_codebooks", &arguments.save_rq_codebooks},
                                     {"--json", &common.json}})
    check(path->empty() || file_place(*path) != file_place(checkpoint),
          "{}: given as {}, and where the checkpoint of {} is kept", *path, option, arguments.model);
  if (!arguments.resume && has_checkpoint(checkpoint)) {
    check(is_checkpoint(checkpoint), "{}: would be replaced by the checkpoint: name another file with --checkpoint",
          checkpoint);
    fail(
        "{}: the checkpoint of a run that has not ended: if it has been stopped, go on with --resume, or remove it to "
        "start anew",
        checkpoint);
  }
  std::optional<Progression> progress;
  if (arguments.resume && has_checkpoint(checkpoint)) {
    progress = load_checkpoint(checkpoint).progress;
    check_stored_model(arguments, *progress);
  }
  check_writable(arguments.model);
  check_writable(checkpoint);
  if (!arguments.save_rq_codebooks.empty()) check_writable(arguments.save_rq_codebooks);
  return progress;
}

Json train_model(const Common& common, const TrainArguments& arguments, const Split& data, const Stopping& stopping) {
  TrainOptions options = train_options(common, arguments);
  std::optional<Checkpoint> checkpoint;
  if (arguments.resume) checkpoint = load_checkpoint(arguments.checkpoint_path());
  Start start = make_start(common, arguments, checkpoint, data, stopping);
  const QincoConfig& config = start.model.config();
  common.print("{} d={} M={} K={} L={} h={} db_scale={:.6g}: {} parameters, {} training and {} validation vectors",
               config.variant(), config.d, config.M, config.K, config.L, config.h, config.db_scale,
               config.parameter_count(), data.train.size(), data.val.size());
  options.beam = arguments.beam.search(config.K);
  start.model.to(common.device());
  Trainer trainer(start.model, data.train, data.val, options);
  if (checkpoint) {
    trainer.resume(*checkpoint);
  } else {
    trainer.start_from(start.mse, start.from_rq);
  }
  EpochPrinter printer(common, trainer);
  TrainHooks hooks;
  hooks.stop_requested = [&] { return stopping.signals.requested(); };
  hooks.batch = [&](int64_t done, int64_t total, double loss) { printer.batch(done, total, loss); };
  hooks.epoch = [&](const EpochRecord& record) { printer.epoch(record); };
  if (!trainer.run(hooks)) {
    throw Stopped(stopping.signals.received(), fmt::format("stopped; {} is saved; go on with: {}",
                                                           options.checkpoint_path, stopping.resume_command));
  }
  if (!trainer.recording_error().empty())
    common.print("batches were queued kernel by kernel, which is slower: {}", trainer.recording_error());
  const Progression& progress = trainer.progress();
  const double best = progress.schedule.best, rq = progress.start_mse;
  common.print("best validation MSE {:.6g}: {}", best, arguments.model);
  if (progress.from_rq && best > rq)
    common.print("the RQ that training started from is better, {:.6g}: train longer, or on more vectors", rq);
  return results(arguments, config, trainer);
}

}  // namespace qinco::app
