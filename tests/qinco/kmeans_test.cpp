// k-means: known clusters found, empty clusters filled, the same bits at any thread count.
#include "qinco/quantizers/kmeans.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "kernels/kernels.h"
#include "qinco/quantizers/kmeans_init.h"
#include "tensor/create.h"
#include "tensor/random.h"
#include "tests/support.h"

namespace qinco {
namespace {

using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::normal_vectors;
using tests::same_bits;

/// n points around `clusters` corners far apart; the cluster of point i is i % clusters.
Tensor separated(int64_t n, int64_t d, int64_t clusters) {
  const Tensor x = normal_vectors(n, d, 1);
  for (int64_t i = 0; i < n; ++i)
    x.data<float>()[i * d + i % clusters % d] += 1000 * static_cast<float>(1 + i % clusters);
  return x;
}

Kmeans cluster(const Tensor& x, int64_t k, const KmeansOptions& options = {}) {
  return kmeans(Context::cpu(), x.size(0), x.size(1), x.data<float>(), k, options);
}

double mse_of(const Tensor& x, const Tensor& centroids) {
  double total = 0;
  const int64_t d = x.size(1);
  for (int64_t i = 0; i < x.size(0); ++i) {
    double best = INFINITY;
    for (int64_t c = 0; c < centroids.size(0); ++c) {
      double distance = 0;
      for (int64_t j = 0; j < d; ++j) {
        const double difference =
            static_cast<double>(x.data<float>()[i * d + j]) - static_cast<double>(centroids.data<float>()[c * d + j]);
        distance += difference * difference;
      }
      best = std::min(best, distance);
    }
    total += best;
  }
  return total / static_cast<double>(x.size(0));
}

TEST_CASE("k-means: separated clusters are found") {
  const Tensor x = separated(900, 8, 3);
  KmeansOptions options;
  options.max_points_per_centroid = 0;
  const Kmeans result = cluster(x, 3, options);
  CHECK(mse_of(x, result.centroids) < 9);  // 8 dimensions of variance 1
  CHECK(result.iterations < 25);           // it stopped once nothing moved
  CHECK(result.mse == doctest::Approx(mse_of(x, result.centroids)).epsilon(1e-5));
}

TEST_CASE("k-means: k = n puts a centroid on every distinct point, k = 1 on the mean") {
  const Tensor x = separated(6, 8, 6);
  CHECK(mse_of(x, cluster(x, 6).centroids) < 1e-3);
  const Tensor mean = cluster(x, 1).centroids;
  for (int64_t j = 0; j < 8; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < 6; ++i) sum += static_cast<double>(x.data<float>()[i * 8 + j]);
    CHECK(static_cast<double>(mean.data<float>()[j]) == doctest::Approx(sum / 6).epsilon(1e-5));
  }
}

TEST_CASE("k-means: empty clusters are filled") {
  // 990 copies of one point and 10 others: of 8 centroids drawn, most start on the copies and must move away.
  const Tensor x = full({1000, 4}, 5);
  for (int64_t i = 0; i < 10; ++i) x.data<float>()[i * 100 * 4] = 100 * static_cast<float>(i + 1);
  const Kmeans result = cluster(x, 11);
  CHECK(mse_of(x, result.centroids) < mse_of(x, x.slice(0, 1, 2)) / 4);
  for (int64_t i = 0; i < result.centroids.numel(); ++i) CHECK(std::isfinite(result.centroids.data<float>()[i]));
}

TEST_CASE("k-means: more iterations never raise the error") {
  const Tensor x = normal_vectors(2000, 6, 2);
  double last = INFINITY;
  for (const int iterations : {1, 2, 4, 8, 16}) {
    KmeansOptions options;
    options.iterations = iterations;
    const double mse = mse_of(x, cluster(x, 16, options).centroids);
    CHECK(mse <= last * (1 + 1e-6));
    last = mse;
  }
}

TEST_CASE("k-means: the seed decides, the number of threads does not") {
  const Tensor x = normal_vectors(3000, 16, 3);
  KmeansOptions options;
  options.seed = 7;
  Context one = Context::cpu(), three = Context::cpu();
  one.threads = 1;
  three.threads = 3;
  const Kmeans a = kmeans(one, 3000, 16, x.data<float>(), 32, options);
  const Kmeans b = kmeans(three, 3000, 16, x.data<float>(), 32, options);
  CHECK(same_bits(a.centroids, b.centroids));
  CHECK(a.mse == b.mse);
  options.seed = 8;
  CHECK_FALSE(same_bits(a.centroids, cluster(x, 32, options).centroids));
}

TEST_CASE("k-means: a subsample of max_points_per_centroid is used where there is more") {
  const Tensor x = normal_vectors(4000, 4, 4);
  KmeansOptions options;
  options.max_points_per_centroid = 50;
  const Kmeans part = cluster(x, 8, options);
  options.max_points_per_centroid = 0;
  const Kmeans all = cluster(x, 8, options);
  const double part_mse = mse_of(x, part.centroids), all_mse = mse_of(x, all.centroids);
  CHECK_FALSE(same_bits(part.centroids, all.centroids));
  CHECK(all_mse < part_mse);
  CHECK(part_mse < 1.1 * all_mse);
}

TEST_CASE("k-means: k-means++ starts in every one of many separated clusters") {
  const Tensor x = separated(1600, 16, 16);
  KmeansOptions options;
  options.init = KmeansInit::plus_plus;
  options.iterations = 2;
  for (options.seed = 1; options.seed <= 5; ++options.seed) CHECK(mse_of(x, cluster(x, 16, options).centroids) < 17);
  Context one = Context::cpu(), three = Context::cpu();
  one.threads = 1;
  three.threads = 3;
  const Tensor many = normal_vectors(9000, 5, 6);
  const auto run = [&](const Context& context) {
    return kmeans(context, 9000, 5, many.data<float>(), 20, options).centroids;
  };
  CHECK(same_bits(run(one), run(three)));
}

TEST_CASE("k-means: k-means++ never draws a point of weight 0, the first neither") {
  const Tensor x = normal_vectors(5000, 2, 10);
  std::vector<float> weights(5000, 0);
  for (const size_t i : {10u, 4200u, 4300u, 4999u}) weights[i] = 1;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    const Tensor drawn = plus_plus_rows(Context::cpu(), 5000, 2, x.data<float>(), weights.data(), 3, random);
    for (int64_t c = 0; c < 3; ++c) {
      const auto is = [&](int64_t i) { return same_bits(drawn.row(c), x.row(i)); };
      CHECK((is(10) || is(4200) || is(4300) || is(4999)));
    }
  }
}

