#include "autograd/variable.h"

#include <utility>

#include "autograd/node.h"
#include "tensor/create.h"

namespace qinco::autograd {

namespace {

thread_local bool recording_off = false;

const Node& deref(const std::shared_ptr<Node>& node) {
  check(node != nullptr, "variable: undefined");
  return *node;
}

void check_trainable(const Tensor& value) {
  check(is_floating(value.dtype()), "variable: a gradient needs f32 or f64, found {}", name(value.dtype()));
}

// The value of a leaf that an optimiser may write to: external memory may be a file mapped for reading.
Tensor writable(Tensor value) {
  return value.is_external() ? value.clone() : std::move(value);
}

}  // namespace

Variable::Variable(Tensor value, bool requires_grad) {
  check(value.defined(), "variable: the tensor is undefined");
  if (requires_grad) check_trainable(value);
  node_ = std::make_shared<Node>(value);
  node_->value = requires_grad ? writable(std::move(value)) : std::move(value);
  node_->requires_grad = requires_grad;
}

const Tensor& Variable::value() const {
  return deref(node_).is_leaf ? node_->value : value_;
}
bool Variable::requires_grad() const {
  return deref(node_).requires_grad;
}
bool Variable::is_leaf() const {
  return deref(node_).is_leaf;
}

void Variable::set_requires_grad(bool on) {
  const Node& node = deref(node_);
  check(node.is_leaf, "set_requires_grad: the variable is the result of {}", node.op);
  if (on) {
    check_trainable(node.value);
    node_->value = writable(node.value);
  } else {
    node_->grad = Tensor();
  }
  node_->requires_grad = on;
}

void Variable::set_value(const Tensor& value) {
  const Node& node = deref(node_);
  check(node.is_leaf, "set_value: the variable is the result of {}", node.op);
  check(value.defined(), "set_value: the tensor is undefined");
  check(value.shape() == node.value.shape() && value.dtype() == node.value.dtype(),
        "set_value: expected {} {}, found {} {}", name(node.value.dtype()), node.value.shape(), name(value.dtype()),
        value.shape());
  if (value.device() != node.value.device()) node_->grad = Tensor();
  node_->value = node.requires_grad ? writable(value) : value;
}

Tensor Variable::grad() const {
  return deref(node_).is_leaf ? node_->grad : Tensor();
}

void Variable::set_grad(const Tensor& grad) {
  const Node& node = deref(node_);
  check(node.is_leaf && (node.requires_grad || !grad.defined()),
        "set_grad: the variable is no leaf that requires a gradient");
  check(!grad.defined() || (grad.shape() == node.value.shape() && grad.dtype() == node.value.dtype()),
        "set_grad: expected {} {}, found {} {}", name(node.value.dtype()), node.value.shape(), name(grad.dtype()),
        grad.shape());
  node_->grad = grad;
}

void Variable::zero_grad() {
  deref(node_);
  node_->grad = Tensor();
}

void Variable::backward() const {
  const Tensor& v = value();
  check(v.numel() == 1, "backward: expected one element, found shape {}; give a seed", v.shape());
  backward(ones(v.shape(), v.dtype(), v.device()));
}

void Variable::backward(const Tensor& seed) const {
  const Tensor& v = value();
  check(requires_grad(), "backward: the variable does not depend on one that requires a gradient");
  check(seed.defined(), "backward: the seed is undefined");
  check(seed.shape() == v.shape() && seed.dtype() == v.dtype(), "backward: expected a seed {} {}, found {} {}",
        name(v.dtype()), v.shape(), name(seed.dtype()), seed.shape());
  const NoGrad no_grad;
  run_backward(node_, seed);
}

NoGrad::NoGrad() : outer_(recording_off) {
  recording_off = true;
}
NoGrad::~NoGrad() {
  recording_off = outer_;
}
bool NoGrad::active() {
  return recording_off;
}

Variable scalar_like(double value, const Variable& x) {
  return Variable(qinco::scalar_like(value, x.value()));
}

}  // namespace qinco::autograd
