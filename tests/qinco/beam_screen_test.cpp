// Beam search where a screen comes first: as if every candidate had been compared.
#include <cmath>
#include <doctest/doctest.h>
#include <string>
#include <vector>

#include "tests/qinco/beam_definition.h"

using namespace qinco;
using namespace qinco::testing;
using kernels::Precision;

namespace {

// How many vectors of x get codes whose error is not that of the definition, but for rounding of outputs that are
// about as long as x: of float, or of the split products that AMX has for it.
int64_t unlike_definition(const Qinco& model, const BeamSearch& beam, const Tensor& x, Precision precision,
                          const std::vector<double>& expected, const int32_t* first) {
  const QincoConfig& config = model.config();
  const Encoded found = encode(codec_with(model, beam, precision), x, config.codes(), first);
  const double rounding = kernels::active_isa() == kernels::Isa::amx ? 1e-5 : 2e-6;
  int64_t count = 0;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const Tensor target = scaled(x, i, config);
    const double root = std::sqrt(sum_squared_difference(scaled(found.xhat, i, config), target));
    const double error = std::sqrt(expected[static_cast<size_t>(i)]);
    const double length = std::sqrt(sum_squared_difference(target, zeros_like(target)));
    count += !(std::abs(root - error) <= 5e-5 * error + rounding * length);
  }
  return count;
}

std::vector<double> by_definition(const Qinco& model, const BeamSearch& beam, const Tensor& x, const int32_t* first) {
  const Definition definition(model, beam);
  std::vector<double> errors;
  for (int64_t i = 0; i < x.size(0); ++i)
    errors.push_back(definition.error(scaled(x, i, model.config()), model.config().codes(), first ? first[i] : -1));
  return errors;
}

// Whether the active ISA's kernels screen beams' candidates, by rounding.
bool rounds() {
  return kernels::active_isa() == kernels::Isa::avx2 || kernels::active_isa() == kernels::Isa::avx512;
}

// Compares both precisions with the definition on every ISA: `exact` must reach it, and `fast`, which the screen
// decides, not always, or the test would not see a screen that is not put right.
void check_screened(const Qinco& model, const BeamSearch& beam, const Tensor& x, const int32_t* first,
                    int64_t* fast_differs) {
  const std::vector<double> expected = by_definition(model, beam, x, first);
  for (const kernels::Isa isa : kernels::available_isas()) {
    CAPTURE(std::string(kernels::isa_name(isa)));
    CAPTURE(beam.size);
    CAPTURE(beam.candidates);
    const kernels::ScopedIsa scoped(isa);
    CHECK(unlike_definition(model, beam, x, Precision::exact, expected, first) == 0);
    if (rounds()) *fast_differs += unlike_definition(model, beam, x, Precision::fast, expected, first);
  }
}

// A step whose rounding its codewords alone do not show: hidden unit 0, which weighs a lot, reads coordinate 0, of
// which the codewords have less than nothing and the first codes plenty. So all of a margin is measured without it.
Qinco hiding_model(int64_t L) {
  const QincoConfig config{.d = 32, .M = 2, .K = 64, .L = L, .h = 64};
  Random random(5);
  Qinco model(config, random);
  const StepNetwork& step = model.step(1);
  float *const first = model.codebook(0).value().data<float>(), *const second = step.codebook.value().data<float>();
  random.normal(model.codebook(0).value(), 0, 0.5);
  random.normal(step.codebook.value(), 0, 0.03);
  for (int64_t k = 0; k < config.K; ++k) {
    first[k * config.d] = 5 + 4 * std::abs(first[k * config.d]);
    second[k * config.d] -= 3;
  }
  // z = c + xhat before the blocks.
  set_zero(step.concat_bias);
  set_zero(step.concat);
  for (int64_t j = 0; j < config.d; ++j) step.concat.value().data<float>()[j * 2 * config.d + config.d + j] = 1;
  float* const up = step.up[0].value().data<float>();
  for (int64_t j = 0; j < config.d; ++j) up[j] = j == 0 ? 1.0F : 0.0F;
  for (int64_t j = 0; j < config.d; ++j) step.down[0].value().data<float>()[j * config.h] *= 3000;
  return model;
}

