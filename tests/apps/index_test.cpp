// IVF-QINCo through the real binary: centroids, training, building, adding in parts, killing, merging, searching.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include "qinco/search/ivf_file.h"
#include "tensor/create.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// A workspace with centroids, an IVF-QINCo model and a built index.
class IvfWorkspace : public Workspace {
 public:
  IvfWorkspace() {
    run_well({"kmeans", "--training_data", base(), "--k", "24", "--o", file("centroids.fvecs")});
    Arguments training = with(with(train(1), "--model", ivf_model()), "--IVF_centroids", file("centroids.fvecs"));
    training.push_back("--ivf");
    run_well(training);
    run_well({"index", "build", "--model", ivf_model(), "--training_data", base(), "--o", index()});
  }
  std::string ivf_model() const { return file("ivf.safetensors"); }
  std::string index() const { return file("base.index"); }
  Arguments add() const { return {"index", "add", "--index", index(), "--model", ivf_model(), "--i", base()}; }
  Arguments search_index() const {
    return {"index",   "search",        "--index",     index(),    "--model", ivf_model(), "--queries",
            queries(), "--groundtruth", groundtruth(), "--nprobe", "1,24",    "--nshort",  "10,600"};
  }
  std::string copy_of(const std::string& from, const std::string& name) const {
    std::filesystem::copy_file(file(from), file(name));
    return file(name);
  }
  static void run_well(const Arguments& arguments) {
    const Outcome outcome = run(arguments);
    REQUIRE_MESSAGE(outcome.code == 0, outcome.err);
  }
};

Json without_times(Json points) {
  for (Json& point : points)
    for (const char* key : {"qps", "seconds", "pareto"}) point.erase(key);
  return points;
}

TEST_CASE("kmeans: centroids, and what is refused") {
  const Workspace space;
  const Arguments arguments = {"kmeans", "--training_data", space.base(), "--k", "10", "--o", space.file("c.npy")};
  const Json results = results_of(arguments);
  for (const char* key : {"mse", "iterations", "seconds"}) CHECK(results.contains(key));
  CHECK(read_all(space.file("c.npy")).shape() == Shape{10, Workspace::kD});
  CHECK(results_of(with(arguments, "--init", "plus_plus")).at("mse") < results.at("mse").get<double>() * 1.1);
  expect_error(space.path(), with(arguments, "--k", "601"), 1, {"--k 601: expected 1 to 600"});
  expect_error(space.path(), with(arguments, "--iterations", "0"), 1, {"--iterations 0"});
  expect_error(space.path(), with(arguments, "--init", "best"), 2, {"--init"});
}

