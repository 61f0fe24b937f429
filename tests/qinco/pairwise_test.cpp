// The pairwise additive decoder: by its definition in double, and between the scan and the network in both searches.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "qinco/codec/pairwise_decoder.h"
#include "qinco/quantizers/kmeans.h"
#include "qinco/search/flat.h"
#include "qinco/search/rerank.h"
#include "tests/qinco/codec_fixtures.h"
#include "tests/qinco/ivf_fixtures.h"

namespace qinco {
namespace {

using namespace testing;
using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::same_bits;

const QincoConfig kConfigs[] = {
    {.d = 9, .M = 4, .K = 16, .L = 2, .h = 7},
    {.d = 8, .M = 3, .K = 8, .L = 1, .h = 5, .lowrank = true, .db_scale = 3.5F},
    {.d = 6, .M = 3, .K = 16, .L = 1, .h = 5, .db_scale = 2.5F, .K_ivf = 12},
    {.d = 6, .M = 3, .K = 16, .L = 1, .h = 5, .db_scale = 2.5F, .K_ivf = 40},
};

Tensor decoded(const PairwiseDecoder& pairs, const Tensor& codes, int64_t d) {
  const Tensor x = Tensor::empty({codes.size(0), d});
  pairs.decode_to_device(codes.size(0), codes.data<int32_t>(), x.data<float>());
  return x;
}

Tensor some_codes(const QincoConfig& config, int64_t n, uint64_t seed, int64_t entries) {
  const Tensor codes = Tensor::empty({n, entries}, DType::i32);
  Random random(seed);
  for (int64_t i = 0; i < n * entries; ++i)
    codes.data<int32_t>()[i] =
        static_cast<int32_t>(random.below(static_cast<uint64_t>(i % entries == 0 ? config.K0() : config.K)));
  return codes;
}

double error_between(const Tensor& a, const Tensor& b) {
  return sum_squared_difference(a, b) / static_cast<double>(a.size(0));
}

// The group of each first code: itself, or the nearest of K centroids.
std::vector<int32_t> groups_of(const Qinco& model) {
  const int64_t K0 = model.config().K0(), K = model.config().K, d = model.config().d;
  std::vector<int32_t> groups(static_cast<size_t>(K0));
  std::iota(groups.begin(), groups.end(), 0);
  if (K0 <= K) return groups;
  const float* const x = model.codebook(0).value().data<float>();
  const Tensor centroids = kmeans(Context::cpu(), K0, d, x, K).centroids;
  for (int64_t i = 0; i < K0; ++i) {
    double least = INFINITY;
    for (int64_t g = 0; g < K; ++g) {
      double sum = 0;
      for (int64_t j = 0; j < d; ++j)
        sum += std::pow(static_cast<double>(x[i * d + j]) - centroids.data<float>()[g * d + j], 2);
      if (sum < least) least = sum, groups[static_cast<size_t>(i)] = static_cast<int32_t>(g);
    }
  }
  return groups;
}

// The definition: what it needs of some codes, in double.
class PairwiseDefinition {
 public:
  PairwiseDefinition(const Qinco& model, const Tensor& codes, int64_t entries)
      : exact_(in_double(model)), entries_(entries), groups_(groups_of(model)) {
    const autograd::NoGrad no_grad;
    const int64_t d = model.config().d, G = std::min(model.config().K, model.config().K0()), n = codes.size(0);
    const Tensor grouped = by_group(codes);
    Tensor xhat = gathered(0, column(codes, 0));
    for (int64_t m = 1; m < entries; ++m) {
      const Tensor mean = Tensor::empty({G, d}, DType::f64);
      for (int64_t g = 0; g < G; ++g) write_mean(grouped, xhat, g, mean.data<double>() + g * d);
      means_.push_back(mean);
      xhat = add(xhat, exact_.step(m).forward(gathered(m, column(codes, m)), xhat).value());
    }
    AdditiveFit fit(entries, model.config().K, d);
    Tensor left = sub(xhat, gathered(0, column(codes, 0)));
    for (int64_t m = 1; m < entries; ++m) left = sub(left, added(m, codes));
    left = left.to(DType::f32);
    fit.add(Context::cpu(), n, left.data<float>(), grouped.data<int32_t>());
    codebooks_ = std::move(fit).solve();
  }

