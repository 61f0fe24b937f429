// Variables: tensors that remember how they were made, so that backward() can differentiate through them.
//
// A Variable is a handle: copies are the same variable. Operations (autograd/ops.h) compute at once and, where an input
// requires a gradient, note a node with its backward function; backward() walks these nodes once and frees them. A node
// keeps what its backward function reads, so an intermediate value that none reads goes with its last variable.
#pragma once

#include <memory>

#include "tensor/tensor.h"

namespace qinco::autograd {

struct Node;

class Variable {
 public:
  /// An undefined variable (an absent bias, say).
  Variable() = default;
  /// A leaf on `value`'s memory. One that requires a gradient has a floating dtype and gets grad() from backward(); as
  /// it is there to be written to, it copies external memory (a mapped file).
  Variable(Tensor value, bool requires_grad = false);  // NOLINT: tensors are constants where a variable is expected

  bool defined() const { return node_ != nullptr; }
  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t size(int64_t dim) const { return value().size(dim); }
  DType dtype() const { return value().dtype(); }
  /// The value of a variable with one element.
  double item() const { return value().item<double>(); }
  bool requires_grad() const;
  /// Freezes a leaf (false), or has operations from now on give it a gradient (true). A frozen one keeps its value,
  /// loses the gradient it has, and gets none, from operations before either. True takes a floating dtype and copies
  /// external memory, as the constructor. Error for the result of an operation: detach() it.
  void set_requires_grad(bool on);
  /// True for a variable that no operation made.
  bool is_leaf() const;

  /// Replaces a leaf's value by `value`, which it then shares, or where the constructor would, by a copy; shape and
  /// dtype must stay, the device may change, which drops the gradient. For in-place updates write through value()'s
  /// storage, but not between an operation on the variable and its backward(): what that reads is this memory, not a
  /// copy, and gradients would be wrong without a word.
  void set_value(const Tensor& value);
  /// The accumulated gradient of a leaf; undefined if there is none. The tensor is the variable's own, not a copy.
  Tensor grad() const;
  /// Sets or, undefined, drops it. Error for a gradient of a variable that requires none.
  void set_grad(const Tensor& grad);
  void zero_grad();

  /// Adds d(this)/d(leaf) to grad() of every leaf that this variable depends on; this has one element. Frees the graph.
  void backward() const;
  /// The same for any shape, with `seed` as the gradient of this variable.
  void backward(const Tensor& seed) const;

  /// The same value as a constant.
  Variable detach() const { return Variable(value()); }

  /// For the engine and the operations.
  const std::shared_ptr<Node>& node() const { return node_; }
  /// The result of an operation.
  Variable(std::shared_ptr<Node> node, Tensor value) : node_(std::move(node)), value_(std::move(value)) {}

 private:
  std::shared_ptr<Node> node_;
  Tensor value_;  // of an operation's result; a leaf's, which may be replaced, is its node's
};

/// A constant of shape [] holding `value`, of x's dtype and on its device.
Variable scalar_like(double value, const Variable& x);

/// While one is alive in a thread, the operations of that thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

  static bool active();

 private:
  bool outer_;
};

}  // namespace qinco::autograd