TEST_CASE("index: visiting all lists and decoding all is eval's exhaustive search") {
  const IvfWorkspace space;
  const Json info = results_of({"info", space.ivf_model()});
  CHECK(info.at("variant") == "ivf-qinco");
  CHECK(info.at("K_ivf") == 24);
  const Json added = results_of(space.add());
  CHECK(added.at("added") == Workspace::kN);
  const std::string plot = space.file("plot.svg");
  const Json results = results_of(with(with(space.search_index(), "--o", space.file("ids.npy")), "--plot", plot));
  const std::string drawing = read_bytes(plot);
  CHECK(drawing.rfind("<svg xmlns=", 0) == 0);
  for (const char* part : {"nshort 10<", "nshort 600<", "<circle", "</svg>", "queries per second"})
    CHECK_MESSAGE(contains(drawing, part), part);
  const Json& points = results.at("points");
  REQUIRE(points.size() == 4);
  for (const Json& point : points) {
    for (const char* key : {"nprobe", "nshort", "recall", "recall_before", "qps", "pareto"}) CHECK(point.contains(key));
    for (const char* key : {"scan", "decode", "distances", "total"}) CHECK(point.at("seconds").contains(key));
  }
  const Json eval = results_of(with(space.eval(), "--model", space.ivf_model()));
  CHECK(points[3].at("nprobe") == 24);
  CHECK(points[3].at("recall") == eval.at("recall"));
  const Tensor ids = read_npy(space.file("ids.npy"));
  CHECK(ids.shape() == Shape{20, 100});
  CHECK(std::all_of(ids.data<int64_t>(), ids.data<int64_t>() + ids.numel(),
                    [](int64_t id) { return id >= -1 && id < Workspace::kN; }));
  const Arguments unjudged = {"index",     "search",        "--index",  space.index(), "--model",  space.ivf_model(),
                              "--queries", space.queries(), "--nprobe", "24",          "--nshort", "600"};
  const Json times = results_of(with(unjudged, "--o", space.file("same.npy"))).at("points")[0];
  CHECK(!times.contains("recall"));
  CHECK(times.at("qps") > 0.0);
  CHECK(read_bytes(space.file("same.npy")) == read_bytes(space.file("ids.npy")));
  expect_error(space.path(), with(unjudged, "--plot", plot), 1, {"--plot: expected --groundtruth"});
  const Json about = results_of({"index", "info", "--index", space.index()});
  CHECK(about.at("n") == Workspace::kN);
  CHECK(about.at("bytes_per_vector") == 4);  // 3 codes and a norm
  CHECK(results_of({"info", space.index()}) == about);

  const std::string codes = space.file("ivf_codes.npy");
  CHECK(run(with(with(space.encode(), "--model", space.ivf_model()), "--o", codes)).code == 0);
  Arguments raw = with(space.encode(), "--model", space.ivf_model());
  raw.push_back("--raw");
  const std::string packed = space.file("codes.bin");
  CHECK(run(with(raw, "--o", packed)).code == 0);
  CHECK(std::filesystem::file_size(packed) == Workspace::kN * 3);  // 5 bits of the list, 3 times 4
  Arguments unpack =
      with(with(with(space.decode(), "--model", space.ivf_model()), "--i", packed), "--o", packed + ".npy");
  unpack.push_back("--raw");
  CHECK(run(unpack).code == 0);
  CHECK(run(with(with(with(space.decode(), "--model", space.ivf_model()), "--i", codes), "--o", codes + ".npy")).code ==
        0);
  CHECK(read_bytes(packed + ".npy") == read_bytes(codes + ".npy"));
  const std::string again = space.file("again.index");
  CHECK(run({"index", "build", "--model", space.ivf_model(), "--training_data", space.base(), "--training_codes", codes,
             "--o", again})
            .code == 0);
  const std::string bare = space.copy_of("again.index", "bare.index");
  CHECK(run(with(with(space.add(), "--index", again), "--codes", codes)).code == 0);
  CHECK(read_bytes(again) == read_bytes(space.index()));
  const Arguments of_codes = {"index", "add", "--index", bare, "--model", space.ivf_model()};
  Arguments of_packed = with(of_codes, "--codes", packed);
  of_packed.push_back("--raw");
  CHECK(results_of(of_packed).at("added") == Workspace::kN);
  CHECK(read_bytes(bare) == read_bytes(space.index()));
  expect_error(space.path(), of_codes, 2, {"qinco index add: expected --i or --codes"});
  const Tensor wrong = read_npy(codes).clone();
  wrong.data<int32_t>()[550 * 4 + 1] = 20;  // a list there may be, but no code
  write_npy(codes, wrong);
  expect_error(space.path(), with(with(with(space.add(), "--first_id", "9000"), "--batch", "100"), "--codes", codes), 1,
               {"ivf_codes.npy: row 550 holds a code outside 0 to 15", "500 vectors", "--resume --first_id 9000"});
}

TEST_CASE("index: --beam_size and --candidates code what is built from and added as encode does") {
  const IvfWorkspace space;
  const auto searched = [](Arguments arguments) {
    arguments.insert(arguments.end(), {"--beam_size", "3", "--candidates", "4"});
    return arguments;
  };
  const std::string codes = space.file("beam.npy"), coded = space.file("coded.index"), here = space.file("here.index");
  space.run_well(searched(with(with(space.encode(), "--model", space.ivf_model()), "--o", codes)));
  const Arguments build = {"index", "build", "--model", space.ivf_model(), "--training_data", space.base()};
  space.run_well(with(with(build, "--training_codes", codes), "--o", coded));
  space.run_well(searched(with(build, "--o", here)));
  CHECK(read_bytes(here) == read_bytes(coded));
  CHECK(read_bytes(here) != read_bytes(space.index()));
  const Arguments add = with(space.add(), "--index", here);
  space.run_well(searched(add));
  space.run_well(with(with(space.add(), "--index", coded), "--codes", codes));
  CHECK(read_bytes(here) == read_bytes(coded));
  expect_error(space.path(), with(add, "--candidates", "17"), 1, {"candidates: expected 1 to K = 16, found 17"});
}

