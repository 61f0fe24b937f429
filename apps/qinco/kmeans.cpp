// qinco kmeans: centroids, of a coarse quantizer for IVF-QINCo say.
#include "qinco/quantizers/kmeans.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "apps/qinco/command.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/io/vectors.h"

namespace qinco::app {
namespace {

struct KmeansArguments {
  std::string training_data, output, init = "random";
  std::optional<int64_t> nt;
  int64_t k = 0, max_points = 256;
  int iterations = 25;
};

void cluster(const KmeansArguments& arguments, const Common& common) {
  const VectorFile file = VectorFile::open(arguments.training_data);
  const int64_t nt = checked_nt(arguments.nt, file), d = file.dim();
  check(arguments.k >= 1 && arguments.k <= nt, "--k {}: expected 1 to {}, the number of training vectors", arguments.k,
        nt);
  check(arguments.iterations >= 1, "--iterations {}: expected 1 or more", arguments.iterations);
  check(arguments.max_points >= 0, "--max_points_per_centroid {}: expected 0 or more", arguments.max_points);
  VectorWriter writer(arguments.output, arguments.k, d);

  const bool sampled = arguments.max_points > 0 && nt / arguments.max_points >= arguments.k;
  const Tensor x = file.sample(nt, sampled ? arguments.max_points * arguments.k : nt);
  const StopSignals signals;
  const Stopwatch watch;
  Progress progress(common.text(), "k-means", arguments.iterations, "iterations");
  KmeansOptions options;
  options.iterations = arguments.iterations;
  options.seed = common.seed;
  options.max_points_per_centroid = 0;
  options.init = arguments.init == "plus_plus" ? KmeansInit::plus_plus : KmeansInit::random;
  options.on_update = [&](int iteration, double mse) { progress.update(iteration, fmt::format("MSE {:.6g}", mse)); };
  options.poll = [&] { stop_if_asked(signals); };
  const Kmeans result =
      kmeans(common.context(), x.size(0), d, x.to(common.device()).data<float>(), arguments.k, options);
  writer.write(arguments.k, result.centroids.to(Device{}).data<float>());
  writer.commit();
  progress.clear();
  const double seconds = watch.seconds();
  common.print("{}: {} centroids of {} vectors, MSE {:.6g} after {} iterations, {:.1f} s", arguments.output,
               arguments.k, x.size(0), result.mse, result.iterations, seconds);
  common.report({{"k", arguments.k},
                 {"d", d},
                 {"nt", nt},
                 {"mse", result.mse},
                 {"iterations", result.iterations},
                 {"seconds", seconds}});
}

}  // namespace

void add_kmeans(Program& program) {
  auto arguments = std::make_shared<KmeansArguments>();
  CLI::App& command = program.add("kmeans", "Cluster vectors: the centroids of IVF-QINCo's coarse quantizer",
                                  [arguments](const Common& common) { cluster(*arguments, common); });
  command.add_option("--training_data", arguments->training_data, "vectors to cluster")->required()->type_name("FILE");
  command.add_option("--k", arguments->k, "centroids")->required();
  program.add_output(command, "--o", arguments->output, "centroids: .fvecs, .fbin or .npy", "")->required();
  command.add_option("--nt", arguments->nt, "use the first nt vectors (default: all)");
  command.add_option("--iterations", arguments->iterations, "at most so many")->capture_default_str();
  command
      .add_option("--max_points_per_centroid", arguments->max_points,
                  "use no more than k times as many vectors (0: all)")
      ->capture_default_str();
  command.add_option("--init", arguments->init, "random, or plus_plus: better for few centroids, slow for many")
      ->check(CLI::IsMember({"random", "plus_plus"}))
      ->capture_default_str();
}

}  // namespace qinco::app
