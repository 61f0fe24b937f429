// qinco train: RQ initialisation, then Adam training of QINCo or QINCo-LR.
#include <cerrno>
#include <optional>
#include <sys/stat.h>

#include "apps/qinco/command.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/signals.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/rq.h"
#include "qinco/training/initialise.h"
#include "qinco/training/trainer.h"

namespace qinco::app {
namespace {

struct TrainArguments {
  std::string training_data, model, init_model, rq_codebooks, save_rq_codebooks, checkpoint;
  std::optional<int64_t> M, K, L, h;  // unset: the default, or what the model to go on from has
  std::optional<float> db_scale;
  bool lowrank = false;
  std::optional<int64_t> nt;
  int64_t nval = 10000;
  int64_t rq_beam_size = 1;
  double lr = 1e-3;
  std::string lr_schedule = "plateau";
  int64_t batch_size = 1024;
  int64_t max_epochs = 1000;
  bool resume = false;

  std::string checkpoint_path() const { return checkpoint.empty() ? model + ".checkpoint" : checkpoint; }
};

bool exists(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0;
}

std::string shell_quoted(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_not_of(
                                          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                          "0123456789_-./:=,+@%") == std::string::npos;
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// The command as it was given, with --resume.
std::string resume_command(const CLI::App& command) {
  std::string text = shell_quoted(program_invocation_name) + " train";
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0 || name == "--resume") continue;
    text += " " + name;
    if (option->get_expected_min() > 0) text += " " + shell_quoted(option->results().front());
  }
  return text + " --resume";
}

// The rows of the file, split: the last nval of the nt + nval rows read are for validation.
struct Split {
  VectorSet train, val;
};

Split read_split(const TrainArguments& arguments) {
  const VectorFile file = VectorFile::open(arguments.training_data);
  const int64_t nval = arguments.nval;
  check(nval >= 1, "nval: expected 1 or more, found {}", nval);
  check(nval < file.size(), "{}: expected more than nval={} rows, found {}", file.path(), nval, file.size());
  const int64_t nt = arguments.nt.value_or(file.size() - nval);
  check(nt >= 1, "nt: expected 1 or more, found {}", nt);
  check(nt <= file.size() - nval, "{}: expected nt + nval = {} + {} rows or more, found {}", file.path(), nt, nval,
        file.size());
  return {VectorSet(file, 0, nt), VectorSet(file, nt, nt + nval)};
}

float choose_db_scale(const TrainArguments& arguments, const VectorSet& train) {
  if (arguments.db_scale) return *arguments.db_scale;
  const float largest = train.max_entry();
  check(largest > 0, "{}: db_scale is the largest entry of the training vectors, {}: give another with --db_scale",
        arguments.training_data, largest);
  return largest;
}

QincoConfig new_config(const TrainArguments& arguments, const VectorSet& train) {
  const QincoConfig base;
  QincoConfig config;
  config.d = train.dim();
  config.M = arguments.M.value_or(base.M);
  config.K = arguments.K.value_or(base.K);
  config.L = arguments.L.value_or(base.L);
  config.h = arguments.h.value_or(base.h);
  config.lowrank = arguments.lowrank;
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
                          const VectorSet& train) {
  if (!arguments.rq_codebooks.empty()) return load_rq(arguments.rq_codebooks);
  RqOptions options;
  options.beam_size = arguments.rq_beam_size;
  options.seed = common.seed;
  Progress progress(common.text(), "RQ", config.M, "steps");
  options.on_step = [&](int64_t step, int64_t) { progress.update(step); };
  return train_initial_rq(train, config.M, config.K, options);
}

// What a run starts from, and its validation error.
struct Start {
  Qinco model;
  double mse = 0;
  bool from_rq = true;
};

Start start_new(const Common& common, const TrainArguments& arguments, const Split& data) {
  const QincoConfig config = new_config(arguments, data.train);
  const ResidualQuantizer rq = make_rq(common, arguments, config, data.train);
  Start start{initial_model(config, rq, common.seed)};
  start.mse = rq_mse(rq, data.val, arguments.rq_beam_size);
  if (!arguments.save_rq_codebooks.empty()) save_rq(arguments.save_rq_codebooks, rq);
  common.print("RQ {}x{} beam {}: validation MSE {:.6g}", config.M, config.K, arguments.rq_beam_size, start.mse);
  return start;
}

Start start_from_model(const Common& common, const TrainArguments& arguments, const Split& data) {
  Start start{load_model(arguments.init_model)};
  check_agrees(arguments, start.model.config(), data.train.dim(), arguments.init_model);
  start.mse = codec_mse(Codec(start.model), data.val);
  start.from_rq = false;
  common.print("{}: validation MSE {:.6g}", arguments.init_model, start.mse);
  if (arguments.model != arguments.init_model) save_model(arguments.model, start.model);
  return start;
}

Start start_from_checkpoint(const Common& common, const TrainArguments& arguments, const Checkpoint& checkpoint,
                            const Split& data) {
  check_agrees(arguments, checkpoint.config, data.train.dim(), arguments.checkpoint_path());
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
    if (!progress_) progress_.emplace(common_.text(), fmt::format("epoch {}", epoch), total);
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
          {"L", config.L},
          {"h", config.h},
          {"db_scale", config.db_scale},
          {"parameters", config.parameter_count()},
          {"nt", run.nt},
          {"nval", run.nval},
          {"batch_size", run.batch_size},
          {"lr", run.base_lr},
          {"lr_schedule", arguments.lr_schedule},
          {"seed", run.seed},
          {progress.from_rq ? "rq_val_mse" : "init_val_mse", progress.start_mse},
          {"best_val_mse", progress.history.empty() ? Json(nullptr) : Json(progress.schedule.best)},
          {"vectors_per_second", train_seconds > 0 ? trained / train_seconds : 0.0},
          {"epochs", epochs}};
}