TEST_CASE("index: recall counts ids up to the largest that an index holds") {
  const IvfWorkspace space;
  const int64_t first = (int64_t{1} << 32) - 2 - Workspace::kN;
  const std::string truth = space.file("large.npy"), plain = space.copy_of("base.index", "plain.index");
  IvfWorkspace::run_well(with(space.add(), "--index", plain));
  IvfWorkspace::run_well(with(space.add(), "--first_id", std::to_string(first)));
  const Tensor ids = read_ids(space.groundtruth(), Workspace::kN).to(DType::i64);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.data<int64_t>()[i] += first;
  write_npy(truth, ids);
  const Arguments search = with(space.search_index(), "--groundtruth", truth);
  const Json expected = results_of(with(space.search_index(), "--index", plain)).at("points");
  CHECK(expected.back().at("recall").at("10") > 0.5);
  CHECK(without_times(results_of(search).at("points")) == without_times(expected));
  ids.data<int64_t>()[0] = (int64_t{1} << 32) - 1;
  write_npy(truth, ids);
  expect_error(space.path(), search, 1, {"row 0 holds id 4294967295, expected 0 to 4294967294"});
}

TEST_CASE("index: an HNSW coarse quantizer, swept over efSearch") {
  const IvfWorkspace space;
  const std::string graph = space.file("graph.index");
  CHECK(run({"index", "build", "--model", space.ivf_model(), "--training_data", space.base(), "--o", graph, "--hnsw",
             "8", "--efConstruction", "40"})
            .code == 0);
  CHECK(run(with(space.add(), "--index", graph)).code == 0);
  CHECK(run(space.add()).code == 0);
  CHECK(results_of({"index", "info", "--index", graph}).at("coarse") == "hnsw");
  const Json flat = results_of(space.search_index()).at("points");
  const Json swept = results_of(with(with(space.search_index(), "--index", graph), "--efSearch", "24,30")).at("points");
  REQUIRE(swept.size() == 2 * flat.size());
  CHECK(flat[0].at("efSearch").is_null());
  CHECK(swept[0].at("efSearch") == 24);
  CHECK(swept[2].at("efSearch") == 30);
  CHECK(swept[0].at("recall") == flat[0].at("recall"));
  CHECK(swept.back().at("recall") == flat.back().at("recall"));
  expect_error(space.path(), with(space.search_index(), "--efSearch", "0"), 1, {"--efSearch 0"});
}

TEST_CASE("index: --precision reaches the codec of build, add and search") {
  const IvfWorkspace space;
  for (const char* name : {"exact", "fast"}) {
    const std::string path = space.file(std::string(name) + ".index");
    const Arguments build = {"index",      "build", "--model", space.ivf_model(), "--training_data",
                             space.base(), "--o",   path,      "--precision",     name};
    CHECK(results_of(build).at("precision") == name);
    CHECK(results_of(with(with(space.add(), "--index", path), "--precision", name)).at("precision") == name);
    const Json found = results_of(with(with(space.search_index(), "--index", path), "--precision", name));
    CHECK(found.at("precision") == name);
    CHECK(found.at("points").back().at("recall").at("10") > 0.5);
  }
}

