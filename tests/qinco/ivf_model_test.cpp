// IVF-QINCo: fixed centroids before the codes, in the model, its codec, its file and its training.
#include <algorithm>
#include <vector>

#include "qinco/codec/codec.h"
#include "qinco/io/model_file.h"
#include "qinco/quantizers/kmeans.h"
#include "qinco/training/initialise.h"
#include "qinco/training/trainer.h"
#include "tests/qinco/model_fixtures.h"

namespace qinco {
namespace {

using kernels::Context;
using testing::random_model;
using testing::random_vectors;
using testing::TemporaryDirectory;
using tests::contains;
using tests::error_of;
using tests::same_bits;

QincoConfig ivf_config() {
  QincoConfig config;
  config.d = 6, config.M = 3, config.K = 8, config.L = 1, config.h = 5, config.db_scale = 2, config.K_ivf = 11;
  return config;
}

TEST_CASE("IVF-QINCo: M steps follow the centroids, named from step0 as in the reference") {
  const QincoConfig config = ivf_config();
  CHECK(config.codes() == 4);
  CHECK(config.K0() == 11);
  CHECK(std::string(config.variant()) == "ivf-qinco");
  const Qinco model = random_model(config, 1);
  CHECK(model.parameter_count() == config.parameter_count());
  CHECK(model.codebook(0).value().shape() == Shape{11, 6});
  CHECK(model.codebook(3).value().shape() == Shape{8, 6});
  const TensorMap state = model.state();
  CHECK(state.count("step0.codebook.weight") == 1);
  CHECK(state.count("step2.codebook.weight") == 1);
  CHECK(state.count("step3.codebook.weight") == 0);
  QincoConfig lowrank = config;
  lowrank.lowrank = true;
  CHECK(contains(error_of([&] { lowrank.validate(); }), "K_ivf: expected 0 in a low-rank model, found 11"));
}

TEST_CASE("IVF-QINCo: the codec takes the nearest centroid, or the one given, and decodes from it") {
  const QincoConfig config = ivf_config();
  const Qinco model = random_model(config, 2);
  const Codec codec(model);
  const int64_t n = 300;
  const Tensor x = random_vectors(config, n, 3), xhat = Tensor::empty(x.shape()), decoded = Tensor::empty(x.shape());
  const Tensor codes = Tensor::empty({n, 4}, DType::i32);
  codec.encode(n, x.data<float>(), codes.data<int32_t>(), xhat.data<float>());
  codec.decode(n, codes.data<int32_t>(), 4, 4, decoded.data<float>());
  CHECK(same_bits(xhat, decoded));
  const Tensor plain = scale(model.decode_partials(codes).back().value(), static_cast<double>(config.db_scale));
  CHECK(testing::relative_difference(decoded, plain) < 1e-5);

  std::vector<int32_t> nearest(n), given(n, 4);
  const Tensor scaled = scale(x, 1 / static_cast<double>(config.db_scale));
  kernels::table<float>().nearest(Context::cpu(), n, 6, 11, scaled.data<float>(),
                                  model.codebook(0).value().data<float>(), nearest.data(), nullptr);
  bool equal = true;
  for (int64_t i = 0; i < n; ++i) equal &= codes.data<int32_t>()[i * 4] == nearest[static_cast<size_t>(i)];
  CHECK(equal);
  CHECK(*std::max_element(nearest.begin(), nearest.end()) >= config.K);  // more centroids than codewords
  codec.encode(n, x.data<float>(), codes.data<int32_t>(), nullptr, given.data());
  for (int64_t i = 0; i < n; ++i) equal &= codes.data<int32_t>()[i * 4] == 4;
  CHECK(equal);
  codes.data<int32_t>()[1] = 8;
  CHECK(contains(error_of([&] { codec.decode(n, codes.data<int32_t>(), 4, 4, decoded.data<float>()); }), "row 0"));
  codes.data<int32_t>()[1] = 7;
  codes.data<int32_t>()[8] = 11;
  CHECK(contains(error_of([&] { codec.decode(n, codes.data<int32_t>(), 4, 4, decoded.data<float>()); }), "row 2"));
}

TEST_CASE("IVF-QINCo: a saved model reads back bit for bit, a wrong K_ivf is refused") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("ivf.safetensors");
  const Qinco model = random_model(ivf_config(), 4);
  save_model(path, model);
  const Qinco loaded = load_model(path);
  CHECK(loaded.config().same_sizes(ivf_config()));
  for (const auto& entry : model.state())
    CHECK_MESSAGE(same_bits(loaded.state().at(entry.first), entry.second), entry.first);
  SafetensorsFile file{model.state(), model_metadata(ivf_config())};
  for (const char* wrong : {"0", "12", "x"}) {
    file.metadata["K_ivf"] = std::string(wrong);
    write_safetensors(path, file);
    CHECK(contains(error_of([&] { load_model(path); }), path));
  }
}

TEST_CASE("IVF-QINCo: training starts at the RQ of the residuals, betters it, and leaves the centroids as they are") {
  const int64_t n = 2000, nval = 300, d = 6;
  QincoConfig config = ivf_config();
  config.h = 32;
  const Tensor all = random_vectors(config, n + nval, 5);
  for (int64_t i = 0; i < n + nval; ++i)  // a curve that an RQ does not know of
    for (int64_t j = 0; j < 3; ++j)
      all.data<float>()[i * d + 3 + j] = 0.3f * all.data<float>()[i * d + j] * all.data<float>()[i * d + j];
  const VectorSet train(all.slice(0, 0, n).clone()), val(all.slice(0, n, n + nval).clone());
  const Tensor centroids = kmeans(Context::cpu(), n, d, all.data<float>(), config.K_ivf).centroids;
  const ResidualQuantizer rq = train_initial_rq(train, config.M, config.K, {}, {}, centroids);
  const double start = rq_mse(rq, val, 1, {}, centroids);
  const VectorSet residuals(coarse_residuals(train, centroids));
  CHECK(residuals.size() == n);
  const Tensor wide = Tensor::empty({config.K_ivf, d + 1});
  wide.slice(1, 0, d).copy_from(centroids);
  CHECK(same_bits(coarse_residuals(val, wide.slice(1, 0, d)), coarse_residuals(val, centroids)));
  CHECK(same_bits(rq.codebooks, train_initial_rq(residuals, config.M, config.K, {}).codebooks));
  CHECK(start == rq_mse(rq, VectorSet(coarse_residuals(val, centroids)), 1));

  CHECK(error_of([&] { initial_model(config, rq, 1); }) ==
        fmt::format("centroids: expected [{},{}], found none", config.K_ivf, d));
  TrainOptions options;
  options.batch_size = 64;
  options.max_epochs = 12;
  options.lr = 5e-3;
  options.cosine = true;
  const auto run = [&](int threads) {
    kernels::set_default_threads(threads);
    Qinco model = initial_model(config, rq, 1, centroids);
    Trainer trainer(model, train, val, options);
    trainer.start_from(start, true);
    CHECK(trainer.run());
    CHECK(testing::relative_difference(scale(model.codebook(0).value(), static_cast<double>(config.db_scale)),
                                       centroids) < 1e-6);
    return std::pair(trainer.progress().schedule.best, model.state());
  };
  const int threads = kernels::default_threads();
  const std::pair<double, TensorMap> one = run(1), three = run(3);
  kernels::set_default_threads(threads);
  CHECK(one.first < start);
  CHECK(one.first == three.first);
  for (const auto& entry : one.second)
    CHECK_MESSAGE(same_bits(three.second.at(entry.first), entry.second), entry.first);
}

TEST_CASE("IVF-QINCo: the search for centroids can be stopped, by a poll or before the first batch of a training") {
  struct Ended {};
  const QincoConfig config = ivf_config();
  const Tensor centroids = random_vectors(config, config.K_ivf, 6);
  const VectorSet train(random_vectors(config, 1100, 7)), val(random_vectors(config, 40, 8));
  const auto polled = [&](auto&& work) {
    int polls = 0;
    work([&] { ++polls; });
    CHECK(polls >= 2);  // a block is 1024 vectors
    CHECK_THROWS_AS(work([] { throw Ended(); }), Ended);
  };
  polled([&](const auto& poll) { coarse_residuals(train, centroids, {}, poll); });
  ResidualQuantizer rq;
  polled([&](const auto& poll) {
    RqOptions options;
    options.poll = poll;
    rq = train_initial_rq(train, config.M, config.K, options, {}, centroids);
  });
  polled([&](const auto& poll) { rq_mse(rq, val, 1, {}, centroids, poll); });

  const TemporaryDirectory directory;
  TrainOptions options;
  options.max_epochs = 1;
  options.checkpoint_path = directory.file("run.checkpoint");
  int asked = 0, batches = 0;
  TrainHooks hooks;
  hooks.stop_requested = [&] { return ++asked == 2; };  // before the second block
  hooks.batch = [&](int64_t, int64_t, double) { ++batches; };
  const auto start = [&] { return initial_model(config, rq, 1, centroids); };
  Qinco stopped = start(), whole = start();
  CHECK_FALSE(Trainer(stopped, train, val, options).run(hooks));
  CHECK(batches == 0);
  Trainer second(stopped, train, val, options);
  second.resume(load_checkpoint(options.checkpoint_path));
  CHECK(second.run(hooks));
  CHECK(Trainer(whole, train, val, options).run());
  for (const auto& entry : whole.state())
    CHECK_MESSAGE(same_bits(stopped.state().at(entry.first), entry.second), entry.first);
}

}  // namespace
}  // namespace qinco
