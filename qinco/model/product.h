// PQ-QINCo: independent QINCo models of the contiguous blocks of the dimensions, after a rotation if there is one.
#pragma once

#include <cstdint>
#include <vector>

#include "qinco/model/qinco.h"
#include "tensor/tensor.h"

namespace qinco {

/// One or more models of the same M and K, whose codes are concatenated. A plain model is the case of one part.
struct ProductQinco {
  std::vector<Qinco> parts;
  Tensor rotation;  // OPQ: f32 A [d_out,d], d_out the sum of the parts' d: x A^T is what is cut; undefined: x itself

  /// Throws Error naming what differs unless there is a part, all agree in M and K, and the rotation, if any, fits.
  void validate() const;
  /// The sum of the parts' d.
  int64_t d_out() const;
  /// The dimension of the vectors.
  int64_t d() const { return rotation.defined() ? rotation.size(1) : d_out(); }
  int64_t M() const { return parts.front().config().codes(); }  // entries of a part's code
  int64_t K() const { return parts.front().config().K; }
  int64_t nsub() const { return static_cast<int64_t>(parts.size()); }
  /// Elements of all parameters and of the rotation.
  int64_t parameter_count() const;
  /// "pq-qinco", or for one part without a rotation its own.
  const char* variant() const;
};

/// What ProductQinco::validate checks, of parts of these sizes.
void check_product(const std::vector<QincoConfig>& parts, const Tensor& rotation);

}  // namespace qinco
