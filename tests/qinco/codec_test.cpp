#include "qinco/codec/codec.h"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>
#include <utility>
#include <vector>

#include "autograd/ops.h"
#include "tests/qinco/codec_fixtures.h"

using namespace qinco;
using namespace qinco::testing;
using kernels::Precision;

namespace {

const QincoConfig kConfigs[] = {
    {.d = 8, .M = 3, .K = 16, .L = 2, .h = 12},
    {.d = 17, .M = 4, .K = 8, .L = 1, .h = 33, .db_scale = 3.5F},
    {.d = 33, .M = 2, .K = 64, .L = 3, .h = 7, .db_scale = 255},
    {.d = 1, .M = 2, .K = 2, .L = 1, .h = 1},
    {.d = 5, .M = 1, .K = 4, .L = 1, .h = 1},
    {.d = 12, .M = 3, .K = 16, .L = 1, .h = 16, .lowrank = true},                    // h > d: multiplied out
    {.d = 64, .M = 3, .K = 16, .L = 2, .h = 8, .lowrank = true, .db_scale = 0.25F},  // h << d: kept as two factors
    {.d = 128, .M = 3, .K = 256, .L = 2, .h = 64},
    {.d = 2, .M = 2, .K = 4096, .L = 1, .h = 3},
};

// For the codes that the codec chose: how much farther its candidate is than the best one of the plain module, in
// double, relative to that distance. The worst over all steps and rows.
double worst_excess(const Qinco& model, const Tensor& x, const Tensor& codes) {
  const QincoConfig& config = model.config();
  const autograd::NoGrad no_grad;
  const int64_t n = x.size(0), d = config.d, K = config.K;
  const std::vector<Variable> partials = model.decode_partials(codes);
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Tensor target = x.slice(0, i, i + 1);
    for (int64_t m = 0; m < config.M; ++m) {
      const Tensor& codebook = model.codebook(m).value();
      Tensor y = codebook;
      if (m > 0) {
        const Tensor xhat = partials[static_cast<size_t>(m - 1)].value().slice(0, i, i + 1).expand({K, d}).contiguous();
        y = add(xhat, model.step(m).forward(codebook, xhat).value());
      }
      const Tensor error = sub(y, target);
      const Tensor distances = sum(mul(error, error), 1);
      const double* const v = distances.data<double>();
      const double chosen = v[codes.data<int32_t>()[i * config.M + m]];
      const double excess = chosen / *std::min_element(v, v + K) - 1;
      if (!(excess <= worst)) worst = excess;
    }
  }
  return worst;
}

Tensor decode(const Codec& codec, const Tensor& codes, int64_t M_used) {
  const Tensor x = full({codes.size(0), codec.config().d}, std::nan(""));
  codec.decode(codes.size(0), codes.data<int32_t>(), codes.size(1), M_used, x.data<float>());
  return x;
}

}  // namespace

TEST_CASE("codec: codes reach the plain module's smallest distances and decode to its reconstructions, on every ISA") {
  for (const kernels::Isa isa : kernels::available_isas()) {
    const kernels::ScopedIsa scoped(isa);
    for (const QincoConfig& config : kConfigs) {
      CAPTURE(kernels::isa_name(isa));
      CAPTURE(config.d);
      const Qinco model = random_model(config, 11);
      const Qinco exact = in_double(model);
      const Codec codec(model);
      const Tensor x = random_vectors(config, 19, 12);
      const Tensor scale = scalar(config.db_scale, DType::f64);
      const Encoded encoded = encode(codec, x);
      CHECK(worst_excess(exact, div(x.to(DType::f64), scale), encoded.codes) <= 1e-5);
      const std::vector<Variable> partials = exact.decode_partials(encoded.codes);
      for (int64_t m = 1; m <= config.M; ++m) {
        const Tensor expected = mul(partials[static_cast<size_t>(m - 1)].value(), scale);
        CHECK(relative_difference(decode(codec, encoded.codes, m), expected) <= codec_rounding());
      }
    }
  }
}

