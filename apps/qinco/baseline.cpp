// qinco baseline: the table of `eval` for a classical quantizer trained on the spot.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "apps/qinco/command.h"
#include "apps/qinco/evaluate.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"

namespace qinco::app {
namespace {

struct BaselineOptions {
  std::string method, training_data, output;
  EvaluationFiles files;
  std::optional<int64_t> nt;
  int64_t M = 8, K = 256, beam_size = 5;
};

/// A trained quantizer as evaluation sees it, and how to write it.
struct Trained {
  Coder coder;
  std::function<void(const std::string& path)> save;
};

Trained train_residual(const BaselineOptions& options, const Common& common, const Tensor& x) {
  const kernels::Context& context = common.context();
  const Tensor rows = x.to(context.device);
  Progress progress(common.text(), "training RQ", options.M, "steps");
  RqOptions training;
  training.beam_size = options.beam_size;
  training.seed = common.seed;
  training.on_step = [&](int64_t step, int64_t) { progress.update(step); };
  auto rq = std::make_shared<ResidualQuantizer>(
      train_rq(context, x.size(0), x.size(1), rows.data<float>(), options.M, options.K, training));
  rq->codebooks = rq->codebooks.to(context.device);  // once, not for every block
  Trained trained{{options.M, options.K, 1, 0, 0, {}, {}}, [rq](const std::string& path) { save_rq(path, *rq); }};
  trained.coder.encode = [rq, &context, beam = options.beam_size](int64_t n, const float* vectors, int32_t* codes) {
    rq->encode(context, n, vectors, beam, codes);
  };
  trained.coder.decode = [rq, &context](int64_t n, const int32_t* codes, int64_t used, float* out) {
    rq->decode(context, n, codes, rq->M(), used, out);
  };
  return trained;
}

Trained train_product(const BaselineOptions& options, const Common& common, const Tensor& x) {
  const kernels::Context& context = common.context();
  const Tensor rows = x.to(context.device);
  const bool rotated = options.method == "opq";
  PqOptions training;
  training.seed = common.seed;
  training.max_points_per_centroid = 0;  // x is a sample already
  Progress progress(common.text(), rotated ? "training OPQ" : "training PQ",
                    rotated ? training.opq_iterations + options.M : options.M, "steps");
  training.on_step = [&](int64_t step, int64_t) { progress.update(step); };
  auto pq = std::make_shared<ProductQuantizer>((rotated ? train_opq : train_pq)(
      context, x.size(0), x.size(1), rows.data<float>(), options.M, options.K, training));
  pq->codebooks = pq->codebooks.to(context.device);  // once, not for every block
  if (rotated) pq->rotation = pq->rotation.to(context.device);
  Trained trained{{options.M, options.K, 1, 0, 0, {}, {}}, [pq](const std::string& path) { save_pq(path, *pq); }};
  trained.coder.encode = [pq, &context](int64_t n, const float* vectors, int32_t* codes) {
    pq->encode(context, n, vectors, codes);
  };
  trained.coder.decode = [pq, &context](int64_t n, const int32_t* codes, int64_t, float* out) {
    pq->decode(context, n, codes, out);
  };
  return trained;
}

void baseline(const BaselineOptions& options, const Common& common) {
  const bool residual = options.method == "rq";
  if (!residual && options.method != "pq" && options.method != "opq")
    throw UsageError(fmt::format("--method {}: expected pq, opq or rq", options.method));
  const VectorFile file = VectorFile::open(options.training_data);
  const int64_t nt = checked_nt(options.nt, file);
  check_evaluation_files(options.files, file.dim(), options.training_data);
  if (!options.output.empty()) check_writable(options.output);

  const Stopwatch watch;
  const int64_t per_codeword = residual ? kRqPointsPerCodeword : PqOptions{}.max_points_per_centroid;
  const Tensor x =
      file.sample(nt, per_codeword * std::clamp<int64_t>(options.K, 1, 1 << 16));  // other K: refused below
  const Trained trained = residual ? train_residual(options, common, x) : train_product(options, common, x);
  const double seconds = watch.seconds();
  common.print("trained {} {}x{}{} on {} vectors in {:.1f} s", options.method, options.M, options.K,
               residual ? fmt::format(" (beam {})", options.beam_size) : "", x.size(0), seconds);
  if (!options.output.empty()) trained.save(options.output);

  Json results = evaluate(common, trained.coder, options.files, options.M, residual);
  results["seconds"]["train"] = seconds;
  results["method"] = options.method;
  results["nt"] = nt;
  common.report(results);
}

}  // namespace

void add_baseline(Program& program) {
  auto options = std::make_shared<BaselineOptions>();
  CLI::App& command = program.add("baseline", "The table of eval for a classical quantizer, trained on the spot",
                                  [options](const Common& common) { baseline(*options, common); });
  command
      .add_option("--method", options->method, "pq: product quantizer; opq: after a rotation; rq: residual quantizer")
      ->required();
  command.add_option("--training_data", options->training_data, "vectors to train on")->required()->type_name("FILE");
  add_evaluation_options(command, options->files);
  command.add_option("--nt", options->nt, "train on the first nt vectors (default: all)");
  command.add_option("--M", options->M, "codes per vector")->capture_default_str();
  command.add_option("--K", options->K, "codewords per codebook, a power of two")->capture_default_str();
  command.add_option("--rq_beam_size", options->beam_size, "rq: beams of training and encoding")->capture_default_str();
  program.add_output(command, "--o", options->output, "write the quantizer", ".safetensors");
}

}  // namespace qinco::app
