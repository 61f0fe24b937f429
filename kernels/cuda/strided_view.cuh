// Elements in order, at strides: what strided copies read and write.
#pragma once

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

/// Passed to kernels by value.
struct StridedView {
  static constexpr int kMaxDims = 8;

  int ndim = 0;
  int64_t elements = 1;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];

  /// Drops dimensions of size 1 and merges neighbours where one continues the other: fewer divisions per element.
  StridedView(int dims, const int64_t* sizes, const int64_t* steps) {
    for (int i = 0; i < dims; ++i) {
      elements *= sizes[i];
      if (sizes[i] == 1) continue;
      const int last = ndim - 1;
      if (last >= 0 && strides[last] == sizes[i] * steps[i]) {
        shape[last] *= sizes[i];
        strides[last] = steps[i];
      } else {
        shape[ndim] = sizes[i];
        strides[ndim++] = steps[i];
      }
    }
  }

  /// Where element e lies.
  __device__ int64_t offset(int64_t e) const {
    int64_t rest = e, at = 0;
    for (int i = ndim - 1; i >= 0; --i) {
      const Place of = place(rest, shape[i]);
      at += of.col * strides[i];
      rest = of.row;
    }
    return at;
  }
};

}  // namespace qinco::kernels::cuda
