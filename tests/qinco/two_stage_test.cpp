// Two-stage search: the scan against plain distances, and re-ranking that nears an exhaustive search.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "qinco/codec/product_codec.h"
#include "qinco/search/additive_index.h"
#include "qinco/search/flat.h"
#include "qinco/search/recall.h"
#include "qinco/search/rerank.h"
#include "tests/qinco/model_fixtures.h"

namespace qinco {
namespace {

using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::normal_vectors;

std::vector<int32_t> random_codes(int64_t n, int64_t M, int64_t K, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> codes;
  for (int64_t i = 0; i < n * M; ++i) codes.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(K))));
  return codes;
}

/// What a score may be off by: by each table's entry -2 <q,T>, whose product may be one of 16-bit integers (kernels.h,
/// Precision), and by float's rounding.
double score_error(const float* query, const Tensor& codebooks) {
  const int64_t M = codebooks.size(0), K = codebooks.size(1), d = codebooks.size(2);
  const auto length = [d](const float* v) { return std::sqrt(std::inner_product(v, v + d, v, 0.0)); };
  double sum = 0;
  for (int64_t m = 0; m < M; ++m) {
    double longest = 0;
    for (int64_t i = 0; i < K; ++i) longest = std::max(longest, length(codebooks.data<float>() + (m * K + i) * d));
    sum += longest;
  }
  const bool reference = kernels::active_isa() == kernels::Isa::reference;
  return (0x1p-20 + (reference ? 0 : 1.01 * std::sqrt(d) * 0x1p-15)) * 2 * length(query) * sum;
}

TEST_CASE("packed codes: what was added is read back, in whatever batches, from the room that was reserved") {
  for (const int64_t width : {1, 3, 8}) {
    PackedCodes packed(width);
    packed.reserve(101);
    const uint8_t* const room = packed.data();
    std::vector<uint8_t> all;
    Random random(1);
    for (const int64_t n : {1, 30, 1, 64, 5}) {
      std::vector<uint8_t> codes;
      for (int64_t i = 0; i < n * width; ++i) codes.push_back(static_cast<uint8_t>(random.below(256)));
      packed.add(n, codes.data());
      all.insert(all.end(), codes.begin(), codes.end());
    }
    REQUIRE(packed.size() == 101);
    CHECK(packed.data() == room);
    bool equal = true;
    for (int64_t i = 0; i < 101; ++i)
      for (int64_t m = 0; m < width; ++m) equal &= packed.at(i, m) == all[static_cast<size_t>(i * width + m)];
    CHECK(equal);
  }
}

TEST_CASE("additive index: order and scores are those of the decoded vectors") {
  const int64_t n = 777, M = 5, K = 16, d = 9, nq = 11, k = 40;
  const Tensor codebooks = Tensor::empty({M, K, d}), x = Tensor::empty({n, d}), queries = normal_vectors(nq, d, 2);
  Random(3).normal(codebooks);
  const std::vector<int32_t> codes = random_codes(n, M, K, 4);
  additive_decode(Context::cpu(), codebooks, n, codes.data(), M, M, x.data<float>());
  AdditiveIndex index(codebooks);
  for (int64_t begin = 0; begin < n; begin += 100)
    index.add(Context::cpu(), std::min<int64_t>(100, n - begin), codes.data() + begin * M);
  CHECK(index.size() == n);
  CHECK(index.bytes_per_vector() == M + 4);
  std::vector<int32_t> one(M);
  index.codes(500, one.data());
  CHECK(std::equal(one.begin(), one.end(), codes.begin() + 500 * M));

  std::vector<int64_t> ids(nq * k);
  std::vector<float> scores(nq * k);
  index.search(Context::cpu(), nq, queries.data<float>(), k, ids.data(), scores.data());
  for (int64_t q = 0; q < nq; ++q) {
    std::vector<double> distances;
    double norm = 0;
    for (int64_t j = 0; j < d; ++j) norm += std::pow(static_cast<double>(queries.data<float>()[q * d + j]), 2);
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < d; ++j)
        sum += std::pow(static_cast<double>(queries.data<float>()[q * d + j] - x.data<float>()[i * d + j]), 2);
      distances.push_back(sum);
    }
    std::vector<double> sorted = distances;
    std::sort(sorted.begin(), sorted.end());
    const double error = score_error(queries.data<float>() + q * d, codebooks);
    for (int64_t i = 0; i < k; ++i) {  // judged by the distance: near-equal ones may change places
      const auto at = static_cast<size_t>(q * k + i);
      const double expected = sorted[static_cast<size_t>(i)];
      CHECK(std::abs(distances[static_cast<size_t>(ids[at])] - expected) <= 2 * error);
      CHECK(std::abs(static_cast<double>(scores[at]) + norm - expected) <= error);
    }
  }
}

TEST_CASE("additive index: norms of 8 bits are the nearest level") {
  const int64_t n = 300, M = 2, K = 8, d = 4;
  const Tensor codebooks = Tensor::empty({M, K, d}), x = Tensor::empty({n, d}), queries = normal_vectors(1, d, 5);
  Random(6).normal(codebooks);
  const std::vector<int32_t> codes = random_codes(n, M, K, 7);
  additive_decode(Context::cpu(), codebooks, n, codes.data(), M, M, x.data<float>());
  std::vector<float> norms(n);
  kernels::table<float>().row_squared_norm(Context::cpu(), n, d, x.data<float>(), norms.data());
  const NormQuantizer quantizer(20, norms.data());  // coarse: 20 levels
  std::vector<uint8_t> levels(n);
  quantizer.encode(n, norms.data(), levels.data());
  AdditiveIndex index(codebooks, quantizer);
  index.add(Context::cpu(), n, codes.data());
  CHECK(index.bytes_per_vector() == M + 1);
  std::vector<int64_t> ids(n);
  std::vector<float> scores(n);
  index.search(Context::cpu(), 1, queries.data<float>(), n, ids.data(), scores.data());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = ids[static_cast<size_t>(i)];
    float expected = quantizer.levels()[levels[static_cast<size_t>(id)]];
    for (int64_t j = 0; j < d; ++j) expected -= 2 * queries.data<float>()[j] * x.data<float>()[id * d + j];
    CHECK(std::abs(scores[static_cast<size_t>(i)] - expected) <= score_error(queries.data<float>(), codebooks));
  }
}

