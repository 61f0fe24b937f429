#include "qinco/model/qinco.h"

#include <string>

#include "autograd/nn/layers.h"
#include "autograd/ops.h"
#include "kernels/check.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco {

Qinco::Qinco(const QincoConfig& config, Random& random, DType dtype) : config_(config) {
  config.validate();
  codebook0_ = register_module("codebook0", nn::Embedding(zeros({config.K0(), config.d}, dtype))).weight;
  const int64_t first = config.codes() - config.M;  // the reference counts IVF-QINCo's steps from 0
  for (int64_t m = 1; m < config.codes(); ++m) {
    steps_.push_back(&register_module("step" + std::to_string(m - first), StepNetwork(config, random, dtype)));
  }
}

void Qinco::set_codebooks(const Tensor& codebooks) {
  const Shape expected{config_.M, config_.K, config_.d};
  check(codebooks.shape() == expected, "codebooks: expected {}, found {}", expected, codebooks.shape());
  const int64_t first = config_.codes() - config_.M;
  for (int64_t m = 0; m < config_.M; ++m) codebook(first + m).value().copy_from(codebooks.row(m));
}

void Qinco::set_centroids(const Tensor& centroids) {
  const Shape expected{config_.K_ivf, config_.d};
  check(centroids.shape() == expected, "centroids: expected {}, found {}", expected, centroids.shape());
  codebook0_.value().copy_from(centroids);
}

std::vector<Variable> Qinco::decode_partials(const Tensor& codes) const {
  check(codes.dim() == 2 && codes.size(1) >= 1 && codes.size(1) <= config_.codes(),
        "decode_partials: expected codes [n,1..{}], found {}", config_.codes(), codes.shape());
  std::vector<Variable> partials;
  for (int64_t m = 0; m < codes.size(1); ++m) {
    const Tensor ids = codes.slice(1, m, m + 1).squeeze(1).contiguous();
    const bool frozen = m == 0 && config_.K_ivf > 0;
    const Variable c = frozen ? Variable(gather_rows(codebook(m).value(), ids)) : autograd::embedding(codebook(m), ids);
    partials.push_back(m == 0 ? c : partials.back() + step(m).forward(c, partials.back()));
  }
  return partials;
}

Variable Qinco::loss(const Tensor& x, const Tensor& codes) const {
  Variable total;
  for (const Variable& xhat : decode_partials(codes)) {
    const Variable error = autograd::sum_squared_error(xhat, x);
    total = total.defined() ? total + error : error;
  }
  return total * (1.0 / static_cast<double>(x.numel()));
}

void for_each_parameter(const QincoConfig& config,
                        const std::function<void(const std::string& name, const Shape& shape)>& visit) {
  const int64_t d = config.d, h = config.h, first = config.codes() - config.M;
  visit("codebook0.weight", {config.K0(), d});
  for (int64_t m = 1; m < config.codes(); ++m) {
    const std::string step = "step" + std::to_string(m - first) + ".";
    visit(step + "codebook.weight", {config.K, d});
    if (config.lowrank) {
      visit(step + "MLPconcat.0.weight", {h, 2 * d});
      visit(step + "MLPconcat.1.weight", {d, h});
    } else {
      visit(step + "MLPconcat.weight", {d, 2 * d});
      visit(step + "MLPconcat.bias", {d});
    }
    for (int64_t l = 0; l < config.L; ++l) {
      const std::string block = step + "residual_block" + std::to_string(l);
      visit(block + ".0.weight", {h, d});
      visit(block + ".2.weight", {d, h});
    }
  }
}

}  // namespace qinco
