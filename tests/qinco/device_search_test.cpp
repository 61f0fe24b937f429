// Classical quantizers and search on the devices besides the CPU, against the CPU.
#include <cmath>
#include <doctest/doctest.h>
#include <vector>

#include "qinco/codec/pairwise_decoder.h"
#include "qinco/quantizers/kmeans.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"
#include "qinco/search/additive_index.h"
#include "qinco/search/flat.h"
#include "qinco/search/ivf_index.h"
#include "qinco/search/rerank.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;
using kernels::Context;
using tests::normal_vectors;
using tests::test_devices;

namespace {

// Integers, so that distances are exact on every device and ties are broken in the open.
Tensor integer_vectors(int64_t n, int64_t d, uint64_t seed) {
  const Tensor x = Tensor::empty({n, d});
  Random random(seed);
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = static_cast<float>(random.below(17)) - 8;
  return x;
}

double mse(const Tensor& x, const Tensor& xhat) {
  return sum_squared_difference(x, xhat) / static_cast<double>(x.size(0));
}

// The error of a quantizer that encodes and decodes on `context`'s device.
double rq_error(const Context& context, const ResidualQuantizer& rq, const Tensor& x, int64_t beam) {
  const int64_t n = x.size(0);
  std::vector<int32_t> codes(static_cast<size_t>(n * rq.M()));
  const Tensor xhat = Tensor::empty(x.shape());
  rq.encode(context, n, x.data<float>(), beam, codes.data());
  rq.decode(context, n, codes.data(), rq.M(), rq.M(), xhat.data<float>());
  return mse(x, xhat);
}

double pq_error(const Context& context, const ProductQuantizer& pq, const Tensor& x) {
  const int64_t n = x.size(0);
  std::vector<int32_t> codes(static_cast<size_t>(n * pq.M()));
  const Tensor xhat = Tensor::empty(x.shape());
  pq.encode(context, n, x.data<float>(), codes.data());
  pq.decode(context, n, codes.data(), xhat.data<float>());
  return mse(x, xhat);
}

}  // namespace

TEST_CASE("device: k-means finds what the CPU's does, in every variant") {
  const Tensor x = normal_vectors(300, 5, 1);
  std::vector<float> weights;
  for (int i = 0; i < 300; ++i) weights.push_back(static_cast<float>(i % 4));
  for (const Device device : test_devices())
    for (const int variant : {0, 1, 2, 3}) {
      CAPTURE(variant);
      KmeansOptions options;
      options.iterations = 4;
      if (variant == 1) options.init = KmeansInit::plus_plus;
      if (variant == 2) options.weights = weights.data();
      if (variant == 3) options.max_points_per_centroid = 20;
      const Kmeans expected = kmeans(Context::cpu(), 300, 5, x.data<float>(), 9, options);
      const Tensor there = x.to(device);
      const auto run = [&] { return kmeans(Context::of(device), 300, 5, there.data<float>(), 9, options); };
      const Kmeans found = run();
      CHECK(found.centroids.device() == device);
      CHECK(found.iterations == expected.iterations);
      // Sums in another order: no point changes sides here, so centroids differ by roundings.
      CHECK(found.mse == doctest::Approx(expected.mse).epsilon(1e-5));
      CHECK(relative_difference(found.centroids.to(Device{}), expected.centroids) <= 1e-5);
      CHECK(same_bits(run().centroids, found.centroids));
      options.initial = expected.centroids;
      options.iterations = 1;
      CHECK(run().mse <= found.mse * 1.00001);
    }
}

TEST_CASE("device: RQ trains, encodes and decodes as well as on the CPU") {
  const Tensor x = normal_vectors(400, 6, 2);
  for (const Device device : test_devices())
    for (const int64_t beam : {1, 3}) {
      const Context& context = Context::of(device);
      RqOptions options;
      options.beam_size = beam, options.iterations = 5;
      const Tensor there = x.to(device);
      const auto train = [&] { return train_rq(context, 400, 6, there.data<float>(), 3, 8, options); };
      const ResidualQuantizer expected = train_rq(Context::cpu(), 400, 6, x.data<float>(), 3, 8, options);
      const ResidualQuantizer found = train();
      CHECK(found.codebooks.device() == Device{});
      const double error = rq_error(Context::cpu(), expected, x, beam);
      CHECK(rq_error(Context::cpu(), found, x, beam) == doctest::Approx(error).epsilon(0.02));
      CHECK(rq_error(context, expected, x, beam) == doctest::Approx(error).epsilon(1e-5));
      CHECK(rq_error(context, {expected.codebooks.to(device)}, x, beam) == doctest::Approx(error).epsilon(1e-5));
      CHECK(same_bits(train().codebooks, found.codebooks));
    }
}

TEST_CASE("device: PQ and OPQ train, encode and decode as well as on the CPU") {
  const Tensor x = normal_vectors(300, 6, 3);
  PqOptions options;
  options.iterations = 5, options.opq_iterations = 3;
  for (const Device device : test_devices())
    for (const auto train : {train_pq, train_opq}) {
      const Context& context = Context::of(device);
      const ProductQuantizer expected = train(Context::cpu(), 300, 6, x.data<float>(), 3, 8, options);
      const ProductQuantizer found = train(context, 300, 6, x.to(device).data<float>(), 3, 8, options);
      const double error = pq_error(Context::cpu(), expected, x);
      CHECK(pq_error(Context::cpu(), found, x) == doctest::Approx(error).epsilon(0.02));
      CHECK(pq_error(context, expected, x) == doctest::Approx(error).epsilon(1e-5));
    }
}

