// What the subcommands produce from good input: files that agree with the library, JSON with the contract's keys.
#include <cmath>

#include "kernels/sanitizer.h"
#include "qinco/codec/codec.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"
#include "qinco/search/recall.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

void check_keys(const Json& results, std::initializer_list<const char*> keys) {
  for (const char* key : keys) CHECK_MESSAGE(results.contains(key), "no key " << key);
}

double mean_error(const Tensor& x, const Tensor& xhat) {
  double error = 0;
  for (int64_t i = 0; i < x.numel(); ++i)
    error += std::pow(static_cast<double>(x.data<float>()[i]) - static_cast<double>(xhat.data<float>()[i]), 2);
  return error / static_cast<double>(x.size(0));
}

struct Encoded {
  Tensor codes, xhat;
  double mse = 0;
};

Encoded encode_in_library(const Workspace& space, kernels::Precision precision = kernels::Precision::exact) {
  const Tensor& x = space.base_vectors();
  Encoded result{Tensor::empty({x.size(0), Workspace::kM}, DType::i32), Tensor::empty(x.shape())};
  const Codec codec(Workspace::make_model(), precision);
  codec.encode(x.size(0), x.data<float>(), result.codes.data<int32_t>(), result.xhat.data<float>());
  result.mse = mean_error(x, result.xhat);
  return result;
}

TEST_CASE("encode: codes and MSE are the library's, as .npy and raw") {
  const Workspace space;
  const Encoded expected = encode_in_library(space);
  const Json results = results_of(space.encode());
  check_keys(results, {"n", "mse", "seconds", "vectors_per_second"});
  CHECK(results.at("n") == Workspace::kN);
  CHECK(results.at("mse").get<double>() == doctest::Approx(expected.mse).epsilon(1e-6));
  CHECK(same_bits(read_npy(space.file("out.npy")), expected.codes));

  Arguments raw = with(space.encode(), "--o", space.file("out.bin"));
  raw.push_back("--raw");
  CHECK(run(raw).code == 0);
  CHECK(std::filesystem::file_size(space.file("out.bin")) == 2 * Workspace::kN);  // 3 x 4 bits: 2 bytes
  const CodeFile file = CodeFile::open(space.file("out.bin"), CodeFormat::raw, Workspace::kM, Workspace::kK);
  Tensor codes = Tensor::empty(expected.codes.shape(), DType::i32);
  file.read(0, file.size(), codes.data<int32_t>());
  CHECK(same_bits(codes, expected.codes));
}

TEST_CASE("encode, decode, eval and search: --precision is that of the library's codec") {
  const Workspace space;
  const Tensor& x = space.base_vectors();
  const Tensor codes = read_npy(space.codes()), xhat = Tensor::empty(x.shape());
  const Arguments search = with(with(space.search(), "--nshort", "10"), "--codes", space.codes());
  for (const kernels::Precision precision : {kernels::Precision::exact, kernels::Precision::fast}) {
    const std::string name = kernels::name(precision), path = space.file("decoded.npy");
    const auto with_precision = [&](const Arguments& arguments) {
      const Json results = results_of(with(arguments, "--precision", name));
      CHECK(results.at("precision") == name);
      return results;
    };
    const Codec codec(Workspace::make_model(), precision);
    codec.decode(codes.size(0), codes.data<int32_t>(), Workspace::kM, Workspace::kM, xhat.data<float>());
    with_precision(with(space.decode(), "--o", path));
    CHECK(same_bits(read_npy(path), xhat));
    CHECK(with_precision(search).at("mse").get<double>() == doctest::Approx(mean_error(x, xhat)).epsilon(1e-9));

    const Encoded encoded = encode_in_library(space, precision);
    for (const Arguments& arguments : {space.encode(), space.eval()})
      CHECK(with_precision(arguments).at("mse").get<double>() == doctest::Approx(encoded.mse).epsilon(1e-9));
    CHECK(same_bits(read_npy(space.file("out.npy")), encoded.codes));
  }
}