  Tensor decode(const Tensor& codes) const {
    const Tensor grouped = by_group(codes), scale = scalar(exact_.config().db_scale);
    Tensor x = mul(add(gathered(0, column(codes, 0)).to(DType::f32), rest(0, grouped)), scale);
    for (int64_t m = 1; m < entries_; ++m) {
      const Tensor row = mul(add(added(m, codes).to(DType::f32), rest(m, grouped)), scale);
      x = add(x, row.to(DType::bf16).to(DType::f32));
    }
    return x;
  }

 private:
  // Codes [n,entries] with the group for the first one.
  Tensor by_group(const Tensor& codes) const {
    const Tensor grouped = codes.clone();
    for (int64_t i = 0; i < codes.size(0); ++i) {
      int32_t& first = grouped.data<int32_t>()[i * codes.size(1)];
      first = groups_[static_cast<size_t>(first)];
    }
    return grouped;
  }
  // The mean of the rows of xhat whose first code is g, or of all where there are none.
  static void write_mean(const Tensor& codes, const Tensor& xhat, int64_t g, double* mean) {
    const int64_t n = codes.size(0), d = xhat.size(1);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < n; ++i)
      if (codes.data<int32_t>()[i * codes.size(1)] == g) rows.push_back(i);
    if (rows.empty()) rows.resize(static_cast<size_t>(n)), std::iota(rows.begin(), rows.end(), 0);
    std::fill_n(mean, d, 0.0);
    for (const int64_t i : rows)
      for (int64_t j = 0; j < d; ++j) mean[j] += xhat.data<double>()[i * d + j] / static_cast<double>(rows.size());
  }
  static Tensor column(const Tensor& codes, int64_t m) { return codes.slice(1, m, m + 1).contiguous().reshape({-1}); }
  Tensor gathered(int64_t m, const Tensor& ids) const { return gather_rows(exact_.codebook(m).value(), ids); }
  // What step m adds to the mean of each code's group.
  Tensor added(int64_t m, const Tensor& codes) const {
    const autograd::NoGrad no_grad;
    const Tensor mean = gather_rows(means_[static_cast<size_t>(m - 1)], column(by_group(codes), 0));
    return exact_.step(m).forward(gathered(m, column(codes, m)), mean).value();
  }
  // What entry m of each code has in the additive codebooks.
  Tensor rest(int64_t m, const Tensor& grouped) const {
    const Shape shape = {codebooks_.size(1), codebooks_.size(2)};
    return gather_rows(codebooks_.slice(0, m, m + 1).reshape(shape), column(grouped, m));
  }

  Qinco exact_;
  int64_t entries_;
  std::vector<int32_t> groups_;
  std::vector<Tensor> means_;  // f64 [groups,d] before step m, at m - 1
  Tensor codebooks_;
};

// The squared distance of vectors from the expected ones, relative to that of these from zero.
double relative_error(const Tensor& found, const Tensor& expected) {
  return error_between(found, expected) / error_between(expected, zeros_like(expected));
}
// Of the definition's: here and there a value of a table lies between two of bfloat16, and takes the other.
constexpr double kRoundedAside = 1e-7;

}  // namespace

TEST_CASE("pairwise decoder: what the network adds to a group's mean, and additive codebooks of the rest") {
  for (const QincoConfig& config : kConfigs)
    for (const int64_t entries : {int64_t{2}, config.codes()}) {
      CAPTURE(config.d);
      CAPTURE(entries);
      const Qinco model = random_model(config, 3);
      const Tensor codes = some_codes(config, 500, 4, entries), other = some_codes(config, 100, 5, entries);
      const PairwiseDecoder pairs(Codec(model), 500, codes.data<int32_t>(), entries);
      CHECK(pairs.entries() == entries);
      const PairwiseDefinition definition(model, codes, entries);
      for (const Tensor& some : {codes, other}) {
        const Tensor expected = definition.decode(some);
        CHECK(relative_error(decoded(pairs, some, config.d), expected) <= kRoundedAside);
      }
    }
}

