// qinco index search: neighbours from an index; recall against queries per second over nprobe and nshort.
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "apps/qinco/command.h"
#include "apps/qinco/evaluate.h"
#include "apps/qinco/index.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/stream.h"
#include "apps/report/chart.h"
#include "qinco/io/vectors.h"
#include "qinco/search/ivf_index.h"
#include "tensor/file.h"
#include "tensor/npy.h"

namespace qinco::app {
namespace {

struct SearchOptions {
  std::string model, index, queries, groundtruth, output, plot;
  std::vector<int64_t> nprobe = {1, 4, 16, 64}, nshort = {10, 100, 1000}, npairs = {0}, ef_search = {64};
  std::optional<int64_t> M_used;
  kernels::Precision precision = kernels::Precision::exact;
  int64_t k = 100;
};

/// i32 [nq,k], as recall compares them: the lower 32 bits, as read_ids gives those of the ground truth.
Tensor as_tensor(const std::vector<int64_t>& ids, int64_t nq) {
  Tensor out = Tensor::empty({nq, static_cast<int64_t>(ids.size()) / nq}, DType::i32);
  std::transform(ids.begin(), ids.end(), out.data<int32_t>(), [](int64_t id) { return static_cast<int32_t>(id); });
  return out;
}

/// Ids [nq,k] as .npy of int64: they go up to 2^32.
void write_ids(const std::string& path, const std::vector<int64_t>& ids, int64_t nq) {
  const Tensor out = Tensor::empty({nq, static_cast<int64_t>(ids.size()) / nq}, DType::i64);
  std::copy(ids.begin(), ids.end(), out.data<int64_t>());
  write_npy(path, out);
}

/// Marks the points that no other one beats in both recall@1 and queries per second.
void mark_pareto(Json& points) {
  for (Json& point : points) {
    const auto beaten = [&](const Json& other) {
      const double recall = point["recall"]["1"], qps = point["qps"];
      const double better = other["recall"]["1"], faster = other["qps"];
      return better >= recall && faster >= qps && (better > recall || faster > qps);
    };
    point["pareto"] = std::none_of(points.begin(), points.end(), beaten);
  }
}

/// Queries per second over recall@1, a line for each nshort (of npairs, and efSearch).
void write_plot(const std::string& path, const Json& points) {
  report::LineChart chart{"1-recall@1", "queries per second", true, false, {}, {}};
  for (const Json& point : points) {
    std::string label = fmt::format("nshort {}", point["nshort"].get<int64_t>());
    if (point["npairs"] > 0) label += fmt::format(" of {}", point["npairs"].get<int64_t>());
    if (!point["efSearch"].is_null()) label += fmt::format(", efSearch {}", point["efSearch"].get<int64_t>());
    auto found = std::find_if(chart.series.begin(), chart.series.end(),
                              [&](const report::Series& series) { return series.label == label; });
    if (found == chart.series.end()) {
      chart.series.push_back({label, static_cast<int>(chart.series.size() + 1) % report::kColours, {}});
      found = chart.series.end() - 1;
    }
    found->points.push_back({point["recall"]["1"].get<double>(), point["qps"].get<double>()});
  }
  write_file(path, report::svg_file(chart));
}

void print_points(const Common& common, const Json& points) {
  const bool judged = points[0].contains("recall");
  common.print("nprobe efSearch npairs nshort  {}  queries/s  scan, pairs, decode, distances (s)",
               judged ? "short-list @1/10/100    re-ranked @1/10/100   " : "");
  for (const Json& point : points) {
    const std::string recall =
        judged ? recall_columns(point["recall_before"]) + "   " + recall_columns(point["recall"]) : "";
    common.print("{:>6} {:>8} {:>6} {:>6}  {}   {:>8.0f}{}  {}", point["nprobe"].get<int64_t>(),
                 point["efSearch"].is_null() ? "-" : point["efSearch"].dump(), point["npairs"].get<int64_t>(),
                 point["nshort"].get<int64_t>(), recall, point["qps"].get<double>(),
                 judged && point["pareto"].get<bool>() ? "*" : " ", search_columns(point["seconds"]));
  }
}

void check_options(const SearchOptions& options) {
  check(!options.groundtruth.empty() || options.plot.empty(), "--plot: expected --groundtruth, to draw recall");
  check(options.k >= 1, "--k {}: expected 1 or more", options.k);
  for (const int64_t ef : options.ef_search)
    check(ef >= 1 && ef <= (1 << 20), "--efSearch {}: expected 1 to {}", ef, 1 << 20);
  for (const int64_t nprobe : options.nprobe) check(nprobe >= 1, "--nprobe {}: expected 1 or more", nprobe);
}

void search(const SearchOptions& options, const Common& common) {
  check_options(options);
  const auto settings = short_lists(options.npairs, options.nshort);
  for (const std::string& path : {options.output, options.plot})
    if (!path.empty()) check_writable(path);
  const auto coder = load_coder(options.model, options.precision, common);
  IvfIndex index(options.index, coder);
  const VectorFile file = VectorFile::open(options.queries);
  check(file.dim() == index.d(), "{}: queries have dimension {}, expected {} as in {}", options.queries, file.dim(),
        index.d(), options.index);
  const int64_t M_used = checked_codes_after_list(options.M_used, index.file().parameters().M, options.index);
  const Tensor queries = read_all(options.queries);
  const int64_t nq = queries.size(0);
  const bool judged = !options.groundtruth.empty();
  Tensor truth;
  if (judged) {
    truth = read_ids(options.groundtruth, std::numeric_limits<uint32_t>::max());  // ids that an index may hold
    check(truth.size(0) == nq, "{}: {} rows, expected {}, one for each vector of {}", options.groundtruth,
          truth.size(0), nq, options.queries);
  }
  const Stopwatch watch;
  if (takes_pairs(settings)) index.make_pairwise_decoder();
  const double fit_seconds = watch.seconds();
  Json points = Json::array();
  std::vector<int64_t> ids;  // of the last setting
  std::vector<int64_t> efs = options.ef_search;
  if (!index.has_graph()) efs = {1};  // no matter
  for (const int64_t nprobe : options.nprobe)
    for (const int64_t ef : efs)
      for (const auto& [npairs, nshort] : settings) {
        IvfResult result = index.search({queries.data<float>(), static_cast<size_t>(queries.numel())},
                                        {std::min(options.k, nshort), nprobe, nshort, ef, M_used, npairs});
        points.push_back(search_times(nq, result.seconds));
        if (judged) {
          points.back()["recall_before"] = recalls(as_tensor(result.short_list, nq), truth);
          points.back()["recall"] = recalls(as_tensor(result.ids, nq), truth);
        }
        points.back()["nprobe"] = nprobe;
        points.back()["efSearch"] = index.has_graph() ? Json(ef) : Json(nullptr);
        points.back()["npairs"] = npairs;
        points.back()["nshort"] = nshort;
        ids = std::move(result.ids);
      }
  if (!options.output.empty()) write_ids(options.output, ids, nq);
  if (judged) mark_pareto(points);
  print_points(common, points);
  if (!options.plot.empty()) write_plot(options.plot, points);
  common.report({{"n", index.size()},
                 {"nq", nq},
                 {"k", options.k},
                 {"M_used", M_used + 1},
                 {"precision", kernels::name(coder->codec().precision())},
                 {"seconds", {{"fit", fit_seconds}}},
                 {"points", points}});
}

}  // namespace

void add_index_search(Program& program) {
  auto options = std::make_shared<SearchOptions>();
  CLI::App& command = program.add("index search", "Search an index: recall and queries per second of every setting",
                                  [options](const Common& common) { search(*options, common); });
  command.add_option("--index", options->index, "the index")->required()->type_name("FILE");
  command.add_option("--model", options->model, "the model it was built for")->required()->type_name("FILE");
  command.add_option("--queries", options->queries, "vectors to search for")->required()->type_name("FILE");
  command
      .add_option("--groundtruth", options->groundtruth,
                  "ids of each query's nearest vectors (.ivecs, .npy), to measure recall")
      ->type_name("FILE");
  command.add_option("--nprobe", options->nprobe, "lists visited, a list of settings")
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--efSearch", options->ef_search, "candidates of an HNSW coarse quantizer, a list of settings")
      ->delimiter(',')
      ->capture_default_str();
  add_short_list_options(command, options->npairs, options->nshort);
  command.add_option("--M_used", options->M_used, "decode this many codes of a candidate, its list among them");
  add_precision_option(command, options->precision, kDecodingPrecision);
  command.add_option("--k", options->k, "neighbours kept, at most nshort; recall at ranks beyond is that at k")
      ->capture_default_str();
  program.add_output(command, "--plot", options->plot, "queries per second over recall@1, as a drawing", ".svg");
  program.add_output(command, "--o", options->output, "ids found with the last setting, -1 where there are fewer",
                     ".npy");
}

}  // namespace qinco::app