TEST_CASE("index: search --npairs has the pairwise decoder choose what is decoded") {
  const IvfWorkspace space;
  expect_error(space.path(), with(space.search_index(), "--npairs", "600"), 1, {space.index(), "an empty index"});
  CHECK(run(space.add()).code == 0);
  const Arguments swept = with(space.search_index(), "--npairs", "0,50,600");
  const Json points = results_of(with(swept, "--plot", space.file("plot.svg"))).at("points");
  REQUIRE(points.size() == 10);
  for (const size_t i : {0, 5}) {  // nprobe 1 and 24
    const std::vector<std::pair<int64_t, int64_t>> settings = {{0, 10}, {0, 600}, {50, 10}, {600, 10}, {600, 600}};
    for (size_t j = 0; j < settings.size(); ++j) {
      CHECK(points[i + j].at("npairs") == settings[j].first);
      CHECK(points[i + j].at("nshort") == settings[j].second);
      CHECK((points[i + j].at("seconds").at("pairs") > 0) == (settings[j].first > 0));
    }
    CHECK(points[i + 4].at("recall") == points[i + 1].at("recall"));
  }
  CHECK(points[8].at("recall_before") != points[5].at("recall_before"));
  CHECK(contains(read_bytes(space.file("plot.svg")), "nshort 10 of 600"));
  expect_error(space.path(), with(space.search_index(), "--npairs", "5"), 1, {"--npairs: expected at least as many"});
}

TEST_CASE("index: --M_used keeps fewer codes, or decodes fewer") {
  const IvfWorkspace space;
  CHECK(run(space.add()).code == 0);
  const std::string few = space.file("few.index");
  CHECK(run({"index", "build", "--model", space.ivf_model(), "--training_data", space.base(), "--o", few, "--M_used",
             "3"})
            .code == 0);
  CHECK(run(with(space.add(), "--index", few)).code == 0);
  CHECK(results_of({"index", "info", "--index", few}).at("bytes_per_vector") == 3);  // 2 codes and a norm
  const Json eval = results_of(with(with(space.eval(), "--model", space.ivf_model()), "--M_used", "3"));
  CHECK(results_of(with(space.search_index(), "--index", few)).at("points")[3].at("recall") == eval.at("recall"));
  const Json prefix = results_of(with(space.search_index(), "--M_used", "3"));
  CHECK(prefix.at("M_used") == 3);
  CHECK(prefix.at("points")[3].at("recall") == eval.at("recall"));
  CHECK(results_of(space.search_index()).at("M_used") == 4);
  expect_error(space.path(), with(space.search_index(), "--M_used", "5"), 1, {"--M_used 5: expected 2 to 4"});
  expect_error(space.path(), with(with(space.search_index(), "--index", few), "--M_used", "1"), 1,
               {"--M_used 1: expected 2 to 3", few});
}

TEST_CASE("index: shards and batches merge into what one addition gives") {
  const IvfWorkspace space;
  const std::string first = space.copy_of("base.index", "0.index"), second = space.copy_of("base.index", "1.index");
  CHECK(run(space.add()).code == 0);
  const Json expected = without_times(results_of(space.search_index()).at("points"));
  CHECK(run(with(with(space.add(), "--index", first), "--shard", "0/2")).code == 0);
  CHECK(run(with(with(with(space.add(), "--index", second), "--shard", "1/2"), "--batch", "70")).code == 0);
  CHECK(results_of({"index", "info", "--index", second}).at("segments") == 5);
  CHECK(run({"index", "merge", "--o", first, "--i", second, first}).code == 0);
  const Json about = results_of({"index", "info", "--index", first});
  CHECK(about.at("n") == Workspace::kN);
  CHECK(about.at("segments") == 1);
  CHECK(without_times(results_of(with(space.search_index(), "--index", first)).at("points")) == expected);
  expect_error(space.path(), {"index", "merge", "--o", space.file("m"), "--i", first, second}, 1,
               {"ids 300 to 369 are in the index already"});
  expect_error(space.path(), {"index", "merge", "--o", first, "--i", first, space.file("./0.index")}, 2,
               {"0.index is named twice"});
  expect_error(space.path(), with(space.add(), "--shard", "2/2"), 2, {"--shard 2/2"});
  expect_error(space.path(), with(space.add(), "--first_id", "599"), 1, {"ids 599 to 599 are in the index already"});
}

