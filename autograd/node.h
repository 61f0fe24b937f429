// The graph behind variables: for the engine and for operations, with record() those of other programs too; models need
// none of it.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "autograd/variable.h"
#include "kernels/check.h"

namespace qinco::autograd {

/// What a backward function has computed for the inputs of its node.
class InputGradients {
 public:
  explicit InputGradients(const Node& node);

  /// False if input i is a constant: its gradient would be thrown away.
  bool needed(size_t i) const { return needed_[i]; }
  /// Gives the gradient of input i: the input's dtype, and its shape or one that it broadcasts to. Throws Error where
  /// there is no input i.
  void set(size_t i, Tensor gradient) {
    check(i < gradients_.size(), "backward: gradient {} of {} inputs", i, gradients_.size());
    gradients_[i] = std::move(gradient);
  }
  Tensor take(size_t i) { return std::move(gradients_[i]); }

 private:
  std::vector<Tensor> gradients_;
  std::vector<bool> needed_;
};

/// A variable's state, without the value of an operation's result: that lives as long as the variables that have it,
/// and what backward functions have saved. Inner nodes keep their inputs' nodes alive until backward() has passed.
struct Node {
  explicit Node(const Tensor& v) : shape(v.shape()), dtype(v.dtype()) {}
  virtual ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  /// Computes the gradients of the inputs from that of the result; frees what it saved. Leaves have none.
  virtual void backward(const Tensor& /*gradient*/, InputGradients& /*into*/) {}

  Tensor value;  // of a leaf
  Shape shape;   // of the value
  DType dtype;
  Tensor grad;              // of a leaf: accumulated; of an inner node: set only while backward() runs
  const char* op = "leaf";  // the operation's name, for messages
  bool requires_grad = false;
  bool is_leaf = true;
  bool freed = false;  // backward() has passed here
  // 1 + the largest level of the inputs: an order in which every node comes after those it depends on.
  int64_t level = 0;
  std::vector<std::shared_ptr<Node>> inputs;
};

/// A node whose backward function is F(const Tensor& gradient, InputGradients& into).
template <class F>
struct OpNode final : Node {
  OpNode(const Tensor& v, F f) : Node(v), function(std::make_unique<F>(std::move(f))) {}
  void backward(const Tensor& gradient, InputGradients& into) override {
    const std::unique_ptr<F> once = std::move(function);  // what it captured goes when it is done
    (*once)(gradient, into);
  }
  std::unique_ptr<F> function;
};

/// What a gradient of `of` needs to be kept; undefined where none is wanted.
inline Tensor kept_for(const Variable& of, const Tensor& value) {
  return of.requires_grad() ? value : Tensor();
}

/// True if an operation on these inputs must be recorded.
bool must_record(const std::vector<Variable>& inputs);

/// Connects the new node of a result `value` to its inputs.
Variable connect(const char* op, std::shared_ptr<Node> node, Tensor value, const std::vector<Variable>& inputs);

/// The result `value` of an operation on `inputs` (undefined ones are constants), with its backward function:
///     return record("mul", mul(a.value(), b.value()), {a, b}, [...](const Tensor& g, InputGradients& into) {
///       if (into.needed(0)) into.set(0, ...);
///     });
template <class F>
Variable record(const char* op, Tensor value, const std::vector<Variable>& inputs, F backward) {
  if (!must_record(inputs)) return Variable(std::move(value));
  auto node = std::make_shared<OpNode<F>>(value, std::move(backward));
  return connect(op, std::move(node), std::move(value), inputs);
}

/// Runs backward() of every node that `root` depends on, from `seed`, and frees the graph.
void run_backward(const std::shared_ptr<Node>& root, const Tensor& seed);

}  // namespace qinco::autograd