Start make_start(const Common& common, const TrainArguments& arguments, const std::optional<Checkpoint>& checkpoint,
                 const Split& data) {
  if (checkpoint) return start_from_checkpoint(common, arguments, *checkpoint, data);
  if (!arguments.init_model.empty()) return start_from_model(common, arguments, data);
  return start_new(common, arguments, data);
}

// Before any work: everything that will be written can be, and nothing worth keeping is in its place.
void check_outputs(const TrainArguments& arguments) {
  const std::string checkpoint = arguments.checkpoint_path();
  check(arguments.resume || !exists(checkpoint),
        "{}: the checkpoint of a run that did not end: go on with --resume, or remove it to start anew", checkpoint);
  check_writable(arguments.model);
  check_writable(checkpoint);
  if (!arguments.save_rq_codebooks.empty()) check_writable(arguments.save_rq_codebooks);
}

TrainOptions train_options(const Common& common, const TrainArguments& arguments) {
  TrainOptions options;
  options.batch_size = arguments.batch_size;
  options.lr = arguments.lr;
  options.max_epochs = arguments.max_epochs;
  options.cosine = arguments.lr_schedule == "cosine";
  options.seed = common.seed;
  options.model_path = arguments.model;
  options.checkpoint_path = arguments.checkpoint_path();
  options.validate();
  check(arguments.rq_beam_size >= 1, "rq_beam_size: expected 1 or more, found {}", arguments.rq_beam_size);
  return options;
}