TEST_CASE("encode, eval and train: a beam gives the library's codes, and a smaller error") {
  const Workspace space;
  const Encoded plain = encode_in_library(space);
  const Tensor& x = space.base_vectors();
  // In order: the options, and what they ask for. With a beam 16 candidates, or all.
  const std::vector<std::pair<Arguments, BeamSearch>> cases = {{{"--beam_size", "3", "--candidates", "4"}, {3, 4}},
                                                               {{"--candidates", "5"}, {1, 5}},
                                                               {{"--beam_size", "2"}, {2, Workspace::kK}}};
  for (const auto& [options, beam] : cases) {
    Encoded expected{Tensor::empty(plain.codes.shape(), DType::i32), Tensor::empty(x.shape())};
    const Codec codec(Workspace::make_model(), kernels::Precision::exact, {}, beam);
    codec.encode(x.size(0), x.data<float>(), expected.codes.data<int32_t>(), expected.xhat.data<float>());
    Arguments encode = space.encode(), eval = space.eval();
    encode.insert(encode.end(), options.begin(), options.end());
    eval.insert(eval.end(), options.begin(), options.end());
    for (const Json& results : {results_of(encode), results_of(eval)}) {
      CHECK(results.at("beam_size") == beam.size);
      CHECK(results.at("candidates") == beam.candidates);
      CHECK(results.at("mse").get<double>() == doctest::Approx(mean_error(x, expected.xhat)).epsilon(1e-6));
      if (beam.size > 1) CHECK(results.at("mse").get<double>() < 0.99 * plain.mse);
    }
    CHECK(same_bits(read_npy(space.file("out.npy")), expected.codes));
  }
  const Json trained = results_of(with(with(space.train(2), "--beam_size", "3"), "--candidates", "4"));
  CHECK(trained.at("beam_size") == 3);
  CHECK(trained.at("candidates") == 4);
  CHECK(trained.at("best_val_mse").get<double>() < results_of(space.train(2)).at("best_val_mse").get<double>());
  const auto searched = [](Arguments arguments) {
    arguments.insert(arguments.end(), {"--beam_size", "3", "--candidates", "4"});
    return arguments;
  };
  const Arguments from_model = with(with(space.train(1), "--init_model", space.model()), "--h", "4");
  CHECK(results_of(searched(from_model)).at("init_val_mse").get<double>() <
        0.99 * results_of(from_model).at("init_val_mse").get<double>());
  CHECK(results_of(searched(space.search())).at("mse") ==
        doctest::Approx(results_of(searched(space.eval())).at("mse")));
  for (const Arguments& command : {space.encode(), space.eval(), space.train(2), space.search()}) {
    expect_error(space.path(), with(command, "--beam_size", "0"), 1, {"beam_size: expected 1 to 1024, found 0"});
    expect_error(space.path(), with(command, "--candidates", "17"), 1, {"candidates: expected 1 to K = 16, found 17"});
  }
}

TEST_CASE("encode then decode: the reconstruction is the library's, in .fvecs and .npy, from .npy and raw codes") {
  const Workspace space;
  const Encoded expected = encode_in_library(space);
  CHECK(run(space.encode()).code == 0);
  Arguments raw = with(space.encode(), "--o", space.file("out.bin"));
  raw.push_back("--raw");
  CHECK(run(raw).code == 0);
  for (const char* output : {"decoded.fvecs", "decoded.npy"}) {
    Arguments decode = with(with(space.decode(), "--i", space.file("out.npy")), "--o", space.file(output));
    check_keys(results_of(decode), {"n", "seconds", "vectors_per_second"});
    CHECK(same_bits(read_all(space.file(output)), expected.xhat));
    decode = with(decode, "--i", space.file("out.bin"));
    decode.push_back("--raw");
    CHECK(run(decode).code == 0);
    CHECK(same_bits(read_all(space.file(output)), expected.xhat));
  }
}

TEST_CASE("decode: --M_used decodes the prefix") {
  const Workspace space;
  const Codec codec(Workspace::make_model());
  const Tensor codes = read_npy(space.codes());
  for (int64_t used = 1; used <= Workspace::kM; ++used) {
    CHECK(results_of(with(space.decode(), "--M_used", std::to_string(used))).at("M_used") == used);
    const Tensor expected = Tensor::empty({Workspace::kN, Workspace::kD});
    codec.decode(Workspace::kN, codes.data<int32_t>(), Workspace::kM, used, expected.data<float>());
    CHECK(same_bits(read_all(space.file("out.fvecs")), expected));
  }
}

