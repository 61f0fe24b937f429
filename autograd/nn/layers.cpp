#include "autograd/nn/layers.h"

#include <cmath>
#include <typeinfo>

#include "tensor/create.h"

namespace qinco::nn {

namespace {

Tensor uniform_tensor(const Shape& shape, double bound, Random& random, DType dtype) {
  Tensor values = Tensor::empty(shape, dtype);
  random.uniform(values, -bound, bound);
  return values;
}

Tensor normal_tensor(const Shape& shape, Random& random, DType dtype) {
  Tensor values = Tensor::empty(shape, dtype);
  random.normal(values);
  return values;
}

void check_weights(const Tensor& w, const Tensor& b) {
  check(w.defined(), "linear: the weight is undefined");
  check(w.dim() == 2 && w.numel() > 0, "linear: expected a weight [out,in], sizes of at least 1, found shape {}",
        w.shape());
  check(!b.defined() || (b.shape() == Shape{w.size(0)} && b.dtype() == w.dtype()),
        "linear: weight {}: expected a bias {} [{}], found {} {}", w.shape(), name(w.dtype()), w.size(0),
        name(b.dtype()), b.shape());
}

void check_table(const Tensor& table) {
  check(table.defined(), "embedding: the table is undefined");
  check(table.dim() == 2 && table.numel() > 0, "embedding: expected a table [N,d], sizes of at least 1, found shape {}",
        table.shape());
}

Shape table_shape(int64_t count, int64_t d) {
  check(count >= 1 && d >= 1, "embedding: expected sizes of at least 1, found count {} and d {}", count, d);
  return {count, d};
}

}  // namespace

Linear::Linear(int64_t in, int64_t out, bool with_bias, Random& random, DType dtype) {
  check(in >= 1 && out >= 1, "linear: expected sizes of at least 1, found in {} and out {}", in, out);
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  weight = register_parameter("weight", uniform_tensor({out, in}, bound, random, dtype));
  if (with_bias) bias = register_parameter("bias", uniform_tensor({out}, bound, random, dtype));
}

Linear::Linear(Tensor w, Tensor b) {
  check_weights(w, b);
  weight = register_parameter("weight", std::move(w));
  if (b.defined()) bias = register_parameter("bias", std::move(b));
}

Linear::Linear(const Variable& w, const Variable& b) {
  check_weights(w.value(), b.defined() ? b.value() : Tensor());
  weight = register_parameter("weight", w);
  if (b.defined()) bias = register_parameter("bias", b);
}

Variable Linear::forward(const Variable& x) {
  return autograd::linear(x, weight, bias);
}

Embedding::Embedding(int64_t count, int64_t d, Random& random, DType dtype)
    : Embedding(normal_tensor(table_shape(count, d), random, dtype)) {}

Embedding::Embedding(Tensor table) {
  check_table(table);
  weight = register_parameter("weight", std::move(table));
}

Embedding::Embedding(const Variable& table) {
  check_table(table.value());
  weight = register_parameter("weight", table);
}

Variable Embedding::operator()(const Tensor& ids) const {
  return autograd::embedding(weight, ids);
}

LayerNorm::LayerNorm(int64_t size, double eps, DType dtype) : eps_(eps) {
  check(size >= 1, "layer_norm: expected a size of at least 1, found {}", size);
  check(std::isfinite(eps) && eps >= 0, "layer_norm: expected eps >= 0, found {}", eps);
  weight = register_parameter("weight", ones({size}, dtype));
  bias = register_parameter("bias", zeros({size}, dtype));
}

Variable LayerNorm::forward(const Variable& x) {
  return autograd::layer_norm(x, weight, bias, eps_);
}

Dropout::Dropout(double p, uint64_t seed) : p_(p), random_(register_random("random", Random(seed))) {
  check(p >= 0 && p < 1, "dropout: expected 0 <= p < 1, found {}", p);
}

Variable Dropout::forward(const Variable& x) {
  if (!training() || p_ == 0) return x;
  const Tensor mask = Tensor::empty(x.shape(), x.dtype(), x.value().device());
  random_.dropout_mask(mask, p_);
  return autograd::mul(x, mask);
}

namespace {

/// Of this very type: a class derived from it may do something else.
template <class T>
bool is(const Module& module) {
  return typeid(module) == typeid(T);
}

}  // namespace

Variable Sequential::forward(const Variable& x) {
  Variable y = x;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (i + 1 < layers_.size() && is<Linear>(*layers_[i]) && is<ReLU>(*layers_[i + 1])) {
      const auto& linear = static_cast<const Linear&>(*layers_[i]);
      y = autograd::linear_relu(y, linear.weight, linear.bias);
      ++i;
    } else {
      y = layers_[i]->forward(y);
    }
  }
  return y;
}

}  // namespace qinco::nn