TEST_CASE("pairwise decoder: two codes are decoded as by the network, also where the first was in no vector") {
  QincoConfig config = kConfigs[0];
  config.M = 2;
  const Qinco model = random_model(config, 6);
  const Codec codec(model);
  const Tensor codes = random_codes(config, 400, 7), network = Tensor::empty({400, config.d});
  codec.decode(400, codes.data<int32_t>(), 2, 2, network.data<float>());
  const PairwiseDecoder all(codec, 400, codes.data<int32_t>(), 2);
  CHECK(relative_error(decoded(all, codes, config.d), network) <= std::ldexp(1.0, -2 * 9));  // tables in bfloat16
  Tensor few = codes.clone();
  for (int64_t i = 0; i < 400; ++i) few.data<int32_t>()[2 * i] %= 4;
  const PairwiseDecoder some(codec, 400, few.data<int32_t>(), 2);
  const Tensor expected = PairwiseDefinition(model, few, 2).decode(codes);
  CHECK(relative_error(decoded(some, codes, config.d), expected) <= kRoundedAside);
}

TEST_CASE("pairwise decoder: many lists in groups, nearer to the network than fixed codebooks, on any threads") {
  const World world;
  const QincoConfig& config = world.coder->config();
  REQUIRE(config.K_ivf > config.K);
  const Codec& codec = world.coder->codec();
  const PairwiseDecoder pairs(codec, kN, world.codes.data(), 4);
  const Tensor codes = Tensor::empty({kN, 4}, DType::i32), network = Tensor::empty({kN, kD});
  codec.encode(kN, random_vectors(config, kN, 8).data<float>(), codes.data<int32_t>(), network.data<float>());
  const Tensor found = decoded(pairs, codes, kD), fixed = Tensor::empty({kN, kD});
  const IvfIndex index(world.path(), world.coder);
  for (int64_t i = 0; i < kN; ++i) {
    const int32_t* const code = codes.data<int32_t>() + 4 * i;
    additive_decode(Context::cpu(), index.file().parameters().codebooks, 1, code + 1, 3, 3,
                    fixed.data<float>() + i * kD);
    for (int64_t j = 0; j < kD; ++j)
      fixed.data<float>()[i * kD + j] += world.coder->centroids().data<float>()[code[0] * kD + j];
  }
  CHECK(error_between(found, network) < 0.1 * error_between(fixed, network));
  const int threads = kernels::default_threads();
  kernels::set_default_threads(3);
  CHECK(same_bits(decoded(PairwiseDecoder(codec, kN, world.codes.data(), 4), codes, kD), found));
  kernels::set_default_threads(threads);
}

TEST_CASE("pairwise decoder: what cannot be is refused") {
  const QincoConfig& config = kConfigs[0];
  const Codec codec(random_model(config, 9));
  Tensor codes = random_codes(config, 10, 10);
  const auto error = [&](int64_t n, int64_t entries) {
    return error_of([&] { PairwiseDecoder(codec, n, codes.data<int32_t>(), entries); });
  };
  CHECK(contains(error(10, 1), "1 codes a vector, expected 2 to 4"));
  CHECK(contains(error(8, 5), "5 codes a vector, expected 2 to 4"));
  CHECK(contains(error(0, 4), "no codes to fit to"));
  codes.data<int32_t>()[5] = 16;
  CHECK(contains(error(10, 4), "row 1: expected codes in [0,16), found 16"));
  CHECK(contains(error_of([&] { codec.advance_on_device(4, 1, nullptr, nullptr); }), "step 4, expected 1 to 3"));
}

