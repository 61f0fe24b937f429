#include "qinco/model/product.h"

#include "kernels/check.h"

namespace qinco {

int64_t ProductQinco::d_out() const {
  int64_t total = 0;
  for (const Qinco& part : parts) total += part.config().d;
  return total;
}

void ProductQinco::validate() const {
  std::vector<QincoConfig> configs;
  for (const Qinco& part : parts) configs.push_back(part.config());
  check_product(configs, rotation);
}

int64_t ProductQinco::parameter_count() const {
  int64_t total = rotation.defined() ? rotation.numel() : 0;
  for (const Qinco& part : parts) total += part.config().parameter_count();
  return total;
}

const char* ProductQinco::variant() const {
  return parts.size() == 1 && !rotation.defined() ? parts.front().config().variant() : "pq-qinco";
}

void check_product(const std::vector<QincoConfig>& parts, const Tensor& rotation) {
  check(!parts.empty(), "PQ-QINCo: no sub-quantizers");
  const QincoConfig& first = parts.front();
  int64_t d_out = 0;
  for (size_t j = 0; j < parts.size(); ++j) {
    const QincoConfig& part = parts[j];
    check(parts.size() == 1 || part.K_ivf == 0, "PQ-QINCo: a sub-quantizer is of variant ivf-qinco");
    check(part.M == first.M && part.K == first.K,
          "PQ-QINCo: sub-quantizer {} has M={} K={}, expected M={} K={} as in sub-quantizer 0", j, part.M, part.K,
          first.M, first.K);
    d_out += part.d;
  }
  if (!rotation.defined()) return;
  check(rotation.dim() == 2 && rotation.size(0) == d_out && rotation.size(1) >= 1,
        "PQ-QINCo: the rotation is {}, expected [{},d]", rotation.shape(), d_out);
}

}  // namespace qinco