TEST_CASE("k-means: k-means++ draws every one of as many long vectors as clusters") {
  const int64_t n = 7, d = int64_t{1} << 17;  // so long that their distances are not computed together
  const Tensor x = normal_vectors(n, d, 9);
  KmeansOptions options;
  options.init = KmeansInit::plus_plus;
  options.iterations = 1;
  CHECK(kmeans(Context::cpu(), n, d, x.data<float>(), n, options).mse == 0);
}

TEST_CASE("k-means: k-means++ on copies of few points") {
  const Tensor x = full({50, 3}, 2);
  KmeansOptions options;
  options.init = KmeansInit::plus_plus;
  CHECK(mse_of(x, cluster(x, 7, options).centroids) < 1e-4);
}

TEST_CASE("k-means: an integer weight is that many copies, 0 none") {
  const int64_t n = 400, d = 3, k = 6;
  const Tensor x = normal_vectors(n, d, 7);
  std::vector<float> weights;
  std::vector<float> copies;
  for (int64_t i = 0; i < n; ++i) {
    weights.push_back(static_cast<float>(i % 4));
    for (int64_t c = 0; c < i % 4; ++c)
      copies.insert(copies.end(), x.data<float>() + i * d, x.data<float>() + i * d + d);
  }
  KmeansOptions options;
  options.initial = x.slice(0, 0, k).clone();
  const auto number = static_cast<int64_t>(copies.size()) / d;
  const Kmeans repeated = kmeans(Context::cpu(), number, d, copies.data(), k, options);
  options.weights = weights.data();
  const Kmeans weighted = cluster(x, k, options);
  CHECK(tests::worst_difference(weighted.centroids, repeated.centroids) < 1e-4);
  CHECK(weighted.mse == doctest::Approx(repeated.mse).epsilon(1e-4));
}