TEST_CASE("two-stage search: the pairwise decoder chooses what is decoded of more candidates") {
  const QincoConfig& config = kConfigs[0];
  const Codec codec(random_model(config, 11));
  const int64_t n = 800, nq = 30, d = config.d;
  const Encoded base = encode(codec, random_vectors(config, n, 12));
  const int32_t* const codes = base.codes.data<int32_t>();
  AdditiveFit fit(4, 16, d);
  fit.add(Context::cpu(), n, base.xhat.data<float>(), codes);
  AdditiveIndex index(std::move(fit).solve());
  index.add(Context::cpu(), n, codes);
  const PairwiseDecoder pairs(codec, n, codes, 4);
  const Decoder network = [&](int64_t count, const int32_t* some, float* x) { codec.decode(count, some, 4, 4, x); };
  const Decoder by_pairs = [&](int64_t count, const int32_t* some, float* x) {
    pairs.decode_to_device(count, some, x);
  };
  const Tensor queries = random_vectors(config, nq, 13);
  const auto search = [&](int64_t nshort, int64_t npairs) {
    return two_stage_search(Context::cpu(), index, network, queries, nshort, 5, {npairs, by_pairs});
  };
  const Tensor nearest = flat_search(Context::cpu(), decoded(pairs, base.codes, d), queries, 5);
  const TwoStageResult few = search(5, n), whole = search(n, n);
  CHECK(same_bits(few.before, nearest));
  CHECK(few.seconds.pairs > 0);
  CHECK(same_bits(whole.after, flat_search(Context::cpu(), base.xhat, queries, 5)));
  const TwoStageResult none = search(5, 0);
  CHECK(!same_bits(none.before, nearest));
  CHECK(none.seconds.pairs == 0);
  CHECK(contains(error_of([&] { search(6, 5); }), "the best 6 of 5 candidates"));
}

TEST_CASE("IVF index: the pairwise decoder chooses what is decoded of more candidates") {
  const World world;
  IvfIndex empty(world.path(), world.coder), index = world.full();
  CHECK(contains(error_of([&] { empty.make_pairwise_decoder(); }), "a.index: an empty index"));
  const int64_t nq = 20, k = 5;
  const Tensor queries = random_vectors(ivf_config(), nq, 14);
  const auto search = [&](int64_t nshort, int64_t npairs) {
    return index.search(span_of(queries), {.k = k, .nprobe = 20, .nshort = nshort, .npairs = npairs});
  };
  CHECK(contains(error_of([&] { search(5, 50); }), "50 candidates for a pairwise decoder that has not been made"));
  index.make_pairwise_decoder(kN);
  const PairwiseDecoder pairs(world.coder->codec(), kN, world.codes.data(), 4);
  Tensor codes = Tensor::empty({kN, 4}, DType::i32);
  std::copy(world.codes.begin(), world.codes.end(), codes.data<int32_t>());
  const Tensor by_pairs = decoded(pairs, codes, kD), nearest = flat_search(Context::cpu(), by_pairs, queries, k);
  const IvfResult few = search(k, kN);
  int64_t differing = 0;  // the index has the codes in another order, whose sums may be rounded otherwise
  for (int64_t i = 0; i < nq * k; ++i)
    differing += few.short_list[static_cast<size_t>(i)] != nearest.data<int32_t>()[i];
  CHECK(differing <= 2);
  CHECK(search(kN, kN).ids == search(kN, 0).ids);
  CHECK(search(k, 0).short_list != few.short_list);
  CHECK(few.seconds.pairs > 0);
  CHECK(contains(error_of([&] { search(6, 5); }), "the best 6 of 5 candidates"));
  CHECK(contains(error_of([&] { search(5, -1); }), "the best 5 of -1 candidates"));
  CHECK(contains(error_of([&] { index.make_pairwise_decoder(0); }), "fitted to 0 entries"));
  index.make_pairwise_decoder(300);
  std::vector<int32_t> third;  // codes of every third entry, in the order of the file
  int64_t entry = 0;
  for (const IvfSegment& segment : index.file().segments()) {
    const uint32_t* ids = segment.ids;
    for (int64_t p = 0; p < segment.pieces; ids += (segment.counts[p++] + 31) / 32 * 32)
      for (uint32_t i = 0; i < segment.counts[p]; ++i)
        if (entry++ % 3 == 0)
          third.insert(third.end(), world.codes.begin() + 4 * ids[i], world.codes.begin() + 4 * ids[i] + 4);
  }
  REQUIRE(third.size() == 4 * 300);
  const PairwiseDecoder by_third(world.coder->codec(), 300, third.data(), 4);
  const Tensor found = flat_search(Context::cpu(), decoded(by_third, codes, kD), queries, k);
  const std::vector<int64_t> expected(found.data<int32_t>(), found.data<int32_t>() + found.numel());
  CHECK(search(k, kN).short_list == expected);
}

}  // namespace qinco