TEST_CASE("index: ids that cannot be added are found before the first batch") {
  const IvfWorkspace space;
  const char* const largest = "9223372036854775807";
  const Arguments half = with(space.add(), "--shard", "1/2");
  Arguments resume = space.add();
  resume.push_back("--resume");
  for (const Arguments& arguments : {half, resume})
    expect_error(space.path(), with(arguments, "--first_id", largest), 1, {"--first_id 9223372036854775807"});
  CHECK(results_of(with(half, "--batch", largest)).at("added") == 300);
  const std::string before = read_bytes(space.index());
  const Arguments batches = with(space.add(), "--batch", "100");
  expect_error(space.path(), with(batches, "--first_id", "0"), 1, {"ids 300 to 599 are in the index already"});
  expect_error(space.path(), with(batches, "--first_id", "4294967000"), 1, {"expected ids below 4294967294"});
  expect_error(space.path(), with(with(resume, "--batch", "100"), "--first_id", "4294967000"), 1, {"ids below"});
  CHECK(read_bytes(space.index()) == before);
}

/// Kills the process once `seen` is true, if it is before the end.
void kill_when(Process& process, const std::function<bool()>& seen) {
  while (process.running() && !seen()) std::this_thread::sleep_for(std::chrono::microseconds(100));
  process.send(SIGKILL);
  process.finish();
}

TEST_CASE("index: kill -9 while adding loses no more than the batch, and --resume completes it") {
  const IvfWorkspace space;
  const std::string whole = space.copy_of("base.index", "whole.index");
  const Arguments batches = with(space.add(), "--batch", "3");
  CHECK(run(with(batches, "--index", whole)).code == 0);
  Arguments resume = batches;
  resume.push_back("--resume");
  const auto bytes = [&] { return std::filesystem::file_size(space.index()); };
  int64_t last = 0;
  for (const uint64_t growth : {1, 1000, 3000, 5000}) {
    Process process(resume);
    kill_when(process, [&, before = bytes()] { return bytes() >= before + growth; });
    const IvfFile file = IvfFile::open(space.index());
    CHECK(file.size() >= last);
    CHECK((file.size() % 3 == 0));
    last = file.size();
  }
  CHECK(last > 0);
  CHECK(run(resume).code == 0);
  CHECK(read_bytes(space.index()) == read_bytes(whole));
  CHECK(results_of(resume).at("added") == 0);
  CHECK(run(space.add()).code == 0);  // once more, with ids of their own: which of the two is to go on?
  expect_error(space.path(), resume, 1, {"holds ids up to 1199", "has 600 rows", "--first_id"});
  CHECK(results_of(with(resume, "--first_id", "600")).at("added") == 0);
}

