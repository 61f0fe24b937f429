// qinco train: RQ initialisation, then Adam training of QINCo, QINCo-LR, PQ-QINCo or IVF-QINCo.
#include <cerrno>
#include <cstdio>
#include <memory>

#include "apps/qinco/beam.h"
#include "apps/qinco/claim.h"
#include "apps/qinco/command.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/train_run.h"
#include "qinco/io/vectors.h"

namespace qinco::app {
namespace {

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

Split read_split(const TrainArguments& arguments) {
  const VectorFile file = VectorFile::open(arguments.training_data);
  const int64_t nval = arguments.nval;
  check(nval >= 1, "nval: expected 1 or more, found {}", nval);
  check(nval < file.size(), "{}: expected more rows than --nval {}, those for validation, found {}", file.path(), nval,
        file.size());
  const int64_t nt = arguments.nt.value_or(file.size() - nval);
  check(nt >= 1, "nt: expected 1 or more, found {}", nt);
  check(nt <= file.size() - nval, "{}: expected nt + nval = {} + {} rows or more, found {}", file.path(), nt, nval,
        file.size());
  return {VectorSet(file, 0, nt), VectorSet(file, nt, nt + nval)};
}

void train(const Common& common, const TrainArguments& arguments, const CLI::App& command) {
  const bool product = arguments.nsub > 1;
  if (arguments.opq && !product) throw UsageError("--opq: expected --nsub 2 or more");
  const StopSignals signals;
  const Claim checkpoint(arguments.checkpoint_path()), model(arguments.model);  // first: what is checked stays so
  if (product)
    check_product_run(common, arguments);
  else
    check_run(common, arguments);
  const Split data = read_split(arguments);
  const std::string resume = resume_command(command);
  common.report(product ? train_product(common, arguments, data, signals, resume)
                        : train_model(common, arguments, data, {signals, resume}));
  if (!product) std::remove(arguments.checkpoint_path().c_str());  // the run is over: nothing to go on from
}

void add_data_options(Program& program, CLI::App& command, TrainArguments& a) {
  command.add_option("--training_data", a.training_data, "vectors to train and validate on")
      ->required()
      ->type_name("FILE");
  program
      .add_output(command, "--model", a.model, "where the best model so far is stored", ".safetensors", "--init_model")
      ->required();
  command.add_option("--nt", a.nt, "training vectors (default: all rows but nval)");
  command.add_option("--nval", a.nval, "validation vectors: the last of the nt + nval rows")->capture_default_str();
  command.add_option("--db_scale", a.db_scale, "divisor of the vectors (default: the largest training entry)");
}

void add_model_options(Program& program, CLI::App& command, TrainArguments& a) {
  command.add_option("--M", a.M, "codes a vector (default 8)");
  command.add_option("--K", a.K, "codewords a step, a power of two (default 256)");
  command.add_option("--L", a.L, "residual blocks a step (default 2)");
  command.add_option("--h", a.h, "hidden width of a block (default 256)");
  CLI::Option* const lowrank =
      command.add_flag("--lowrank", a.lowrank, "train QINCo-LR: the concat block through h instead of d x d");
  CLI::Option* const nsub =
      command.add_option("--nsub", a.nsub, "train PQ-QINCo: that many models of d/nsub dimensions each")
          ->check(CLI::Range(1, 4096))
          ->capture_default_str();
  command.add_flag("--opq", a.opq, "rotate first, by a matrix trained for the nsub blocks")->needs(nsub);
  CLI::Option* const ivf = command.add_flag("--ivf", a.ivf, "train IVF-QINCo on top of --IVF_centroids");
  ivf->excludes(nsub)->excludes(lowrank);
  CLI::Option* const centroids =
      command.add_option("--IVF_centroids", a.ivf_centroids, "centroids of the coarse quantizer (from kmeans)");
  centroids->type_name("FILE")->needs(ivf);
  ivf->needs(centroids);
  CLI::Option* const init = command.add_option("--init_model", a.init_model, "go on from this model, not from an RQ");
  init->type_name("FILE")->excludes(nsub)->excludes(ivf);
  command.add_option("--rq_codebooks", a.rq_codebooks, "load the RQ that training starts from")
      ->type_name("FILE")
      ->excludes(init)
      ->excludes(nsub);
  program.add_output(command, "--save_rq_codebooks", a.save_rq_codebooks, "save that RQ", ".safetensors")
      ->excludes(init)
      ->excludes(nsub);
  command.add_option("--rq_beam_size", a.rq_beam_size, "beams of the RQ's training")->capture_default_str();
}

void add_run_options(Program& program, CLI::App& command, TrainArguments& a) {
  command.add_option("--lr", a.lr, "learning rate at the start")->capture_default_str();
  command
      .add_option("--lr_schedule", a.lr_schedule,
                  "plateau: a tenth after 10 epochs without a better one; cosine: falling over max_epochs to a 100th")
      ->check(CLI::IsMember({"plateau", "cosine"}))
      ->capture_default_str();
  command.add_option("--batch_size", a.batch_size, "vectors a batch")->capture_default_str();
  add_precision_option(
      command, a.precision,
      "exact: as in float; fast: codes by rounded operands, other products in TF32 or bfloat16 where there are such");
  add_beam_options(command, a.beam);
  command.add_option("--max_epochs", a.max_epochs, "stop after this many epochs")->capture_default_str();
  program.add_output(command, "--checkpoint", a.checkpoint,
                     "saved every epoch and when stopped, removed at the end (default: MODEL.checkpoint)", "");
  command.add_flag("--resume", a.resume, "go on from the checkpoint of a stopped run, with the same options");
}

}  // namespace

void add_train(Program& program) {
  auto arguments = std::make_shared<TrainArguments>();
  auto chosen = std::make_shared<const CLI::App*>(nullptr);  // known only once `add` has returned
  CLI::App& command = program.add("train", "Train QINCo, QINCo-LR, PQ-QINCo or IVF-QINCo",
                                  [arguments, chosen](const Common& common) { train(common, *arguments, **chosen); });
  *chosen = &command;
  add_data_options(program, command, *arguments);
  add_model_options(program, command, *arguments);
  add_run_options(program, command, *arguments);
}

}  // namespace qinco::app