TEST_CASE("device: exhaustive search finds the same ids, ties included") {
  const Tensor base = integer_vectors(700, 4, 4), queries = integer_vectors(30, 4, 5);
  for (const Device device : test_devices()) {
    const Tensor expected = flat_search(Context::cpu(), base, queries, 20);
    CHECK(same_bits(flat_search(Context::of(device), base, queries, 20), expected));
    CHECK(same_bits(flat_search(Context::of(device), base.to(device), queries.to(device), 20), expected));
    FlatSearch in_parts(Context::of(device), queries, 20);
    in_parts.add(5, base.data<float>());
    in_parts.add(695, base.data<float>() + 5 * 4);
    CHECK(same_bits(in_parts.ids(), expected));
    FlatSearch more_than_there_are(Context::of(device), queries, 900);
    more_than_there_are.add(700, base.data<float>());
    CHECK(same_bits(more_than_there_are.ids(), flat_search(Context::cpu(), base, queries, 700)));
  }
}

TEST_CASE("device: two-stage search gives the short-lists and the order of the CPU") {
  const int64_t n = 500, M = 3, K = 16, d = 5;
  const Tensor codebooks = integer_vectors(M * K, d, 6).reshape({M, K, d}), queries = integer_vectors(12, d, 7);
  std::vector<int32_t> codes;
  Random random(8);
  for (int64_t i = 0; i < n * M; ++i) codes.push_back(static_cast<int32_t>(random.below(K)));
  std::vector<float> levels;
  for (int i = 0; i < 256; ++i) levels.push_back(static_cast<float>(2 * i));
  for (const Device device : test_devices())
    for (const bool bytes : {false, true}) {
      const auto search = [&](Device where) {
        const std::optional<NormQuantizer> norms = bytes ? std::optional(NormQuantizer(levels)) : std::nullopt;
        const Context& context = Context::of(where);
        AdditiveIndex index(codebooks, norms, where);
        index.add(context, 100, codes.data());
        std::vector<int64_t> ids(12 * 7);
        std::vector<float> scores(ids.size());
        index.search(context, 12, queries.data<float>(), 7, ids.data(), scores.data());
        for (const int64_t id : ids) CHECK((id >= 0 && id < 100));
        index.add(context, n - 100, codes.data() + 100 * M);
        const Decoder decode = [&](int64_t count, const int32_t* coded, float* x) {
          const Tensor decoded = Tensor::empty({count, d});
          additive_decode(context, codebooks, count, coded, M, M, decoded.data<float>());
          kernels::copy_bytes(where, x, Device{}, decoded.bytes(), static_cast<size_t>(count * d) * sizeof(float));
        };
        return two_stage_search(context, index, decode, queries, 40, 10);
      };
      const TwoStageResult found = search(device);
      const kernels::ScopedIsa exact(kernels::Isa::reference);  // whose tables are not rounded
      const TwoStageResult expected = search(Device{});
      CHECK(same_bits(found.before, expected.before));
      CHECK(same_bits(found.after, expected.after));
    }
}

TEST_CASE("device: an IVF index is built, added to and searched as on the CPU") {
  QincoConfig config;
  config.d = 6, config.M = 3, config.K = 16, config.L = 1, config.h = 5, config.db_scale = 2, config.K_ivf = 12;
  const int64_t n = 300, nq = 15, k = 5;
  const Tensor x = random_vectors(config, n, 2), queries = random_vectors(config, nq, 3);
  const std::span<const float> rows(x.data<float>(), static_cast<size_t>(x.numel()));
  const Qinco model = random_model(config, 1);
  for (const Device device : test_devices())
    for (const int64_t links : {0, 8}) {
      const TemporaryDirectory directory;
      const auto search = [&](Device where) {
        const auto coder = std::make_shared<IvfCoder>(model, Precision::exact, where);
        const std::string path = directory.file(where.name() + ".index");
        IvfBuilder builder(coder);
        builder.add(n, x.data<float>());
        builder.write(path, links);
        IvfIndex index(path, coder);
        index.add(rows.subspan(0, 600), 0);
        index.add(rows.subspan(600), 100);
        return index.search({queries.data<float>(), static_cast<size_t>(queries.numel())}, {k, 12, 60, 50});
      };
      const IvfResult expected = search(Device{}), found = search(device);
      // All lists are visited; roundings may put a near tie of the short-list's end, or of the order, the other way.
      size_t differing = 0;
      for (size_t i = 0; i < found.ids.size(); ++i) {
        differing += found.ids[i] != expected.ids[i];
        CHECK(found.distances[i] == doctest::Approx(expected.distances[i]).epsilon(1e-4));
      }
      CHECK(differing <= 1);
    }
}

TEST_CASE("device: the pairwise decoder decodes as on the CPU") {
  QincoConfig config;
  config.d = 6, config.M = 3, config.K = 16, config.L = 1, config.h = 5, config.db_scale = 2;
  for (const Device device : test_devices())
    for (const int64_t K_ivf : {0, 12, 30}) {
      config.K_ivf = K_ivf;
      const Qinco model = random_model(config, 1);
      const int64_t n = 300, entries = config.codes();
      std::vector<int32_t> codes(static_cast<size_t>(n * entries));
      Codec(model).encode(n, random_vectors(config, n, 2).data<float>(), codes.data());
      const auto decoded = [&](Device where) {
        const Tensor x = Tensor::empty({n, config.d}, DType::f32, where);
        PairwiseDecoder(Codec(model, kernels::Precision::exact, where), n, codes.data(), entries)
            .decode_to_device(n, codes.data(), x.data<float>());
        return x.to(Device{});
      };
      const Tensor expected = decoded(Device{});
      CHECK(mse(decoded(device), expected) <= 1e-9 * mse(expected, zeros_like(expected)));
    }
}
