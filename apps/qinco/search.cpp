// qinco search: two-stage search. Fixed codebooks and look-up tables give a short-list, the decoder re-ranks it.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/qinco/beam.h"
#include "apps/qinco/command.h"
#include "apps/qinco/evaluate.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "kernels/kernels.h"
#include "qinco/codec/pairwise_decoder.h"
#include "qinco/codec/product_codec.h"
#include "qinco/io/codes.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/additive.h"
#include "qinco/search/additive_index.h"
#include "qinco/search/flat.h"
#include "qinco/search/rerank.h"

namespace qinco::app {
namespace {

struct TwoStageOptions {
  std::string model, training_data, codes, training_codes, norms = "u8";
  EvaluationFiles files;
  std::optional<int64_t> nt, M_used;
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
  std::vector<int64_t> nshort = {10, 20, 50, 100, 200, 500, 1000}, npairs = {0};
  bool exhaustive = false;
};

/// Vectors with their codes [n,nsub*M_used]: encoded, or read from a file of codes.
class CodedVectors {
 public:
  CodedVectors(ProductCodec& codec, int64_t M_used, const std::string& vectors, const std::string& codes,
               std::optional<int64_t> n)
      : codec_(codec), M_used_(M_used), vectors_(VectorFile::open(vectors)), n_(n.value_or(vectors_.size())) {
    check(vectors_.dim() == codec.d(), "{}: vectors have dimension {}, expected {}", vectors, vectors_.dim(),
          codec.d());
    check(1 <= n_ && n_ <= vectors_.size(), "{}: {} vectors asked for, the file has {}", vectors, n_, vectors_.size());
    if (codes.empty()) return;
    codes_ = CodeFile::open(codes, CodeFormat::npy, codec.codes_per_vector(M_used), codec.K());
    check(codes_->size() == vectors_.size(), "{}: {} rows, expected {} as in {}", codes, codes_->size(),
          vectors_.size(), vectors);
  }

  int64_t size() const { return n_; }

  /// body(count, x, codes) for block after block.
  template <class Body>
  void for_blocks(const Common& common, const std::string& title, Body body) const {
    const int64_t block = encode_rows_together(codec_.d(), codes_ ? 0 : codec_.encode_flops(), codec_.device());
    std::vector<float> x(static_cast<size_t>(block * codec_.d()));
    std::vector<int32_t> codes(static_cast<size_t>(block * codec_.codes_per_vector(M_used_)));
    const StopSignals signals;
    codec_.set_poll([&] { stop_if_asked(signals); });
    Progress progress(common.text(), title, n_);
    for (int64_t i = 0; i < n_; i += block) {
      const int64_t count = std::min(block, n_ - i);
      vectors_.read(i, i + count, x.data());
      if (codes_) {
        codes_->read(i, i + count, codes.data());
      } else {
        codec_.encode(count, x.data(), M_used_, codes.data());
      }
      body(count, x.data(), codes.data());
      progress.update(i + count);
      stop_if_asked(signals);
    }
    codec_.set_poll({});  // the signals go with this function
  }