TEST_CASE("k-means: initial centroids are where it starts, and on_update sees a falling error") {
  const Tensor x = normal_vectors(500, 4, 8);
  KmeansOptions options;
  options.iterations = 1;
  options.initial = x.slice(0, 10, 15).clone();
  options.measure = false;
  CHECK(cluster(x, 5, options).mse == doctest::Approx(mse_of(x, options.initial)).epsilon(1e-5));
  options.iterations = 10;
  std::vector<double> errors;
  options.on_update = [&](int, double mse) { errors.push_back(mse); };
  const Kmeans result = cluster(x, 5, options);
  REQUIRE(static_cast<int>(errors.size()) == result.iterations);
  CHECK(result.mse == errors.back());
  CHECK(std::is_sorted(errors.rbegin(), errors.rend()));
}

TEST_CASE("k-means: the error is that of the centroids returned, however few the iterations") {
  const Tensor x = normal_vectors(500, 4, 8);
  std::vector<float> weights;
  for (int i = 0; i < 500; ++i) weights.push_back(static_cast<float>(1 + i % 3));
  for (const int iterations : {1, 2, 5}) {
    KmeansOptions options;
    options.iterations = iterations;
    const Kmeans measured = cluster(x, 20, options);
    CHECK(measured.mse == doctest::Approx(mse_of(x, measured.centroids)).epsilon(1e-5));
    CHECK(measured.iterations == iterations);
    options.measure = false;
    const Kmeans before = cluster(x, 20, options);
    CHECK(before.mse > measured.mse * 1.001);
    CHECK(same_bits(before.centroids, measured.centroids));
    options.measure = true;
    options.weights = weights.data();
    options.initial = measured.centroids;
    const Kmeans weighted = cluster(x, 20, options);
    options.iterations = 1;
    options.measure = false;
    options.initial = weighted.centroids;
    CHECK(weighted.mse == cluster(x, 20, options).mse);
  }
}

TEST_CASE("k-means: poll is called within an iteration, changes nothing, and ends the clustering by throwing") {
  const Tensor x = normal_vectors(500, 4, 8);
  for (const KmeansInit init : {KmeansInit::random, KmeansInit::plus_plus}) {
    KmeansOptions options;
    options.iterations = 5;
    options.init = init;
    const Kmeans expected = cluster(x, 20, options);
    int polls = 0;
    options.poll = [&] { ++polls; };
    options.poll_rows = 64;
    const Kmeans result = cluster(x, 20, options);
    CHECK(polls == 8 * (result.iterations + 1) + (init == KmeansInit::plus_plus ? 20 : 0));
    CHECK(result.mse == expected.mse);
    CHECK(same_bits(result.centroids, expected.centroids));
    polls = 0;
    options.poll = [&] { check(++polls < 11, "enough"); };
    CHECK(error_of([&] { cluster(x, 20, options); }) == "enough");
    CHECK(polls == 11);
  }
}

TEST_CASE("k-means: thousands of centroids of two points each") {
  const int64_t n = 12000, k = 6000;
  const Tensor x = normal_vectors(n, 2, 9);
  KmeansOptions options;
  options.iterations = 2;
  options.max_points_per_centroid = 0;
  const Kmeans result = cluster(x, k, options);
  CHECK(result.mse < 0.2);  // of a variance of 2
  CHECK(result.centroids.size(0) == k);
}

TEST_CASE("k-means: bad sizes, weights and initial centroids are refused") {
  const Tensor x = normal_vectors(5, 2, 5);
  CHECK(contains(error_of([&] { cluster(x, 6); }), "6 centroids need at least as many vectors, found 5"));
  CHECK(contains(error_of([&] { cluster(x, 0); }), "k = 0"));
  KmeansOptions options;
  options.iterations = 0;
  CHECK(contains(error_of([&] { cluster(x, 2, options); }), "0 iterations"));
  options.iterations = 1;
  options.initial = normal_vectors(3, 2, 6);
  CHECK(contains(error_of([&] { cluster(x, 2, options); }), "initial centroids [3,2], expected [2,2]"));
  options.initial = {};
  std::vector<float> weights = {1, 1, NAN, 1, 1};
  options.weights = weights.data();
  CHECK(contains(error_of([&] { cluster(x, 2, options); }), "weight 2 is nan"));
  weights.assign(5, 0);
  CHECK(contains(error_of([&] { cluster(x, 2, options); }), "all weights are 0"));
}

TEST_CASE("k-means: vectors that are not finite, or whose squares are not, are refused") {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e30f}) {
    CAPTURE(bad);
    const Tensor x = normal_vectors(50, 3, 5);
    x.data<float>()[70] = bad;
    CHECK(contains(error_of([&] { cluster(x, 4); }), "NaN or infinity, or values too large"));
  }
}

}  // namespace
}  // namespace qinco
