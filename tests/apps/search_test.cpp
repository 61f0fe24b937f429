// Two-stage search and PQ-QINCo through the real binary: training in parts, recombining, prefixes, short-lists.
#include <cmath>
#include <csignal>

#include "qinco/codec/product_codec.h"
#include "qinco/io/product_file.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// Columns [begin,end) of the workspace's base as a file.
std::string columns(const Workspace& space, int64_t begin, int64_t end) {
  const std::string path = space.file(fmt::format("columns{}.npy", begin));
  write_npy(path, space.base_vectors().slice(1, begin, end).contiguous());
  return path;
}

TEST_CASE("search: recall nears that of the exhaustive search, and short-lists longer than the base do no harm") {
  const Workspace space;
  Arguments arguments = with(space.search(), "--nshort", "10,100,600,1000");
  arguments.push_back("--exhaustive");
  const Json results = results_of(arguments);
  const Json& points = results.at("points");
  REQUIRE(points.size() == 4);
  for (const Json& point : points) {
    for (const char* key : {"nshort", "recall", "recall_before", "qps"}) CHECK(point.contains(key));
    for (const char* key : {"scan", "decode", "distances", "total"}) CHECK(point.at("seconds").contains(key));
    CHECK(point.at("qps") > 0);
  }
  CHECK(points[0].at("nshort") == 10);
  CHECK(points[2].at("recall") == results.at("exhaustive").at("recall"));
  CHECK(points[3].at("recall") == points[2].at("recall"));
  CHECK(results.at("n") == Workspace::kN);
  CHECK(results.at("bytes_per_vector") == Workspace::kM + 1);
  CHECK(results.at("mse_fixed") > 0);
  const Json eval = results_of(space.eval());
  CHECK(eval.at("recall") == results.at("exhaustive").at("recall"));
  CHECK(eval.at("mse").get<double>() == doctest::Approx(results.at("mse").get<double>()).epsilon(1e-6));
}

TEST_CASE("search: --npairs has the pairwise decoder choose, in settings that keep no more than they have") {
  const Workspace space;
  const Arguments swept = with(with(space.search(), "--nshort", "10,600"), "--npairs", "0,50,600");
  const Json points = results_of(swept).at("points");
  REQUIRE(points.size() == 5);  // not the best 600 of 50
  const std::vector<std::pair<int64_t, int64_t>> settings = {{0, 10}, {0, 600}, {50, 10}, {600, 10}, {600, 600}};
  for (size_t i = 0; i < settings.size(); ++i) {
    CHECK(points[i].at("npairs") == settings[i].first);
    CHECK(points[i].at("nshort") == settings[i].second);
    CHECK((points[i].at("seconds").at("pairs") > 0) == (settings[i].first > 0));
  }
  CHECK(points[4].at("recall") == points[1].at("recall"));  // all are decoded
  CHECK(points[3].at("recall_before") != points[0].at("recall_before"));
  expect_error(space.path(), with(swept, "--npairs", "5,9"), 1, {"--npairs: expected at least as many"});
  expect_error(space.path(), with(swept, "--npairs", "-1"), 1, {"--npairs -1: expected 0 to"});
}

TEST_CASE("search: codes from encode, prefixes of them, norms as floats, and any number of threads") {
  const Workspace space;
  const Json encoded = results_of(with(with(space.encode(), "--M_used", "2"), "--o", space.file("two.npy")));
  CHECK(encoded.at("M_used") == 2);
  const Arguments prefix = with(with(space.search(), "--M_used", "2"), "--nshort", "50");
  const Json expected = results_of(prefix);
  CHECK(expected.at("mse").get<double>() == doctest::Approx(encoded.at("mse").get<double>()).epsilon(1e-6));
  Arguments given = with(with(prefix, "--codes", space.file("two.npy")), "--training_codes", space.file("two.npy"));
  const Json found = results_of(with(given, "--threads", "1"));
  for (const char* key : {"recall", "recall_before"}) CHECK(found["points"][0][key] == expected["points"][0][key]);
  CHECK(found.at("mse_fixed") == expected.at("mse_fixed"));
  const Json floats = results_of(with(prefix, "--norms", "f32"));
  CHECK(floats.at("bytes_per_vector") == 2 + 4);
  CHECK(floats.at("points")[0].at("recall").at("1").get<double>() ==
        doctest::Approx(expected["points"][0]["recall"]["1"].get<double>()).epsilon(0.2));
}

