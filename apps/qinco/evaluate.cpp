#include "apps/qinco/evaluate.h"

#include <algorithm>
#include <vector>

#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "kernels/kernels.h"
#include "qinco/io/codes.h"
#include "qinco/io/vectors.h"
#include "qinco/search/flat.h"
#include "qinco/search/recall.h"

namespace qinco::app {
namespace {

struct Seconds {
  double encode = 0, decode = 0, search = 0;
};

/// Adds the seconds since the last restart to `total`, and restarts.
void lap(Stopwatch& watch, double& total) {
  total += watch.seconds();
  watch.restart();
}

/// The whole base through encode, decode and search. errors[m] sums ||x - xhat_m||^2 for the prefix of m+1 codes, or
/// only for M_used without `multirate`.
Tensor run_base(const Common& common, const Coder& coder, const VectorFile& base, const Tensor& queries, int64_t M_used,
                bool multirate, std::vector<double>& errors, Seconds& seconds) {
  const int64_t n = base.size(), d = base.dim(), block = encode_rows_together(d, coder.encode_flops, common.device());
  std::vector<float> x(static_cast<size_t>(block * d)), decoded(x.size());
  std::vector<int32_t> codes(static_cast<size_t>(block * coder.nsub * coder.M));
  FlatSearch search(common.context(), queries, kRecallRanks.back());
  const StopSignals signals;
  if (coder.set_poll) coder.set_poll([&] { stop_if_asked(signals); });
  Progress progress(common.text(), "evaluating", n);
  Stopwatch watch;
  const auto add_error = [&](int64_t m, int64_t count) {
    add_squared_error(count, d, x.data(), decoded.data(), errors[m - 1]);
  };
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    base.read(i, i + count, x.data());
    watch.restart();
    coder.encode(count, x.data(), codes.data());
    lap(watch, seconds.encode);
    coder.decode(count, codes.data(), M_used, decoded.data());
    lap(watch, seconds.decode);
    search.add(count, decoded.data());
    kernels::synchronize(common.device());  // so that its time is its own
    lap(watch, seconds.search);
    add_error(M_used, count);
    for (int64_t m = 1; multirate && m <= coder.M; ++m) {
      if (m == M_used) continue;
      coder.decode(count, codes.data(), m, decoded.data());
      add_error(m, count);
    }
    progress.update(i + count);
    stop_if_asked(signals);
  }
  return search.ids();
}

void print_results(const Common& common, const Json& results) {
  const Json& recall = results["recall"];
  const Json& seconds = results["seconds"];
  common.print("vectors          {}", results["n"].get<int64_t>());
  common.print("bytes/vector     {}", results["bytes_per_vector"].get<int64_t>());
  common.print("MSE              {:.6g}", results["mse"].get<double>());
  for (const Json& rate : results.value("multirate", Json::array()))
    common.print("MSE, M_used {:<4} {:.6g} ({} bytes)", rate["M_used"].get<int64_t>(), rate["mse"].get<double>(),
                 rate["bytes_per_vector"].get<double>());
  for (const auto& [rank, value] : recall.items()) common.print("1-recall@{:<7} {:.4f}", rank, value.get<double>());
  common.print("encode           {:.1f} s, {:.0f} vectors/s", seconds["encode"].get<double>(),
               results["vectors_per_second"].get<double>());
  common.print("decode, search   {:.2f} s, {:.2f} s", seconds["decode"].get<double>(), seconds["search"].get<double>());
}

}  // namespace

void add_evaluation_options(CLI::App& command, EvaluationFiles& files) {
  command.add_option("--base", files.base, "vectors to encode")->required()->type_name("FILE");
  command.add_option("--queries", files.queries, "vectors to search for")->required()->type_name("FILE");
  command.add_option("--groundtruth", files.groundtruth, "ids of each query's nearest base vectors (.ivecs, .npy)")
      ->required()
      ->type_name("FILE");
}

void check_evaluation_files(const EvaluationFiles& files, int64_t d, const std::string& owner) {
  const VectorFile base = VectorFile::open(files.base), queries = VectorFile::open(files.queries);
  for (const VectorFile* file : {&base, &queries})
    check(file->dim() == d, "{}: vectors have dimension {}, expected {} as in {}", file->path(), file->dim(), d, owner);
  const Tensor truth = read_ids(files.groundtruth, base.size());
  check(truth.size(0) == queries.size(), "{}: {} rows, expected {}, one for each vector of {}", files.groundtruth,
        truth.size(0), queries.size(), files.queries);
}

