// qinco baseline: the table of `eval` for a classical quantizer trained on the spot.
#include <algorithm>
#include <memory>
#include <optional>

#include "apps/qinco/command.h"
#include "apps/qinco/evaluate.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/rq.h"

namespace qinco::app {
namespace {

struct BaselineOptions {
  std::string method, training_data, output;
  EvaluationFiles files;
  std::optional<int64_t> nt;
  int64_t M = 8, K = 256, beam_size = 5;
};

ResidualQuantizer train(const BaselineOptions& options, const Common& common, const VectorFile& file, int64_t nt) {
  const Tensor x = read_rows(options.training_data, 0, nt);
  Progress progress(common.text(), "training RQ", options.M, "steps");
  RqOptions training;
  training.beam_size = options.beam_size;
  training.seed = common.seed;
  training.on_step = [&](int64_t step, int64_t) { progress.update(step); };
  return train_rq(kernels::Context::cpu(), nt, file.dim(), x.data<float>(), options.M, options.K, training);
}

void baseline(const BaselineOptions& options, const Common& common) {
  if (options.method != "rq") throw UsageError(fmt::format("--method {}: expected rq", options.method));
  const VectorFile file = VectorFile::open(options.training_data);
  const int64_t nt = options.nt.value_or(file.size());
  check(nt >= 1 && nt <= file.size(), "{}: {} training vectors asked for (--nt), the file has {}",
        options.training_data, nt, file.size());
  check_evaluation_files(options.files, file.dim(), options.training_data);
  if (!options.output.empty()) check_writable(options.output);

  const Stopwatch watch;
  const ResidualQuantizer rq = train(options, common, file, nt);
  const double seconds = watch.seconds();
  common.print("trained RQ {}x{} (beam {}) on {} vectors in {:.1f} s", options.M, options.K, options.beam_size, nt,
               seconds);
  if (!options.output.empty()) save_rq(options.output, rq);

  const kernels::Context& context = kernels::Context::cpu();
  Coder coder{options.M, options.K, file.dim(), {}, {}};
  coder.encode = [&](int64_t n, const float* x, int32_t* codes) { rq.encode(context, n, x, options.beam_size, codes); };
  coder.decode = [&](int64_t n, const int32_t* codes, int64_t used, float* x) {
    rq.decode(context, n, codes, options.M, used, x);
  };
  Json results = evaluate(common, coder, options.files, options.M, true);
  results["seconds"]["train"] = seconds;
  results["method"] = options.method;
  results["nt"] = nt;
  common.report(results);
}

}  // namespace

void add_baseline(Program& program) {
  auto options = std::make_shared<BaselineOptions>();
  CLI::App& command = program.add("baseline", "The table of eval for a classical quantizer (rq), trained on the spot",
                                  [options](const Common& common) { baseline(*options, common); });
  command.add_option("--method", options->method, "rq: residual quantizer")->required();
  command.add_option("--training_data", options->training_data, "vectors to train on")->required()->type_name("FILE");
  add_evaluation_options(command, options->files);
  command.add_option("--nt", options->nt, "train on the first nt vectors (default: all)");
  command.add_option("--M", options->M, "codes per vector")->capture_default_str();
  command.add_option("--K", options->K, "codewords per codebook, a power of two")->capture_default_str();
  command.add_option("--rq_beam_size", options->beam_size, "beams of training and encoding")->capture_default_str();
  command.add_option("--o", options->output, "write the quantizer (safetensors)")->type_name("FILE");
}

}  // namespace qinco::app