TEST_CASE("index: a batch holds 16 entries a list where there are many lists") {
  const Workspace space;
  QincoConfig config = Workspace::config();
  config.M = 1, config.K = 2, config.K_ivf = 5000;
  Random random(8);
  const std::string model = space.file("lists.safetensors"), index = space.file("lists.index");
  save_model(model, Qinco(config, random));
  const Tensor codes = Tensor::empty({70'000, 2}, DType::i32);  // more than the 65,536 of few lists
  for (int64_t i = 0; i < codes.size(0); ++i)
    codes.data<int32_t>()[2 * i] = static_cast<int32_t>(i % 5000), codes.data<int32_t>()[2 * i + 1] = 0;
  write_npy(space.file("lists.npy"), codes);
  IvfWorkspace::run_well({"index", "build", "--model", model, "--training_data", space.base(), "--o", index});
  const Arguments add = {"index", "add", "--model", model, "--codes", space.file("lists.npy"), "--index", index};
  CHECK(results_of(add).at("added") == 70'000);
  CHECK(IvfFile::open(index).segments().size() == 1);
  CHECK(results_of(with(add, "--batch", "40000")).at("first_id") == 70'000);
  CHECK(IvfFile::open(index).segments().size() == 3);
}

TEST_CASE("index: Ctrl-C within a batch keeps what is encoded, and --resume goes on") {
  const IvfWorkspace space;
  QincoConfig config = Workspace::config();
  config.h = 64, config.L = 4, config.K_ivf = 8;
  Random random(7);
  save_model(space.ivf_model(), Qinco(config, random));
  IvfWorkspace::run_well(
      {"index", "build", "--model", space.ivf_model(), "--training_data", space.base(), "--o", space.index()});
  const int64_t n = 1'000'000;  // seconds of work, in one batch
  write_vectors(space.file("many.fvecs"), zeros({n, Workspace::kD}));
  const std::string empty = read_bytes(space.index());
  Arguments arguments =
      with(with(with(space.add(), "--i", space.file("many.fvecs")), "--batch", std::to_string(n)), "--threads", "1");
  Outcome outcome;
  for (int wait = 200; wait < 10'000 && IvfFile::open(space.index()).size() == 0; wait *= 2) {  // until it was at work
    write_bytes(space.index(), empty);
    Process process(arguments);
    std::this_thread::sleep_for(std::chrono::milliseconds(wait));
    process.send(SIGINT);
    outcome = process.finish();
    CHECK(outcome.code == 128 + SIGINT);
  }
  CHECK(contains(outcome.err, "go on with --resume --first_id 0"));
  const int64_t held = IvfFile::open(space.index()).size();
  CHECK(held < n);
  CHECK(held > 0);
  write_vectors(space.file("many.fvecs"), zeros({held + 100, Workspace::kD}));
  arguments.push_back("--resume");
  CHECK(results_of(arguments).at("added") == 100);
}

TEST_CASE("index: kill -9 while merging leaves the index that was, or the merged one") {
  const IvfWorkspace space;
  CHECK(run(with(space.add(), "--batch", "50")).code == 0);
  const std::string before = read_bytes(space.index()), merged = space.file("merged.index");
  CHECK(run({"index", "merge", "--i", space.index(), "--o", merged}).code == 0);
  const std::set<std::string> files = listing(space.path());
  for (int i = 0; i < 5; ++i) {
    write_bytes(space.index(), before);
    Process process({"index", "merge", "--i", space.index(), "--o", space.index()});
    kill_when(process, [&] {  // part of the new index is in a temporary file
      const std::set<std::string> now = listing(space.path());
      std::error_code gone;
      return std::any_of(now.begin(), now.end(), [&](const std::string& name) {
        return files.count(name) == 0 && std::filesystem::file_size(name, gone) > 0 && !gone;
      });
    });
    const std::string after = read_bytes(space.index());
    CHECK((after == before || after == read_bytes(merged)));
    CHECK(run({"index", "info", "--index", space.index()}).code == 0);
    for (const std::string& name : listing(space.path()))
      if (files.count(name) == 0) std::filesystem::remove(name);
  }
}

TEST_CASE("index: what does not fit is refused by name") {
  const IvfWorkspace space;
  expect_error(space.path(), with(space.add(), "--model", space.model()), 1,
               {"model.safetensors", "expected ivf-qinco"});
  expect_error(space.path(), with(space.add(), "--index", space.base()), 1, {"base.fvecs", "not an index file"});
  expect_error(space.path(), with(space.search_index(), "--nprobe", "0"), 1, {"--nprobe 0"});
  const Arguments build = {"index",           "build",      "--model", space.ivf_model(),
                           "--training_data", space.base(), "--o",     space.file("new")};
  expect_error(space.path(), with(build, "--hnsw", "1"), 1, {"--hnsw 1: expected 0 or 2 to 1000"});
  expect_error(space.path(), with(build, "--efConstruction", "0"), 1, {"--efConstruction 0"});
  const std::string bytes = read_bytes(space.index()), damaged = space.file("damaged.index");
  write_bytes(damaged, bytes.substr(0, bytes.size() - 1));
  expect_error(space.path(), with(space.search_index(), "--index", damaged), 1, {damaged, "truncated index"});
  write_bytes(damaged, bytes.substr(0, 9000) + '\x7f' + bytes.substr(9001));
  expect_error(space.path(), with(space.add(), "--index", damaged), 1, {damaged, "damaged index"});
  const Json empty = results_of(space.search_index());
  CHECK(empty.at("points")[0].at("recall").at("100") == 0.0);
}

}  // namespace
}  // namespace qinco::tests
