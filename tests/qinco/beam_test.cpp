// Encoding by beam search, against its definition in double precision and against all codes there are.
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/parallel.h"
#include "qinco/codec/product_codec.h"
#include "tests/qinco/beam_definition.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

const QincoConfig kBeamConfigs[] = {
    {.d = 8, .M = 4, .K = 16, .L = 2, .h = 12},
    {.d = 17, .M = 3, .K = 8, .L = 1, .h = 33, .db_scale = 3.5F},
    {.d = 12, .M = 3, .K = 16, .L = 1, .h = 16, .lowrank = true},                    // h > d: multiplied out
    {.d = 64, .M = 3, .K = 16, .L = 2, .h = 8, .lowrank = true, .db_scale = 0.25F},  // h << d: kept as two factors
    {.d = 12, .M = 3, .K = 16, .L = 3, .h = 9, .db_scale = 2.5F, .K_ivf = 21},
};

}  // namespace

TEST_CASE("beam: the codes reach the error of the definition, on every ISA") {
  constexpr int64_t kN = 5;
  for (const QincoConfig& config : kBeamConfigs)
    for (const BeamSearch beam : {BeamSearch{1, 5}, BeamSearch{3, 4}, BeamSearch{4, config.K}, BeamSearch{5, 1}}) {
      const Qinco model = random_model(config, 11);
      const Definition definition(model, beam);
      const Tensor x = random_vectors(config, kN, 12);
      const std::vector<int32_t> first = {3, 0, 7, 1, 5};
      for (const auto& [M_used, known] :
           {std::pair(config.codes(), false), {config.codes(), true}, {int64_t{2}, false}, {int64_t{1}, false}}) {
        std::vector<double> expected;
        for (int64_t i = 0; i < kN; ++i)
          expected.push_back(
              definition.error(scaled(x, i, config), M_used, known ? first[static_cast<size_t>(i)] : -1));
        for (const kernels::Isa isa : kernels::available_isas()) {
          CAPTURE(kernels::isa_name(isa));
          CAPTURE(config.d);
          CAPTURE(beam.size);
          const kernels::ScopedIsa scoped(isa);
          for (const kernels::Precision precision : {kernels::Precision::exact, kernels::Precision::fast}) {
            const Codec codec = codec_with(model, beam, precision);
            const Encoded found = encode(codec, x, M_used, known ? first.data() : nullptr);
            for (int64_t i = 0; i < kN; ++i) {
              const Tensor rebuilt = scaled(found.xhat, i, config);
              CHECK(sum_squared_difference(rebuilt, scaled(x, i, config)) ==
                    doctest::Approx(expected[static_cast<size_t>(i)]).epsilon(1e-4));
              if (known) CHECK(found.codes.data<int32_t>()[i * M_used] == first[static_cast<size_t>(i)]);
            }
          }
        }
      }
    }
}

TEST_CASE("beam: one that holds all codes finds the best of them") {
  const QincoConfig config{.d = 6, .M = 3, .K = 4, .L = 2, .h = 10};
  const Qinco model = random_model(config, 3);
  const Tensor x = random_vectors(config, 40, 4);
  const Codec greedy(model);
  std::vector<int32_t> all;
  for (int32_t i = 0; i < 64; ++i) all.insert(all.end(), {i / 16, i / 4 % 4, i % 4});
  const Tensor decoded = Tensor::empty({64, config.d});
  greedy.decode(64, all.data(), 3, 3, decoded.data<float>());
  const Encoded found = encode(codec_with(model, {16, 0}), x, 3), nearest = encode(greedy, x, 3);
  int better = 0;
  for (int64_t i = 0; i < 40; ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < 64; ++j)
      least = std::min(least, sum_squared_difference(x.slice(0, i, i + 1), decoded.slice(0, j, j + 1)));
    const auto error = [&](const Encoded& coded) {
      return sum_squared_difference(x.slice(0, i, i + 1), coded.xhat.slice(0, i, i + 1));
    };
    CHECK(error(found) == doctest::Approx(least).epsilon(1e-5));
    better += error(found) < 0.999 * error(nearest);
  }
  CHECK(better > 5);  // or the greedy search would do
}

