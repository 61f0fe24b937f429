// qinco eval: how good a model is: MSE, recall, rates.
#include <memory>
#include <optional>

#include "apps/qinco/beam.h"
#include "apps/qinco/command.h"
#include "apps/qinco/evaluate.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/stream.h"
#include "qinco/codec/product_codec.h"

namespace qinco::app {
namespace {

struct EvalOptions {
  std::string model;
  EvaluationFiles files;
  std::optional<int64_t> M_used;
  bool multirate = false;
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
};

void eval(const EvalOptions& options, const Common& common) {
  ProductCodec codec = load_codec(options.model, options.precision, common.device(), options.beam);
  const int64_t M_used = checked_M_used(options.M_used, codec.M(), options.model);
  check_evaluation_files(options.files, codec.d(), options.model);
  Coder coder;
  coder.M = options.multirate ? codec.M() : M_used;  // that are searched for
  coder.K = codec.K(), coder.nsub = codec.nsub(), coder.coarse = codec.coarse();
  coder.encode_flops = codec.encode_flops();
  coder.encode = [&](int64_t n, const float* x, int32_t* codes) { codec.encode(n, x, coder.M, codes); };
  coder.decode = [&](int64_t n, const int32_t* codes, int64_t used, float* x) {
    codec.decode(n, codes, coder.M, used, x);
  };
  coder.set_poll = [&](const std::function<void()>& poll) { codec.set_poll(poll); };
  Json results = evaluate(common, coder, options.files, M_used, options.multirate);
  results["precision"] = kernels::name(codec.precision());
  results["beam_size"] = codec.beam().size;
  results["candidates"] = codec.beam().candidates;
  common.report(results);
}

}  // namespace

void add_eval(Program& program) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App& command = program.add("eval", "Encode a base, decode it, search it: MSE, recall, rates",
                                  [options](const Common& common) { eval(*options, common); });
  command.add_option("--model", options->model, "the model")->required()->type_name("FILE");
  add_evaluation_options(command, options->files);
  command.add_option("--M_used", options->M_used, "decode this many codes of each (sub-)quantizer (default: all)");
  command.add_flag("--multirate", options->multirate, "measure the MSE of every prefix of the codes too");
  add_precision_option(command, options->precision);
  add_beam_options(command, options->beam);
}

}  // namespace qinco::app