TEST_CASE("codec: what encode reconstructs is what decode gives, bit for bit, in a batch or alone") {
  for (const kernels::Isa isa : kernels::available_isas()) {
    if (isa == kernels::Isa::reference) continue;  // the same code path, too slow for this many rows
    const kernels::ScopedIsa scoped(isa);
    for (const QincoConfig& config : kConfigs)
      for (const Precision precision : {Precision::exact, Precision::fast}) {
        CAPTURE(kernels::isa_name(isa));
        CAPTURE(config.d);
        const Codec codec(random_model(config, 21), precision);
        const int64_t n = 300;  // more than one block of rows
        const Tensor x = random_vectors(config, n, 22);
        const Encoded all = encode(codec, x);
        CHECK(same_bits(decode(codec, all.codes, config.M), all.xhat));
        for (const int64_t i : {0, 1, 77, 255, 256, 299}) {
          const Encoded one = encode(codec, x.slice(0, i, i + 1));
          CHECK(same_bits(one.codes, all.codes.slice(0, i, i + 1)));
          CHECK(same_bits(one.xhat, all.xhat.slice(0, i, i + 1)));
        }
        const Encoded rest = encode(codec, x.slice(0, 3, n));
        CHECK(same_bits(rest.xhat, all.xhat.slice(0, 3, n)));
      }
  }
}

TEST_CASE("codec: decoding at fast rounds the operands of products, to 16 bits where it rounds") {
  for (const kernels::Isa isa : kernels::available_isas()) {
    const kernels::ScopedIsa scoped(isa);
    for (const QincoConfig& config : kConfigs) {
      CAPTURE(kernels::isa_name(isa));
      CAPTURE(config.d);
      const Qinco model = random_model(config, 25);
      const Tensor codes = random_codes(config, 200, 26);
      const Tensor exact = decode(Codec(model), codes, config.M);
      const Tensor fast = decode(Codec(model, Precision::fast), codes, config.M);
      CHECK(relative_difference(fast, exact) <= 1e-4);
      if (config.M == 1 || config.d == 1) continue;  // no products, or of rows that have one value
      const bool rounds =
          isa == kernels::Isa::avx2 || (isa == kernels::Isa::avx512 && kernels::cpu_has(kernels::Feature::avx512_vnni));
      CHECK(same_bits(fast, exact) != rounds);
    }
  }
}

TEST_CASE("codec: the same bits at any thread count") {
  const QincoConfig config{.d = 24, .M = 3, .K = 32, .L = 2, .h = 16};
  const Codec codec(random_model(config, 31));
  const Tensor x = random_vectors(config, 1000, 32);
  const int threads = kernels::default_threads();
  kernels::set_default_threads(1);
  const Encoded serial = encode(codec, x);
  const Tensor decoded = decode(codec, serial.codes, 2);
  for (const int count : {2, 3, 8}) {
    kernels::set_default_threads(count);
    const Encoded parallel = encode(codec, x);
    CHECK(same_bits(parallel.codes, serial.codes));
    CHECK(same_bits(parallel.xhat, serial.xhat));
    CHECK(same_bits(decode(codec, serial.codes, 2), decoded));
  }
  kernels::set_default_threads(threads);
}

TEST_CASE("codec: more rows than one encoding block, and none") {
  const QincoConfig config{.d = 3, .M = 2, .K = 4, .L = 1, .h = 2};
  const Codec codec(random_model(config, 41));
  const Tensor x = random_vectors(config, 9001, 42);
  const Encoded all = encode(codec, x);
  const Encoded tail = encode(codec, x.slice(0, 4000, 9001));
  CHECK(same_bits(all.codes.slice(0, 4000, 9001), tail.codes));
  CHECK(same_bits(decode(codec, all.codes, 2), all.xhat));
  CHECK_NOTHROW(codec.encode(0, nullptr, nullptr));
  CHECK_NOTHROW(codec.decode(0, nullptr, 2, 2, nullptr));
}

TEST_CASE("codec: the first codes alone are those of the whole, and no more are searched for") {
  for (const QincoConfig& config : kConfigs) {
    CAPTURE(config.d);
    Codec codec(random_model(config, 71));
    const int64_t n = 20, M = config.codes();
    const Tensor x = random_vectors(config, n, 72), xhat = Tensor::empty(x.shape());
    const Encoded all = encode(codec, x);
    int polls = 0;
    codec.set_poll([&] { ++polls; }, 1);
    for (int64_t used = 1; used <= M; ++used) {
      std::vector<int32_t> codes(static_cast<size_t>(n * used));
      polls = 0;
      codec.encode(n, x.data<float>(), codes.data(), xhat.data<float>(), nullptr, used);
      CHECK(polls == 1 + n * (used - 1));
      bool equal = true;
      for (int64_t i = 0; i < n; ++i)
        equal = equal &&
                std::equal(codes.begin() + i * used, codes.begin() + (i + 1) * used, all.codes.data<int32_t>() + i * M);
      CHECK(equal);
      CHECK(same_bits(decode(codec, all.codes, used), xhat));
    }
    CHECK_THROWS_WITH(codec.encode(n, x.data<float>(), nullptr, nullptr, nullptr, M + 1),
                      doctest::Contains("codes a vector, found"));
    CHECK_THROWS_WITH(codec.encode(-1, nullptr, nullptr), "encode: -1 vectors");
    CHECK_THROWS_WITH(codec.decode(-1, nullptr, M, M, nullptr), "decode: -1 vectors");
  }
}

