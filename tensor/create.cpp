#include "tensor/create.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "tensor/convert.h"
#include "tensor/dispatch.h"

namespace qinco {

Tensor full(const Shape& shape, double value, DType dtype) {
  const Tensor out = Tensor::empty(shape, dtype);
  if (is_floating(dtype)) {
    floating_dtype("full", dtype, [&]<class T>() {
      kernels::table<T>().fill(kernels::Context::cpu(), out.numel(), static_cast<T>(value), out.data<T>());
    });
    return out;
  }
  const Tensor one = scalar(value, DType::f64).to(dtype);
  any_dtype(dtype, [&]<class T>() { std::fill_n(out.data<T>(), out.numel(), *one.data<T>()); });
  return out;
}

Tensor zeros(const Shape& shape, DType dtype) {
  return full(shape, 0, dtype);
}
Tensor ones(const Shape& shape, DType dtype) {
  return full(shape, 1, dtype);
}
Tensor zeros_like(const Tensor& x) {
  return zeros(x.shape(), x.dtype());
}

Tensor scalar(double value, DType dtype) {
  const Tensor out = Tensor::empty({}, DType::f64);
  *out.data<double>() = value;
  return out.to(dtype);
}

Tensor arange(int64_t n, double start, double step, DType dtype) {
  const Tensor out = Tensor::empty({n}, DType::f64);
  double* const values = out.data<double>();
  for (int64_t i = 0; i < n; ++i) values[i] = start + static_cast<double>(i) * step;
  return out.to(dtype);
}

Tensor wrap(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner) {
  const int64_t bytes = checked_mul(shape.numel(), static_cast<int64_t>(size_of(dtype)), "wrap");
  auto storage = std::make_shared<Storage>(data, static_cast<size_t>(bytes), std::move(owner));
  return {std::move(storage), shape, contiguous_strides(shape), 0, dtype};
}

}  // namespace qinco