TEST_CASE("beam: the same bits alone, in any batch, at any thread count, and those of decode") {
  using kernels::Precision;
  for (const kernels::Isa isa : kernels::available_isas()) {
    if (isa == kernels::Isa::reference) continue;  // the same code path, too slow for this many rows
    const kernels::ScopedIsa scoped(isa);
    std::vector<QincoConfig> configs(std::begin(kBeamConfigs), std::end(kBeamConfigs));
    configs.insert(configs.end(), std::begin(kScreenedConfigs), std::end(kScreenedConfigs));
    for (const QincoConfig& config : configs)
      for (const Precision precision : {Precision::exact, Precision::fast}) {
        CAPTURE(kernels::isa_name(isa));
        CAPTURE(config.d);
        const Codec codec = codec_with(random_model(config, 21), {3, 4}, precision);
        const int64_t n = 700, M = config.codes();  // several blocks of vectors a thread
        const Tensor x = random_vectors(config, n, 22), decoded = Tensor::empty({n, config.d});
        const Encoded all = encode(codec, x, M);
        codec.decode(n, all.codes.data<int32_t>(), M, M, decoded.data<float>());
        CHECK(same_bits(decoded, all.xhat));
        for (const int64_t i : {0, 1, 77, 699}) {
          const Encoded one = encode(codec, x.slice(0, i, i + 1), M);
          CHECK(same_bits(one.codes, all.codes.slice(0, i, i + 1)));
          CHECK(same_bits(one.xhat, all.xhat.slice(0, i, i + 1)));
        }
        const int threads = kernels::default_threads();
        for (const int count : {1, 3}) {
          kernels::set_default_threads(count);
          CHECK(same_bits(encode(codec, x, M).codes, all.codes));
        }
        kernels::set_default_threads(threads);
      }
  }
}

TEST_CASE("beam: products are rounded where the codec is asked for fast, in decoding as in the search") {
  const QincoConfig config{.d = 64, .M = 4, .K = 64, .L = 2, .h = 64};
  const Qinco model = random_model(config, 61);
  // Halfway between two vectors that only the last code tells apart, so that rounding decides.
  const int64_t n = 500;
  const Tensor codes = random_codes(config, n, 62), x = Tensor::empty({n, config.d}), other = Tensor::empty(x.shape());
  const Codec decoder(model);
  decoder.decode(n, codes.data<int32_t>(), config.M, config.M, x.data<float>());
  for (int64_t i = 0; i < n; ++i) codes.data<int32_t>()[i * config.M + config.M - 1] ^= 1;
  decoder.decode(n, codes.data<int32_t>(), config.M, config.M, other.data<float>());
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = (x.data<float>()[i] + other.data<float>()[i]) / 2;
  for (const kernels::Isa isa : kernels::available_isas()) {
    CAPTURE(kernels::isa_name(isa));
    const kernels::ScopedIsa scoped(isa);
    if (isa == kernels::Isa::reference) continue;  // rounds nothing
    const Codec exact = codec_with(model, {4, 4}), fast = codec_with(model, {4, 4}, kernels::Precision::fast);
    const Encoded expected = encode(exact, x, config.M), found = encode(fast, x, config.M);
    CHECK(sum_squared_difference(x, found.xhat) ==
          doctest::Approx(sum_squared_difference(x, expected.xhat)).epsilon(1e-4));
    const Tensor decoded = Tensor::empty({n, config.d});
    fast.decode(n, found.codes.data<int32_t>(), config.M, config.M, decoded.data<float>());
    CHECK(same_bits(decoded, found.xhat));
    if (isa == kernels::Isa::avx2) CHECK_FALSE(same_bits(expected.codes, found.codes));
  }
}

TEST_CASE("beam: of one code with all candidates is the plain search") {
  const QincoConfig& config = kBeamConfigs[0];
  const Qinco model = random_model(config, 31);
  const Tensor x = random_vectors(config, 50, 32);
  const Encoded plain = encode(Codec(model), x, config.M);
  CHECK(Codec(model).beam() == BeamSearch{1, config.K});
  CHECK(codec_with(model, {4, 3}).beam() == BeamSearch{4, 3});
  CHECK_FALSE(same_bits(encode(codec_with(model, {4, 3}), x, config.M).codes, plain.codes));
  for (const BeamSearch beam : {BeamSearch{}, BeamSearch{1, config.K}})
    CHECK(same_bits(encode(codec_with(model, beam), x, config.M).codes, plain.codes));
}

