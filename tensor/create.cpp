#include "tensor/create.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "tensor/convert.h"
#include "tensor/dispatch.h"

namespace qinco {

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  if (is_floating(dtype)) {
    const Tensor out = Tensor::empty(shape, dtype, device);
    const kernels::Context& context = kernels::Context::of(device);
    floating_dtype("full", dtype, [&]<class T>() {
      kernels::table<T>(device).fill(context, out.numel(), static_cast<T>(value), out.data<T>());
    });
    return out;
  }
  const Tensor out = Tensor::empty(shape, dtype);
  const Tensor one = scalar(value, DType::f64).to(dtype);
  any_dtype(dtype, [&]<class T>() { std::fill_n(out.data<T>(), out.numel(), *one.data<T>()); });
  return out.to(device);
}

Tensor zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, 0, dtype, device);
}
Tensor ones(const Shape& shape, DType dtype, Device device) {
  return full(shape, 1, dtype, device);
}
Tensor zeros_like(const Tensor& x) {
  check(x.defined(), "zeros_like: the tensor is undefined");
  return zeros(x.shape(), x.dtype(), x.device());
}

Tensor scalar_like(double value, const Tensor& x) {
  return scalar(value, x.dtype(), x.device());
}

Tensor scalar(double value, DType dtype, Device device) {
  if (device.type != DeviceType::cpu) return full({}, value, dtype, device);
  const Tensor out = Tensor::empty({}, DType::f64);
  *out.data<double>() = value;
  return out.to(dtype);
}

Tensor arange(int64_t n, double start, double step, DType dtype, Device device) {
  const Tensor out = Tensor::empty({n}, DType::f64);
  double* const values = out.data<double>();
  for (int64_t i = 0; i < n; ++i) values[i] = start + static_cast<double>(i) * step;
  return out.to(dtype).to(device);
}

Tensor wrap(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner) {
  const int64_t bytes = checked_mul(shape.numel(), static_cast<int64_t>(size_of(dtype)), "wrap");
  auto storage = std::make_shared<Storage>(data, static_cast<size_t>(bytes), std::move(owner));
  return {std::move(storage), shape, contiguous_strides(shape), 0, dtype};
}

}  // namespace qinco
