// A weight matrix packed once for the `linear` kernel of one ISA or device.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"
#include "tensor/tensor.h"

namespace qinco {

/// W [n,k] for products y = x W^T. Undefined until `allocate`.
class PackedLinear {
 public:
  void allocate(const kernels::Table<float>& kernels, Device device, int64_t n, int64_t k,
                kernels::Precision precision) {
    n_ = n;
    k_ = k;
    precision_ = precision;
    packed_ = Tensor::empty({kernels.linear_packed_size(n, k, precision)}, DType::f32, device);
  }
  bool defined() const { return packed_.defined(); }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }

  /// Takes the values of w [n,k], whose rows are ldw apart, with the kernels of `allocate`, on their device.
  void pack(const kernels::Table<float>& kernels, const kernels::Context& context, const float* w, int64_t ldw) {
    kernels.linear_pack(context, n_, k_, w, ldw, precision_, packed_.data<float>());
  }

  /// y [m,n] = x [m,k] W^T, contiguous; the caller sets the epilogue.
  kernels::Linear<float> product(int64_t m, const float* x, float* y) const {
    kernels::Linear<float> l;
    l.m = m, l.n = n_, l.k = k_;
    l.x = x, l.ldx = k_;
    l.packed = packed_.data<float>();
    l.y = y, l.ldy = n_;
    l.precision = precision_;
    return l;
  }

 private:
  int64_t n_ = 0, k_ = 0;
  kernels::Precision precision_ = kernels::Precision::exact;
  Tensor packed_;
};

}  // namespace qinco