TEST_CASE("search: what does not fit is refused by name") {
  const Workspace space;
  expect_error(space.path(), with(space.search(), "--nshort", "10,0"), 1, {"--nshort 0: expected 1 to"});
  expect_error(space.path(), with(space.search(), "--M_used", "4"), 1, {"--M_used 4: expected 1 to 3"});
  expect_error(space.path(), with(space.search(), "--nt", "601"), 1, {"601 vectors asked for, the file has 600"});
  expect_error(space.path(), with(space.search(), "--norms", "u4"), 2, {"--norms"});
  expect_error(space.path(), with(space.search(), "--codes", space.queries()), 1, {"queries.fvecs"});
  QincoConfig large = Workspace::config();
  large.K = 512;
  Random random(7);
  save_model(space.file("large.safetensors"), Qinco(large, random));
  expect_error(space.path(), with(space.search(), "--model", space.file("large.safetensors")), 1,
               {"large.safetensors: K = 512, expected at most 256"});
  const std::string narrow = columns(space, 0, 4);
  expect_error(space.path(), with(space.search(), "--training_data", narrow), 1, {"dimension 4, expected 8"});
}

TEST_CASE("encode and decode: fewer codes stored are the prefix") {
  const Workspace space;
  const std::string few = space.file("few.npy"), all = space.file("all.npy");
  CHECK(run(with(space.encode(), "--o", all)).code == 0);
  CHECK(run(with(with(space.encode(), "--o", few), "--M_used", "2")).code == 0);
  CHECK(run(with(with(with(space.decode(), "--i", all), "--M_used", "2"), "--o", space.file("a.fvecs"))).code == 0);
  CHECK(run(with(with(with(space.decode(), "--i", few), "--M_stored", "2"), "--o", space.file("b.fvecs"))).code == 0);
  CHECK(read_bytes(space.file("a.fvecs")) == read_bytes(space.file("b.fvecs")));
  expect_error(space.path(), with(space.decode(), "--i", few), 1, {"shape [600,2], expected [n,3]"});
  expect_error(space.path(), with(with(space.decode(), "--i", few), "--M_stored", "4"), 1, {"--M_stored 4"});
}

TEST_CASE("train --nsub: one model file that encode, decode, eval, search and info take") {
  const Workspace space;
  for (const bool opq : {false, true}) {
    const std::string model = space.file(opq ? "opq.safetensors" : "pq.safetensors");
    Arguments arguments = with(with(space.train(2), "--nsub", "2"), "--model", model);
    if (opq) arguments.push_back("--opq");
    const std::set<std::string> before = listing(space.path());
    const Json trained = results_of(arguments);
    CHECK(listing(space.path()).size() == before.size() + 1);  // the parts are gone
    for (const char* key : {"epochs", "rq_val_mse", "best_val_mse", "vectors_per_second", "db_scale"})
      CHECK(trained.contains(key));
    for (const char* key :
         {"nt", "nval", "L", "h", "batch_size", "lr", "lr_schedule", "precision", "beam_size", "candidates", "seed"})
      CHECK(trained.at(key) == trained.at("sub_quantizers")[1].at(key));
    CHECK(trained.at("epochs").size() == 4);
    CHECK(trained.at("sub_quantizers").size() == 2);
    CHECK(load_product(model).rotation.defined() == opq);
    const Json info = results_of({"info", model});
    CHECK(info.at("variant") == "pq-qinco");
    CHECK(info.at("nsub") == 2);
    CHECK(info.at("bytes_per_vector") == 3);  // 2 x 3 codes of 4 bits
    const std::string codes = space.file("pq_codes.npy");
    const Json encoded = results_of(with(with(space.encode(), "--model", model), "--o", codes));
    CHECK(read_npy(codes).shape() == Shape{Workspace::kN, 6});
    const Json evaluated = results_of(with(space.eval(), "--model", model));
    CHECK(evaluated.at("mse").get<double>() == doctest::Approx(encoded.at("mse").get<double>()).epsilon(1e-6));
    CHECK(run(with(with(space.decode(), "--model", model), "--i", codes)).code == 0);
    const Tensor decoded = read_all(space.file("out.fvecs"));
    CHECK(sum_squared_difference(decoded, space.base_vectors()) / Workspace::kN ==
          doctest::Approx(encoded.at("mse").get<double>()).epsilon(1e-6));
    CHECK(results_of(with(with(space.search(), "--model", model), "--nshort", "20")).at("points").size() == 1);
  }
}