TEST_CASE("eval: MSE, recall and the multi-rate list are the library's") {
  const Workspace space;
  const Encoded expected = encode_in_library(space);
  Arguments arguments = space.eval();
  arguments.push_back("--multirate");
  const Json results = results_of(arguments);
  check_keys(results, {"n", "M_used", "bytes_per_vector", "mse", "recall", "seconds", "vectors_per_second"});
  check_keys(results.at("seconds"), {"encode", "decode", "search"});
  CHECK(results.at("mse").get<double>() == doctest::Approx(expected.mse).epsilon(1e-6));
  CHECK(results.at("bytes_per_vector") == 2);
  const Tensor ids = flat_search(kernels::Context::cpu(), expected.xhat, read_all(space.queries()), 100);
  const Tensor truth = read_npy(space.groundtruth());
  for (const int64_t rank : {1, 10, 100})
    CHECK(results.at("recall").at(std::to_string(rank)) == recall_at(ids, truth, rank));
  const Json& rates = results.at("multirate");
  REQUIRE(rates.size() == Workspace::kM);
  const std::string text = run(arguments).out;
  for (const Json& rate : rates)
    CHECK(contains(text, fmt::format("MSE, M_used {}    {:.6g} ({} bytes)", rate.at("M_used").get<int>(),
                                     rate.at("mse").get<double>(), rate.at("bytes_per_vector").get<double>())));
  CHECK(rates.back().at("M_used") == Workspace::kM);
  CHECK(rates.back().at("mse") == results.at("mse"));
  for (const Json& rate : rates) CHECK(rate.at("bytes_per_vector") == 0.5 * rate.at("M_used").get<double>());  // 4 bits
  const Json prefix = results_of(with(space.eval(), "--M_used", "1"));
  CHECK(prefix.at("mse") == rates.front().at("mse"));
  CHECK(prefix.at("bytes_per_vector") == 1);
}

TEST_CASE("eval: a base smaller than 100 caps the ranks") {
  const Workspace space;
  const Tensor few = space.base_vectors().slice(0, 0, 7).clone();
  write_vectors(space.file("few.fvecs"), few);
  write_npy(space.file("few.npy"), flat_search(kernels::Context::cpu(), few, read_all(space.queries()), 1));
  const Json results =
      results_of(with(with(space.eval(), "--base", space.file("few.fvecs")), "--groundtruth", space.file("few.npy")));
  CHECK(results.at("recall").at("10") == 1.0);
  CHECK(results.at("recall").at("100") == 1.0);
}

TEST_CASE("baseline: eval's keys, a falling multi-rate list, and a quantizer that gives the same error") {
  const Workspace space;
  const std::string path = space.file("rq.safetensors");
  const Json results = results_of(with(space.baseline(), "--o", path));
  check_keys(results, {"n", "mse", "recall", "seconds", "vectors_per_second", "multirate", "method"});
  check_keys(results.at("seconds"), {"train", "encode", "decode", "search"});
  check_keys(results.at("recall"), {"1", "10", "100"});
  const Json& rates = results.at("multirate");
  REQUIRE(rates.size() == 2);
  CHECK(rates[1].at("mse") < rates[0].at("mse"));
  CHECK(rates[1].at("mse") == results.at("mse"));

  const ResidualQuantizer rq = load_rq(path);
  const Tensor& x = space.base_vectors();
  std::vector<int32_t> codes(static_cast<size_t>(2 * x.size(0)));
  const Tensor xhat = Tensor::empty(x.shape());
  rq.encode(kernels::Context::cpu(), x.size(0), x.data<float>(), 5, codes.data());
  rq.decode(kernels::Context::cpu(), x.size(0), codes.data(), 2, 2, xhat.data<float>());
  CHECK(results.at("mse").get<double>() == doctest::Approx(mean_error(x, xhat)).epsilon(1e-6));
}

TEST_CASE("baseline: pq and opq write quantizers that give the same error") {
  const Workspace space;
  for (const char* method : {"pq", "opq"}) {
    const std::string path = space.file(fmt::format("{}.safetensors", method));
    const Json results = results_of(with(with(space.baseline(), "--method", method), "--o", path));
    check_keys(results, {"n", "mse", "recall", "seconds", "vectors_per_second", "method", "nt"});
    CHECK_FALSE(results.contains("multirate"));  // a prefix of a product quantizer's codes is no shorter code
    const ProductQuantizer pq = load_pq(path);
    CHECK(pq.rotation.defined() == (std::string(method) == "opq"));
    CHECK(results_of({"info", path}).at("variant") == method);
    const Tensor& x = space.base_vectors();
    std::vector<int32_t> codes(static_cast<size_t>(2 * x.size(0)));
    const Tensor xhat = Tensor::empty(x.shape());
    pq.encode(kernels::Context::cpu(), x.size(0), x.data<float>(), codes.data());
    pq.decode(kernels::Context::cpu(), x.size(0), codes.data(), xhat.data<float>());
    CHECK(results.at("mse").get<double>() == doctest::Approx(mean_error(x, xhat)).epsilon(1e-6));
  }
  expect_error(space.path(), with(with(space.baseline(), "--method", "pq"), "--M", "3"), 1,
               {"d = 8 is not a multiple of M = 3"});
}