void train(const Common& common, const TrainArguments& arguments, const CLI::App& command) {
  const TrainOptions options = train_options(common, arguments);
  check_outputs(arguments);
  std::optional<Checkpoint> checkpoint;
  if (arguments.resume) checkpoint = load_checkpoint(arguments.checkpoint_path());
  const Split data = read_split(arguments);
  const StopSignals signals;
  Start start = make_start(common, arguments, checkpoint, data);
  const QincoConfig& config = start.model.config();
  common.print("{} d={} M={} K={} L={} h={} db_scale={:.6g}: {} parameters, {} training and {} validation vectors",
               config.variant(), config.d, config.M, config.K, config.L, config.h, config.db_scale,
               config.parameter_count(), data.train.size(), data.val.size());
  Trainer trainer(start.model, data.train, data.val, options);
  if (checkpoint) {
    trainer.resume(*checkpoint);
  } else {
    trainer.start_from(start.mse, start.from_rq);
  }
  EpochPrinter printer(common, trainer);
  TrainHooks hooks;
  hooks.stop_requested = [&] { return signals.requested(); };
  hooks.batch = [&](int64_t done, int64_t total, double loss) { printer.batch(done, total, loss); };
  hooks.epoch = [&](const EpochRecord& record) { printer.epoch(record); };
  if (!trainer.run(hooks)) {
    throw Stopped(signals.received(), fmt::format("stopped; {} is saved; go on with: {}", options.checkpoint_path,
                                                  resume_command(command)));
  }
  common.print("best validation MSE {:.6g}: {}", trainer.progress().schedule.best, arguments.model);
  common.report(results(arguments, config, trainer));
  std::remove(options.checkpoint_path.c_str());  // the run is over: there is nothing to go on from
}

void add_data_options(CLI::App& command, TrainArguments& a) {
  command.add_option("--training_data", a.training_data, "vectors to train and validate on")->required();
  command.add_option("--model", a.model, "where the best model so far is stored (safetensors)")->required();
  command.add_option("--nt", a.nt, "training vectors (default: all rows but nval)");
  command.add_option("--nval", a.nval, "validation vectors: the last of the nt + nval rows")->capture_default_str();
  command.add_option("--db_scale", a.db_scale, "divisor of the vectors (default: the largest training entry)");
}

void add_model_options(CLI::App& command, TrainArguments& a) {
  command.add_option("--M", a.M, "codes a vector (default 8)");
  command.add_option("--K", a.K, "codewords a step, a power of two (default 256)");
  command.add_option("--L", a.L, "residual blocks a step (default 2)");
  command.add_option("--h", a.h, "hidden width of a block (default 256)");
  command.add_flag("--lowrank", a.lowrank, "train QINCo-LR: the concat block through h instead of d x d");
  CLI::Option* const init = command.add_option("--init_model", a.init_model, "go on from this model, not from an RQ");
  command.add_option("--rq_codebooks", a.rq_codebooks, "load the RQ that training starts from")->excludes(init);
  command.add_option("--save_rq_codebooks", a.save_rq_codebooks, "save that RQ")->excludes(init);
  command.add_option("--rq_beam_size", a.rq_beam_size, "beams of the RQ's training")->capture_default_str();
}

void add_run_options(CLI::App& command, TrainArguments& a) {
  command.add_option("--lr", a.lr, "learning rate at the start")->capture_default_str();
  command
      .add_option("--lr_schedule", a.lr_schedule,
                  "plateau: a tenth after 10 epochs without a better one; cosine: falling over max_epochs to a 100th")
      ->check(CLI::IsMember({"plateau", "cosine"}))
      ->capture_default_str();
  command.add_option("--batch_size", a.batch_size, "vectors a batch")->capture_default_str();
  command.add_option("--max_epochs", a.max_epochs, "stop after this many epochs")->capture_default_str();
  command.add_option("--checkpoint", a.checkpoint,
                     "saved every epoch and when stopped, removed at the end (default: MODEL.checkpoint)");
  command.add_flag("--resume", a.resume, "go on from the checkpoint of a stopped run, with the same options");
}

}  // namespace

void add_train(Program& program) {
  auto arguments = std::make_shared<TrainArguments>();
  auto chosen = std::make_shared<const CLI::App*>(nullptr);  // known only once `add` has returned
  CLI::App& command = program.add("train", "Train QINCo or QINCo-LR",
                                  [arguments, chosen](const Common& common) { train(common, *arguments, **chosen); });
  *chosen = &command;
  add_data_options(command, *arguments);
  add_model_options(command, *arguments);
  add_run_options(command, *arguments);
}

}  // namespace qinco::app