 private:
  ProductCodec& codec_;
  int64_t M_used_;
  VectorFile vectors_;
  std::optional<CodeFile> codes_;
  int64_t n_;
};

/// What is fitted to the training vectors.
struct Fitted {
  AdditiveIndex index;
  std::optional<PairwiseDecoder> pairs;
};

/// Fixed codebooks fitted to the vectors, the quantizer of their norms unless these are kept as float32, and with
/// `pairwise` a pairwise decoder.
Fitted fit_index(const Common& common, const CodedVectors& training, const ProductCodec& codec, int64_t M,
                 bool small_norms, bool pairwise) {
  const kernels::Context& context = kernels::Context::cpu();
  AdditiveFit fit(M, codec.K(), codec.d());
  std::vector<int32_t> all;
  training.for_blocks(common, "fitting fixed codebooks", [&](int64_t n, const float* x, const int32_t* codes) {
    fit.add(context, n, x, codes);
    if (small_norms || pairwise) all.insert(all.end(), codes, codes + n * M);
  });
  const Tensor codebooks = std::move(fit).solve();
  std::optional<NormQuantizer> quantizer;
  if (small_norms) {
    std::vector<float> norms(static_cast<size_t>(training.size()));
    additive_norms(context, codebooks, training.size(), all.data(), norms.data());
    quantizer.emplace(training.size(), norms.data());
  }
  Fitted fitted{AdditiveIndex(codebooks, quantizer, common.device()), {}};
  if (pairwise) fitted.pairs.emplace(*codec.plain_codec(), training.size(), all.data(), M);
  return fitted;
}

/// Mean squared norms of the base's errors.
struct BaseError {
  double decoded = 0, fixed = 0;
};

/// Adds the base to the index and, decoded, to the exhaustive search unless that is null.
BaseError add_base(const Common& common, const ProductCodec& codec, const CodedVectors& base, int64_t M_used,
                   AdditiveIndex& index, FlatSearch* exhaustive) {
  const kernels::Context& context = common.context();
  std::vector<float> decoded;
  BaseError error;
  index.reserve(base.size());
  base.for_blocks(common, "adding the base", [&](int64_t n, const float* x, const int32_t* codes) {
    decoded.resize(static_cast<size_t>(n * codec.d()));
    index.add(context, n, codes);
    codec.decode(n, codes, M_used, M_used, decoded.data());
    add_squared_error(n, codec.d(), x, decoded.data(), error.decoded);
    if (exhaustive) exhaustive->add(n, decoded.data());
    additive_decode(context, index.codebooks(), n, codes, index.M(), index.M(), decoded.data());
    add_squared_error(n, codec.d(), x, decoded.data(), error.fixed);
  });
  error.decoded /= static_cast<double>(base.size());
  error.fixed /= static_cast<double>(base.size());
  return error;
}

Json search_point(const Common& common, const AdditiveIndex& index, const Decoder& decode, const Tensor& queries,
                  const Tensor& truth, int64_t nshort, const MiddleStage& middle) {
  const TwoStageResult result =
      two_stage_search(common.context(), index, decode, queries, nshort, std::min(nshort, kRecallRanks.back()), middle);
  Json point = {{"npairs", middle.candidates}, {"nshort", nshort}};
  point["recall_before"] = recalls(result.before, truth);
  point["recall"] = recalls(result.after, truth);
  point.update(search_times(truth.size(0), result.seconds));
  common.print("{:>6} {:>6}  {}   {}   {:>8.0f}  {}", middle.candidates, nshort, recall_columns(point["recall_before"]),
               recall_columns(point["recall"]), point["qps"].get<double>(), search_columns(point["seconds"]));
  return point;
}

void search(const TwoStageOptions& options, const Common& common) {
  const auto settings = short_lists(options.npairs, options.nshort);
  const bool pairwise = takes_pairs(settings);
  ProductCodec codec = load_codec(options.model, options.precision, common.device(), options.beam);
  check(codec.coarse() == 0, "{}: a model of variant ivf-qinco, expected one without a coarse quantizer",
        options.model);
  check(codec.K() <= kernels::kScanEntries, "{}: K = {}, expected at most {} for look-up tables", options.model,
        codec.K(), kernels::kScanEntries);
  check(!pairwise || codec.plain_codec(), "{}: a model of {} parts, expected a plain one for --npairs", options.model,
        codec.nsub());
  const int64_t M_used = checked_M_used(options.M_used, codec.M(), options.model);
  check(!pairwise || M_used >= 2, "{}: one code a vector, expected 2 or more for --npairs", options.model);
  check_evaluation_files(options.files, codec.d(), options.model);
  const CodedVectors training(codec, M_used, options.training_data, options.training_codes, options.nt);
  const CodedVectors base(codec, M_used, options.files.base, options.codes, {});
  const Tensor queries = read_all(options.files.queries), truth = read_ids(options.files.groundtruth, base.size());

  Stopwatch watch;
  const int64_t M = codec.codes_per_vector(M_used);
  Fitted fitted = fit_index(common, training, codec, M, options.norms == "u8", pairwise);
  AdditiveIndex& index = fitted.index;
  const double fit_seconds = watch.seconds();
  watch.restart();
  std::optional<FlatSearch> exhaustive;
  if (options.exhaustive) exhaustive.emplace(common.context(), queries, kRecallRanks.back());
  const BaseError mse = add_base(common, codec, base, M_used, index, exhaustive ? &*exhaustive : nullptr);
  const double add_seconds = watch.seconds();

  Json results = {{"n", base.size()},
                  {"nt", training.size()},
                  {"M_used", M_used},
                  {"bytes_per_vector", index.bytes_per_vector()},
                  {"precision", kernels::name(codec.precision())},
                  {"norms", options.norms},
                  {"mse", mse.decoded},
                  {"mse_fixed", mse.fixed},
                  {"seconds", {{"fit", fit_seconds}, {"add", add_seconds}}},
                  {"points", Json::array()}};
  common.print("{} vectors of {} bytes, MSE {:.6g}, of the fixed codebooks {:.6g}", base.size(),
               index.bytes_per_vector(), mse.decoded, mse.fixed);
  if (exhaustive) {
    results["exhaustive"] = {{"recall", recalls(exhaustive->ids(), truth)}};
    const Json& recall = results["exhaustive"]["recall"];
    common.print("exhaustive search of the decoded base: 1-recall@1 {:.4f}, @10 {:.4f}, @100 {:.4f}",
                 recall["1"].get<double>(), recall["10"].get<double>(), recall["100"].get<double>());
  }
  common.print(
      "npairs nshort  short-list @1/10/100    re-ranked @1/10/100     queries/s  seconds of scan, pairs, decode, "
      "distances");
  const Decoder decode = [&](int64_t n, const int32_t* all, float* x) {
    codec.decode_to_device(n, all, M_used, M_used, x);
  };
  const Decoder by_pairs = [&](int64_t n, const int32_t* all, float* x) { fitted.pairs->decode_to_device(n, all, x); };
  for (const auto& [npairs, nshort] : settings)
    results["points"].push_back(search_point(common, index, decode, queries, truth, nshort, {npairs, by_pairs}));
  common.report(results);
}

}  // namespace

void add_search(Program& program) {
  auto options = std::make_shared<TwoStageOptions>();
  CLI::App& command =
      program.add("search", "Two-stage search: short-list by look-up tables from fixed codebooks, re-rank by decoding",
                  [options](const Common& common) { search(*options, common); });
  command.add_option("--model", options->model, "the model")->required()->type_name("FILE");
  command.add_option("--training_data", options->training_data, "vectors to fit the fixed codebooks to")
      ->required()
      ->type_name("FILE");
  add_evaluation_options(command, options->files);
  command.add_option("--nt", options->nt, "fit to the first nt vectors (default: all)");
  add_short_list_options(command, options->npairs, options->nshort);
  command.add_option("--M_used", options->M_used, "use this many codes of each (sub-)quantizer (default: all)");
  add_precision_option(command, options->precision);
  add_beam_options(command, options->beam);
  command.add_option("--norms", options->norms, "how norms are kept: u8 or f32")
      ->check(CLI::IsMember({"u8", "f32"}))
      ->capture_default_str();
  command.add_option("--codes", options->codes, "codes of the base (.npy, from encode), instead of encoding it")
      ->type_name("FILE");
  command.add_option("--training_codes", options->training_codes, "codes of the training vectors (.npy)")
      ->type_name("FILE");
  command.add_flag("--exhaustive", options->exhaustive, "also search all of the decoded base, which re-ranking nears");
}

}  // namespace qinco::app