TEST_CASE("beam: models of one code are coded as without, polled or not, at any thread count") {
  const QincoConfig config{.d = 8, .M = 1, .K = 16, .L = 1, .h = 4};
  const Qinco model = random_model(config, 33);
  const Tensor x = random_vectors(config, 50, 34);
  const Tensor expected = encode(Codec(model), x, 1).codes;
  Codec codec = codec_with(model, {4, 3});
  const int threads = kernels::default_threads();
  for (const int count : {1, 2, 3, 4}) {
    kernels::set_default_threads(count);
    codec.set_poll(nullptr);
    CHECK(same_bits(encode(codec, x, 1).codes, expected));
    codec.set_poll([] {});
    CHECK(same_bits(encode(codec, x, 1).codes, expected));
  }
  kernels::set_default_threads(threads);
}

TEST_CASE("beam: follows the model through update") {
  for (const QincoConfig& config : kBeamConfigs) {
    const Qinco model = random_model(config, 41), other = random_model(config, 42);
    const Tensor x = random_vectors(config, 50, 43);
    Codec codec = codec_with(model, {3, 4});
    codec.update(other);
    CHECK(
        same_bits(encode(codec, x, config.codes()).codes, encode(codec_with(other, {3, 4}), x, config.codes()).codes));
  }
}

TEST_CASE("beam: PQ-QINCo's parts search with beams of their own") {
  const QincoConfig config{.d = 6, .M = 3, .K = 8, .L = 1, .h = 9};
  ProductQinco model;
  for (const uint64_t seed : {1, 2}) model.parts.push_back(random_model(config, seed));
  const ProductCodec codec(model, kernels::Precision::exact, {}, {3, 4});
  CHECK(codec.beam() == BeamSearch{3, 4});
  // Two parts: the first code, and two steps' projections, rankings and blocks (docs/beam_search.md).
  CHECK(codec.encode_flops() == 2 * (2 * 6 * 8 + 2 * 3 * (2 * 6 * (6 + 9) + 2 * 8 * 6 + 4 * 2 * 6 * 9)));
  const Tensor x = tests::normal_vectors(30, 12, 4);
  std::vector<int32_t> codes(30 * 6);
  codec.encode(30, x.data<float>(), 3, codes.data());
  for (int64_t j = 0; j < 2; ++j) {
    const Tensor part = x.slice(1, 6 * j, 6 * j + 6).contiguous();
    const Tensor expected = encode(codec_with(model.parts[static_cast<size_t>(j)], {3, 4}), part, 3).codes;
    for (int64_t i = 0; i < 30; ++i)
      for (int64_t m = 0; m < 3; ++m)
        CHECK(codes[static_cast<size_t>(i * 6 + j * 3 + m)] == expected.data<int32_t>()[i * 3 + m]);
  }
}

TEST_CASE("beam: a poll ends it, and vectors that are not finite get codes") {
  const QincoConfig& config = kBeamConfigs[0];
  Codec codec = codec_with(random_model(config, 51), {3, 4});
  const Tensor x = random_vectors(config, 20, 52);
  x.data<float>()[3] = std::nanf("");
  x.data<float>()[config.d] = INFINITY;
  const Tensor codes = encode(codec, x, config.M).codes;
  for (int64_t i = 0; i < codes.numel(); ++i) {
    CHECK(codes.data<int32_t>()[i] >= 0);
    CHECK(codes.data<int32_t>()[i] < config.K);
  }
  int asked = 0;
  codec.set_poll(
      [&] {
        if (++asked == 4) throw Error("enough");
      },
      4);
  CHECK_THROWS_WITH_AS(encode(codec, x, config.M), "enough", Error);
}

TEST_CASE("beam: sizes and candidates out of range are errors") {
  const Qinco model = random_model({.d = 3, .M = 2, .K = 2048, .L = 1, .h = 2}, 1);
  const auto check_error = [&](const BeamSearch& beam, const char* expected) {
    CHECK_THROWS_WITH_AS(codec_with(model, beam), expected, Error);
  };
  check_error({0, 4}, "beam_size: expected 1 to 1024, found 0");
  check_error({-1, 4}, "beam_size: expected 1 to 1024, found -1");
  check_error({1025, 4}, "beam_size: expected 1 to 1024, found 1025");
  check_error({4, -1}, "candidates: expected 1 to K = 2048, found -1");
  check_error({4, 2049}, "candidates: expected 1 to K = 2048, found 2049");
  check_error({64, 1025}, "beam_size 64 with 1025 candidates each: expected at most 65536 candidates in all");
  CHECK(codec_with(model, {32, 0}).beam() == BeamSearch{32, 2048});
}