Json recalls(const Tensor& ids, const Tensor& truth) {
  Json recall;
  for (const int64_t rank : kRecallRanks) recall[std::to_string(rank)] = recall_at(ids, truth, rank);
  return recall;
}

std::string recall_columns(const Json& recall) {
  return fmt::format("{:.4f} {:.4f} {:.4f}", recall["1"].get<double>(), recall["10"].get<double>(),
                     recall["100"].get<double>());
}

std::string search_columns(const Json& seconds) {
  return fmt::format("{:.3f} {:.3f} {:.3f} {:.3f}", seconds["scan"].get<double>(), seconds["pairs"].get<double>(),
                     seconds["decode"].get<double>(), seconds["distances"].get<double>());
}

std::vector<ShortList> short_lists(const std::vector<int64_t>& npairs, const std::vector<int64_t>& nshort) {
  for (const int64_t n : nshort) check(n >= 1 && n <= (1 << 20), "--nshort {}: expected 1 to {}", n, 1 << 20);
  for (const int64_t n : npairs) check(n >= 0 && n <= (1 << 20), "--npairs {}: expected 0 to {}", n, 1 << 20);
  std::vector<ShortList> all;
  for (const int64_t pairs : npairs)
    for (const int64_t kept : nshort)
      if (pairs == 0 || pairs >= kept) all.push_back({pairs, kept});
  check(!all.empty(), "--npairs: expected at least as many candidates as an --nshort");
  return all;
}

bool takes_pairs(const std::vector<ShortList>& settings) {
  return std::any_of(settings.begin(), settings.end(), [](const ShortList& each) { return each.npairs > 0; });
}

void add_short_list_options(CLI::App& command, std::vector<int64_t>& npairs, std::vector<int64_t>& nshort) {
  command.add_option("--nshort", nshort, "candidates decoded, a list of settings")
      ->delimiter(',')
      ->capture_default_str();
  command
      .add_option("--npairs", npairs,
                  "candidates that a pairwise decoder chooses them of, a list of settings (0: the scan chooses)")
      ->delimiter(',')
      ->capture_default_str();
}

Json search_times(int64_t nq, const SearchSeconds& seconds) {
  return {{"qps", per_second(nq, seconds.total())},
          {"seconds",
           {{"scan", seconds.scan},
            {"pairs", seconds.pairs},
            {"decode", seconds.decode},
            {"distances", seconds.distances},
            {"total", seconds.total()}}}};
}

Json evaluate(const Common& common, const Coder& coder, const EvaluationFiles& files, int64_t M_used, bool multirate) {
  const VectorFile base = VectorFile::open(files.base);
  const int64_t n = base.size();
  std::vector<double> errors(static_cast<size_t>(coder.M), 0.0);
  Seconds seconds;
  const Tensor queries = read_all(files.queries);
  const Tensor ids = run_base(common, coder, base, queries, M_used, multirate, errors, seconds);
  const Tensor truth = read_ids(files.groundtruth, n);

  Json results;
  results["n"] = n;
  results["M_used"] = M_used;
  results["bytes_per_vector"] = packed_code_bytes(coder.nsub * M_used - coder.coarse, coder.K);
  results["mse"] = errors[M_used - 1] / static_cast<double>(n);
  results["recall"] = recalls(ids, truth);
  results["seconds"] = {{"encode", seconds.encode}, {"decode", seconds.decode}, {"search", seconds.search}};
  results["vectors_per_second"] = per_second(n, seconds.encode);
  for (int64_t m = 1; multirate && m <= coder.M; ++m) {
    const int64_t bits = (coder.nsub * m - coder.coarse) * bits_per_code(coder.K);
    results["multirate"].push_back({{"M_used", m},
                                    {"bytes_per_vector", static_cast<double>(bits) / 8},
                                    {"mse", errors[m - 1] / static_cast<double>(n)}});
  }
  print_results(common, results);
  return results;
}

}  // namespace qinco::app
