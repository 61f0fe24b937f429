// How far a quantizer's reconstructions of a set of vectors are off, whatever makes them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "qinco/training/vector_set.h"
#include "tensor/ops.h"

namespace qinco {

/// Mean ||x - xhat||^2 over the vectors, which rebuild(n, x, xhat) makes of x [n,d] block by block, in the host's
/// memory, for a quantizer on `device`.
template <class Rebuild>
double mean_error(const VectorSet& vectors, Device device, Rebuild&& rebuild) {
  const int64_t block = vectors.block_rows(device);
  const Tensor x = Tensor::empty({block, vectors.dim()}), xhat = Tensor::empty({block, vectors.dim()});
  double total = 0;
  for (int64_t begin = 0; begin < vectors.size(); begin += block) {
    const int64_t n = std::min(block, vectors.size() - begin);
    vectors.copy(begin, begin + n, x.data<float>());
    rebuild(n, x.data<float>(), xhat.data<float>());
    total += sum_squared_difference(x.slice(0, 0, n), xhat.slice(0, 0, n));
  }
  return total / static_cast<double>(vectors.size());
}

}  // namespace qinco