TEST_CASE("codec: encoding in parts with a poll between them gives the same bits, and ends with what the poll throws") {
  struct Ended {};
  for (const QincoConfig& config : {kConfigs[0], kConfigs[4], kConfigs[6]}) {
    CAPTURE(config.d);
    Codec codec(random_model(config, 51));
    const Tensor x = random_vectors(config, 40, 52);
    const Encoded whole = encode(codec, x);
    int polls = 0, last = 0;
    codec.set_poll(
        [&] {
          if (++polls == last) throw Ended();
        },
        13);
    const Encoded parts = encode(codec, x);
    CHECK(polls == 1 + 4 * (config.M - 1));
    CHECK(same_bits(parts.codes, whole.codes));
    CHECK(same_bits(parts.xhat, whole.xhat));
    last = std::exchange(polls, 0);  // the last poll
    CHECK_THROWS_AS(encode(codec, x), Ended);
    CHECK(polls == last);
    CHECK(same_bits(encode(codec, x).xhat, whole.xhat));
  }
}

TEST_CASE("codec: update() takes new parameters, as a fresh codec does") {
  const QincoConfig config{.d = 9, .M = 3, .K = 8, .L = 2, .h = 5};
  Codec codec(random_model(config, 51));
  const Qinco other = random_model(config, 52);
  const Tensor x = random_vectors(config, 20, 53);
  const Encoded before = encode(codec, x);
  codec.update(other);
  const Encoded updated = encode(codec, x), fresh = encode(Codec(other), x);
  CHECK(same_bits(updated.codes, fresh.codes));
  CHECK(same_bits(updated.xhat, fresh.xhat));
  CHECK_FALSE(same_bits(before.xhat, fresh.xhat));
  for (int64_t QincoConfig::*const size : {&QincoConfig::d, &QincoConfig::M, &QincoConfig::K, &QincoConfig::h}) {
    QincoConfig wrong = config;
    wrong.*size *= 2;
    CHECK_THROWS_WITH_AS(codec.update(random_model(wrong, 53)), doctest::Contains("a model of other sizes"), Error);
  }
}

TEST_CASE("codec: update_trained() takes all that training changes, the first codebook but not IVF-QINCo's centroids") {
  for (const int64_t K_ivf : {0, 11}) {
    const QincoConfig config{.d = 9, .M = 3, .K = 8, .L = 2, .h = 5, .K_ivf = K_ivf};
    const Qinco first = random_model(config, 51), other = random_model(config, 52);
    Codec codec(first);
    codec.update_trained(other);
    Qinco expected = random_model(config, 52);
    if (K_ivf > 0) expected.codebook(0).value().copy_from(first.codebook(0).value());
    const Tensor x = random_vectors(config, 20, 53);
    CHECK(same_bits(encode(codec, x).xhat, encode(Codec(expected), x).xhat));
    codec.update(other);
    CHECK(same_bits(encode(codec, x).xhat, encode(Codec(other), x).xhat));
  }
}

TEST_CASE("codec: codes and prefix lengths out of range are errors") {
  const QincoConfig config{.d = 3, .M = 2, .K = 4, .L = 1, .h = 2};
  const Codec codec(random_model(config, 61));
  std::vector<float> x(6);
  const auto message = [&](std::vector<int32_t> codes, int64_t M_used) {
    try {
      codec.decode(2, codes.data(), 2, M_used, x.data());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(message({0, 1, 3, 4}, 2) == "decode: row 1: expected codes in [0,4), found 4");
  CHECK(message({-1, 1, 3, 3}, 1) == "decode: row 0: expected codes in [0,4), found -1");
  CHECK(message({0, 9, 3, 9}, 1) == "no error");
  CHECK(message({0, 0, 0, 0}, 3) == "decode: expected 1 to 2 codes a vector, found 3");
  CHECK(message({0, 0, 0, 0}, 0) == "decode: expected 1 to 2 codes a vector, found 0");
}