TEST_CASE("pq recombine: separately trained models are one") {
  const Workspace space;
  const std::string whole = space.file("whole.safetensors"), both = space.file("both.safetensors");
  const Json trained = results_of(with(with(space.train(1), "--nsub", "2"), "--model", whole));
  Arguments recombine = {"pq", "recombine", "--o", both, "--models"};
  for (const int64_t begin : {0, 4}) {
    const std::string part = space.file(fmt::format("part{}.safetensors", begin));
    const Json results =
        results_of(with(with(space.train(1), "--training_data", columns(space, begin, begin + 4)), "--model", part));
    CHECK(results.at("best_val_mse") == trained["sub_quantizers"][begin == 0 ? 0 : 1]["best_val_mse"]);
    recombine.push_back(part);
  }
  CHECK(results_of(recombine).at("nsub") == 2);
  CHECK(read_bytes(whole) == read_bytes(both));
  Arguments rotated = with(recombine, "--opq_matrix", columns(space, 0, 3));
  expect_error(space.path(), rotated, 1, {"expected [8,d]"});
  for (const double value : {0.0, 0.125, std::nan("")}) {
    write_npy(space.file("matrix.npy"), full({8, 8}, value));
    expect_error(space.path(), with(recombine, "--opq_matrix", space.file("matrix.npy")), 1,
                 {"matrix.npy: expected a rotation"});
  }
}

TEST_CASE("train --opq: the rotation is trained on vectors from all over the file") {
  const Workspace space;
  const Tensor other = space.base_vectors().clone();
  for (int64_t j = 0; j < Workspace::kD; ++j) other.row(518).data<float>()[j] += 3;  // of 520; 256 K are used
  write_vectors(space.file("other.fvecs"), other);
  Arguments arguments = with(with(with(with(space.train(1), "--nsub", "2"), "--K", "2"), "--M", "1"), "--nt", "520");
  arguments = with(arguments, "--db_scale", "4");
  arguments.push_back("--opq");
  const auto rotation = [&](const std::string& vectors) {
    const std::string model = vectors + ".safetensors";
    CHECK(run(with(with(arguments, "--training_data", vectors), "--model", model)).code == 0);
    return load_product(model).rotation;
  };
  CHECK_FALSE(same_bits(rotation(space.base()), rotation(space.file("other.fvecs"))));
}

TEST_CASE("train --nsub: a part without a db_scale of its own is told of before any is trained") {
  const Workspace space;
  const Tensor vectors = space.base_vectors().clone(), half = vectors.slice(1, 4, 8);
  half.copy_from(full({Workspace::kN, 4}, -0.5));
  write_vectors(space.file("half.fvecs"), vectors);
  const Arguments arguments = with(with(space.train(1), "--nsub", "2"), "--training_data", space.file("half.fvecs"));
  expect_error(space.path(), arguments, 1, {"half.fvecs", "sub-quantizer 2, -0.5", "--db_scale"});
  CHECK(run(with(arguments, "--db_scale", "4")).code == 0);
}

TEST_CASE("train --nsub: stopped in the second part, it goes on to the same bits") {
  const Workspace space;
  const std::string whole = space.file("whole.safetensors"), resumed = space.file("resumed.safetensors");
  const Arguments arguments = with(with(space.train(15), "--nsub", "2"), "--batch_size", "4");
  CHECK(run(with(arguments, "--model", whole)).code == 0);
  Arguments stopped = with(arguments, "--model", resumed);
  {
    Process process(stopped);
    process.wait_for_output("sub-quantizer 2 of 2");
    process.send(SIGINT);
    const Outcome outcome = process.finish();
    CHECK(outcome.code == 128 + SIGINT);
    CHECK(contains(outcome.err, "--resume"));
    CHECK_FALSE(std::filesystem::exists(resumed));
    expect_error(space.path(), stopped, 1, {"resumed.safetensors.sub0.checkpoint", "--resume"});
  }
  stopped.push_back("--resume");
  CHECK(run(stopped).code == 0);
  CHECK(read_bytes(resumed) == read_bytes(whole));
  CHECK_FALSE(std::filesystem::exists(resumed + ".sub0"));
}

}  // namespace
}  // namespace qinco::tests