// First codes in pairs that are nearly the same: beside those of the first half, hidden unit 0 is larger than the
// others by far, so that these vanish beside it, beside those of the second half it is zero, as for all codewords by
// themselves. Vectors are best coded by the first half.
Qinco half_hiding_model() {
  const QincoConfig config{.d = 32, .M = 2, .K = 64, .L = 1, .h = 64};
  const int64_t d = config.d, half = config.K / 2;
  Random random(6);
  Qinco model(config, random);
  const StepNetwork& step = model.step(1);
  float *const first = model.codebook(0).value().data<float>(), *const second = step.codebook.value().data<float>();
  float *const up = step.up[0].value().data<float>(), *const down = step.down[0].value().data<float>();
  random.normal(model.codebook(0).value(), 0, 3);
  random.normal(step.codebook.value(), 0, 0.03);
  random.normal(step.up[0].value(), 0, 0.3);
  random.normal(step.down[0].value(), 0, 0.6);
  for (int64_t k = 0; k < half; ++k) {
    for (int64_t j = 0; j < d; ++j) first[(half + k) * d + j] = first[k * d + j] + (j % 2 == 0 ? 0.01F : -0.01F);
    first[k * d] = -0.5F;
    first[(half + k) * d] = -0.1F;
  }
  for (int64_t k = 0; k < config.K; ++k) second[k * d] = -0.3F;
  // z = c before the blocks, but for coordinate 0: c - xhat.
  set_zero(step.concat_bias);
  set_zero(step.concat);
  step.concat.value().data<float>()[d] = -1;
  for (int64_t j = 0; j < d; ++j) up[j] = j == 0 ? 2000.0F : 0.0F;
  for (int64_t i = 1; i < config.h; ++i) up[i * d] = 0;
  for (int64_t j = 0; j < d; ++j) down[j * config.h] = 0;
  for (int64_t i = 0; i < config.h; ++i) down[i] = 0;
  return model;
}

}  // namespace

TEST_CASE("beam: a screen changes no code of an exact search") {
  int64_t fast_differs = 0;
  for (const QincoConfig& config : kScreenedConfigs) {
    CAPTURE(config.d);
    const Qinco model = random_model(config, 11);
    for (const BeamSearch beam : {BeamSearch{1, 8}, BeamSearch{3, 9}, BeamSearch{4, config.K}})
      check_screened(model, beam, random_vectors(config, 60, 12), nullptr, &fast_differs);
  }
  if (kernels::best_isa() > kernels::Isa::reference) CHECK(fast_differs > 10);
}

TEST_CASE("beam: a screen whose margin does not hold for these vectors changes no code, either") {
  int64_t fast_differs = 0;
  for (const int64_t L : {1, 2}) {
    const Qinco model = hiding_model(L);
    const int64_t n = 100;
    const Tensor codes = random_codes(model.config(), n, 7), x = Tensor::empty({n, 32}), noise = Tensor::empty({n, 32});
    Codec(model).decode(n, codes.data<int32_t>(), 2, 2, x.data<float>());
    Random(9).normal(noise, 0, 0.02);
    std::vector<int32_t> first;
    for (int64_t i = 0; i < n; ++i) first.push_back(codes.data<int32_t>()[2 * i]);
    check_screened(model, {2, 64}, add(x, noise), first.data(), &fast_differs);
  }
  if (kernels::best_isa() > kernels::Isa::reference) CHECK(fast_differs > 10);
}

TEST_CASE("beam: a screen whose margin holds for one code under way and not for another changes no code, either") {
  int64_t fast_differs = 0;
  const Qinco model = half_hiding_model();
  const int64_t n = 100, d = model.config().d;
  const Tensor codes = random_codes(model.config(), n, 8), x = Tensor::empty({n, d}), noise = Tensor::empty({n, d});
  for (int64_t i = 0; i < n; ++i) codes.data<int32_t>()[2 * i] %= 32;
  Codec(model).decode(n, codes.data<int32_t>(), 2, 2, x.data<float>());
  Random(9).normal(noise, 0, 0.003);
  check_screened(model, {2, 64}, add(x, noise), nullptr, &fast_differs);
  if (kernels::best_isa() > kernels::Isa::reference) CHECK(fast_differs > 10);
}

TEST_CASE("beam: of screened candidates, those that are not finite are never taken, and harm no other vector") {
  const QincoConfig& config = kScreenedConfigs[0];
  const Qinco model = random_model(config, 51);
  model.step(2).codebook.value().data<float>()[5 * config.d + 3] = std::nanf("");
  const Tensor x = random_vectors(config, 20, 52);
  for (const kernels::Isa isa : kernels::available_isas())
    for (const Precision precision : {Precision::exact, Precision::fast}) {
      CAPTURE(std::string(kernels::isa_name(isa)));
      const kernels::ScopedIsa scoped(isa);
      const Codec codec = codec_with(model, {3, config.K}, precision);
      const Encoded expected = encode(codec, x);
      for (int64_t i = 0; i < 20; ++i) {
        CHECK(expected.codes.data<int32_t>()[i * config.M + 2] != 5);
        CHECK(std::isfinite(sum_squared_difference(expected.xhat.slice(0, i, i + 1), x.slice(0, i, i + 1))));
      }
      const Tensor other = x.clone();
      other.data<float>()[3] = std::nanf("");
      other.data<float>()[config.d] = INFINITY;
      other.data<float>()[2 * config.d] = 3e38F;
      const Tensor found = encode(codec, other).codes;
      for (int64_t i = 0; i < found.numel(); ++i) {
        CHECK(found.data<int32_t>()[i] >= 0);
        CHECK(found.data<int32_t>()[i] < config.K);
      }
      CHECK(same_bits(found.slice(0, 3, 20), expected.codes.slice(0, 3, 20)));
    }
}