/// A model, its base's codes in an index with fitted codebooks, and the decoded base.
struct Base {
  static constexpr int64_t kN = 2000;
  Base() : codec(make_model()), x(testing::random_vectors(config(), kN, 8)), decoded(Tensor::empty(x.shape())) {
    codes.resize(static_cast<size_t>(kN * codec.M()));
    codec.encode(kN, x.data<float>(), codec.M(), codes.data(), decoded.data<float>());
    AdditiveFit fit(codec.M(), codec.K(), codec.d());
    fit.add(Context::cpu(), kN, x.data<float>(), codes.data());
    index.emplace(std::move(fit).solve());
    index->add(Context::cpu(), kN, codes.data());
  }
  static QincoConfig config() {
    QincoConfig config;
    config.d = 12, config.M = 4, config.K = 16, config.L = 1, config.h = 8, config.db_scale = 3;
    return config;
  }
  static ProductQinco make_model() {
    ProductQinco model;
    model.parts.push_back(testing::random_model(config(), 9));
    return model;
  }
  Decoder decoder() const {
    return [this](int64_t n, const int32_t* some, float* out) { codec.decode(n, some, codec.M(), codec.M(), out); };
  }

  ProductCodec codec;
  Tensor x, decoded;
  std::vector<int32_t> codes;
  std::optional<AdditiveIndex> index;
};

TEST_CASE("two-stage search: re-ranking all is the exhaustive search of the decoded base, fewer come near it") {
  const Base base;
  const Tensor queries = testing::random_vectors(Base::config(), 50, 10);
  const Tensor exact = flat_search(Context::cpu(), base.decoded, queries, 10);
  double last = 0;
  for (const int64_t nshort : {10, 100, 1000}) {
    const TwoStageResult result = two_stage_search(Context::cpu(), *base.index, base.decoder(), queries, nshort, 10);
    const double recall = recall_at(result.after, exact, 1);
    CHECK(recall >= last);
    CHECK(recall >= recall_at(result.before, exact, 1));
    last = recall;
  }
  const TwoStageResult all = two_stage_search(Context::cpu(), *base.index, base.decoder(), queries, Base::kN, 10);
  for (int64_t i = 0; i < exact.numel(); ++i) CHECK(all.after.data<int32_t>()[i] == exact.data<int32_t>()[i]);
  CHECK(last > 0.9);
}

TEST_CASE("two-stage search: fewer vectors than nshort give -1, any thread count the same") {
  const Base base;
  AdditiveIndex small(base.index->codebooks());
  small.add(Context::cpu(), 7, base.codes.data());
  const Tensor queries = testing::random_vectors(Base::config(), 30, 11);
  const TwoStageResult result = two_stage_search(Context::cpu(), small, base.decoder(), queries, 20, 10);
  for (int64_t q = 0; q < 30; ++q) {
    for (const Tensor& ids : {result.before, result.after}) {
      std::vector<int32_t> row(ids.data<int32_t>() + q * 10, ids.data<int32_t>() + q * 10 + 10);
      CHECK(std::count(row.begin(), row.end(), -1) == 3);
      CHECK(std::all_of(row.begin() + 7, row.end(), [](int32_t id) { return id == -1; }));
    }
  }
  Context three = Context::cpu();
  three.threads = 3;
  const TwoStageResult again = two_stage_search(three, small, base.decoder(), queries, 20, 10);
  CHECK(tests::same_bits(again.after, result.after));
  CHECK(tests::same_bits(again.before, result.before));
}

TEST_CASE("two-stage search: what cannot be is refused") {
  CHECK(contains(error_of([] { AdditiveIndex(zeros({2, 512, 4})); }), "K = 512, expected at most 256"));
  std::vector<int32_t> codes = random_codes(5000, 2, 4, 13);  // more than are worked on together
  codes[2 * 4500 + 1] = 4;
  AdditiveIndex index(zeros({2, 4, 3}));
  CHECK(contains(error_of([&] { index.add(Context::cpu(), 5000, codes.data()); }),
                 "fixed codebooks: row 4500: expected codes in [0,4), found 4"));
  CHECK(index.size() == 0);
  const Base base;
  const Tensor queries = testing::random_vectors(Base::config(), 1, 12);
  CHECK(contains(error_of([&] { two_stage_search(Context::cpu(), *base.index, base.decoder(), queries, 5, 6); }),
                 "6 neighbours asked for of 5 candidates"));
  const Tensor narrow = queries.slice(1, 0, 5);
  CHECK(contains(error_of([&] { two_stage_search(Context::cpu(), *base.index, base.decoder(), narrow, 5, 5); }),
                 "queries [1,5], expected [nq,12]"));
  CHECK(contains(error_of([&] { base.index->search(Context::cpu(), 1, queries.data<float>(), 0, nullptr, nullptr); }),
                 "0 neighbours asked for, expected at least 1"));
}

}  // namespace
}  // namespace qinco
