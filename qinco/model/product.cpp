#include "qinco/model/product.h"

#include "kernels/check.h"

namespace qinco {

int64_t ProductQinco::d_out() const {
  int64_t total = 0;
  for (const Qinco& part : parts) total += part.config().d;
  return total;
}

void ProductQinco::validate() const {
  check(!parts.empty(), "PQ-QINCo: no sub-quantizers");
  for (const Qinco& part : parts)
    check(parts.size() == 1 || part.config().K_ivf == 0, "PQ-QINCo: a sub-quantizer is of variant ivf-qinco");
  for (size_t j = 1; j < parts.size(); ++j) {
    const QincoConfig& config = parts[j].config();
    check(config.M == M() && config.K == K(),
          "PQ-QINCo: sub-quantizer {} has M={} K={}, expected M={} K={} as in sub-quantizer 0", j, config.M, config.K,
          M(), K());
  }
  if (!rotation.defined()) return;
  check(rotation.dim() == 2 && rotation.size(0) == d_out() && rotation.size(1) >= 1,
        "PQ-QINCo: the rotation is {}, expected [{},d]", rotation.shape().str(), d_out());
}

int64_t ProductQinco::parameter_count() const {
  int64_t total = rotation.defined() ? rotation.numel() : 0;
  for (const Qinco& part : parts) total += part.config().parameter_count();
  return total;
}

const char* ProductQinco::variant() const {
  return parts.size() == 1 && !rotation.defined() ? parts.front().config().variant() : "pq-qinco";
}

}  // namespace qinco