TEST_CASE("train: the contract's keys, a model that loads, and no checkpoint left") {
  const Workspace space;
  const Json results = results_of(space.train(2));
  check_keys(results, {"epochs", "rq_val_mse", "best_val_mse", "vectors_per_second", "db_scale"});
  REQUIRE(results.at("epochs").size() == 2);
  for (const Json& epoch : results.at("epochs")) check_keys(epoch, {"epoch", "lr", "train_loss", "val_mse", "seconds"});
  CHECK(load_model(space.file("trained.safetensors")).config().M == 3);
  CHECK_FALSE(std::filesystem::exists(space.file("trained.safetensors.checkpoint")));
  CHECK(results.at("precision") == "exact");
  const Json fast = results_of(with(space.train(2), "--precision", "fast"));
  CHECK(fast.at("precision") == "fast");
  CHECK(fast.at("best_val_mse").get<double>() ==
        doctest::Approx(results.at("best_val_mse").get<double>()).epsilon(0.05));
}

TEST_CASE("info: models, quantizers, vectors and codes") {
  const Workspace space;
  const Json model = results_of({"info", space.model()});
  const QincoConfig config = Workspace::config();
  CHECK(model.at("variant") == "qinco");
  CHECK(model.at("d") == config.d);
  CHECK(model.at("K") == config.K);
  CHECK(model.at("L") == config.L);
  CHECK(model.at("M") == config.M);
  CHECK(model.at("h") == config.h);
  CHECK(model.at("db_scale") == 2.5);
  CHECK(model.at("parameters") == config.parameter_count());
  CHECK(model.at("bytes") == std::filesystem::file_size(space.model()));
  const Json vectors = results_of({"info", space.base()});
  CHECK(vectors.at("n") == Workspace::kN);
  CHECK(vectors.at("d") == Workspace::kD);
  CHECK(vectors.at("type") == "f32");
  const Json codes = results_of({"info", space.codes()});
  CHECK(codes.at("n") == Workspace::kN);
  CHECK(codes.at("M") == Workspace::kM);
  CHECK(codes.at("type") == "i32");
  CHECK(run(with(space.baseline(), "--o", space.file("rq.safetensors"))).code == 0);
  CHECK(results_of({"info", space.file("rq.safetensors")}).at("format") == "rq");
}

TEST_CASE("results do not depend on the number of threads") {
  const Workspace space;
  CHECK(run(with(with(space.encode(), "--o", space.file("one.npy")), "--threads", "1")).code == 0);
  CHECK(run(with(with(space.encode(), "--o", space.file("four.npy")), "--threads", "4")).code == 0);
  CHECK(read_bytes(space.file("one.npy")) == read_bytes(space.file("four.npy")));
  CHECK(results_of(with(space.baseline(), "--threads", "1")).at("mse") ==
        results_of(with(space.baseline(), "--threads", "3")).at("mse"));
}

TEST_CASE("encode: a file of half a gigabyte needs little memory") {
  const Workspace space;
  QincoConfig config;
  config.d = 32, config.M = 2, config.K = 2, config.L = 1, config.h = 1;
  Random random(1);
  save_model(space.file("small.safetensors"), Qinco(config, random));
  const int64_t n = 1 << 22;  // x 32 f32 = 512 MB, sparse: all zeros
  const std::string path = space.file("large.npy"), header = npy_header(DType::f32, {n, config.d});
  write_bytes(path, header);
  std::filesystem::resize_file(path, header.size() + static_cast<size_t>(n * config.d) * 4);
  Arguments arguments = {"encode", "--model", space.file("small.safetensors"), "--i", path, "--o", space.file("l.npy")};
  const Outcome outcome = run(arguments);
  CHECK(outcome.code == 0);
  if (!kAddressSanitizer) CHECK(outcome.peak_bytes < 150LL << 20);
}

TEST_CASE("results: a training that did not reach the RQ it started from says so") {
  const Workspace space;
  const std::string data = std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs";
  Arguments training = with(with(space.train(15), "--training_data", data), "--json", space.file("r.json"));
  training = with(with(with(training, "--nt", "2000"), "--nval", "300"), "--M", "2");
  for (const char* lr : {"1e-3", "1e-1"}) {
    const Outcome outcome = run(with(training, "--lr", lr));
    REQUIRE(outcome.code == 0);
    const Json found = Json::parse(read_bytes(space.file("r.json")));
    const bool worse = found.at("best_val_mse").get<double>() > found.at("rq_val_mse").get<double>();
    CHECK(worse == (lr == std::string("1e-1")));
    CHECK(contains(outcome.out, "the RQ that training started from is better") == worse);
  }
}

}  // namespace
}  // namespace qinco::tests
