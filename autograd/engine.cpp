#include <algorithm>
#include <cassert>
#include <cstdint>

#include "autograd/node.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

// Keeps `node` alive no longer than its last other owner, and without recursion: the inputs that only it holds are
// moved to a list and freed there. A chain of a million nodes needs no more stack than one.
void release_inputs(std::vector<std::shared_ptr<Node>>& inputs) {
  std::vector<std::shared_ptr<Node>> pending;
  pending.swap(inputs);
  while (!pending.empty()) {
    const std::shared_ptr<Node> node = std::move(pending.back());
    pending.pop_back();
    if (!node || node.use_count() != 1) continue;
    for (auto& input : node->inputs) pending.push_back(std::move(input));
    node->inputs.clear();
  }
}

// A gradient for `node` in its exact shape: sums over what was broadcast, after checking that it fits.
Tensor fitted(const Node& from, const Node& node, Tensor gradient) {
  check(gradient.defined(), "{}: backward gave no gradient for an input of shape {}", from.op, node.shape);
  check(gradient.dtype() == node.dtype, "{}: backward gave a gradient of {} for an input of {}", from.op,
        name(gradient.dtype()), name(node.dtype));
  if (gradient.shape() == node.shape) return gradient;
  check(broadcasts_to(node.shape, gradient.shape()),
        "{}: backward gave a gradient of shape {} for an input of shape {}", from.op, gradient.shape(), node.shape);
  return sum_to(gradient, node.shape);
}

// node.grad += gradient. The sum is made in place only in memory that nobody else can see: operations may pass the
// gradient they got on to several inputs. A leaf, which may keep its gradient for long, does not keep a larger one's
// memory for a view of it.
void accumulate(Node& node, Tensor gradient) {
  if (!node.grad.defined()) {
    const bool keep = !node.is_leaf || (gradient.owns_storage_alone() && gradient.spans_storage());
    node.grad = keep ? std::move(gradient) : gradient.clone();
  } else if (node.grad.owns_storage_alone() && node.grad.is_contiguous()) {
    axpby(1, gradient, 1, node.grad);
  } else {
    node.grad = add(node.grad, gradient);
  }
}

/// The nodes whose gradient is not yet complete, highest level first; first in, first out within a level, so that the
/// order of additions is the same in every run.
class Queue {
 public:
  void push(const std::shared_ptr<Node>& node) {
    items_.push_back({node, arrivals_++});
    std::push_heap(items_.begin(), items_.end(), later);
  }
  std::shared_ptr<Node> pop() {
    std::pop_heap(items_.begin(), items_.end(), later);
    std::shared_ptr<Node> node = std::move(items_.back().node);
    items_.pop_back();
    return node;
  }
  bool empty() const { return items_.empty(); }
  void drop_gradients() {
    for (auto& item : items_) item.node->grad = Tensor();
  }

 private:
  struct Item {
    std::shared_ptr<Node> node;
    int64_t arrival;
  };
  static bool later(const Item& a, const Item& b) {
    return a.node->level != b.node->level ? a.node->level < b.node->level : a.arrival > b.arrival;
  }
  std::vector<Item> items_;
  int64_t arrivals_ = 0;
};

// One inner node: gradient in, gradients of its inputs out; then what it held is freed.
void step(Node& node, Queue& queue) {
  InputGradients gradients(node);
  {
    const Tensor gradient = std::exchange(node.grad, Tensor());
    check(!node.freed, "backward: the graph of {} was freed by an earlier backward()", node.op);
    node.freed = true;  // where it throws, too: what it held is gone
    node.backward(gradient, gradients);
  }
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (!gradients.needed(i)) continue;
    Node& input = *node.inputs[i];
    Tensor gradient = fitted(node, input, gradients.take(i));
    const bool first = !input.is_leaf && !input.grad.defined();
    accumulate(input, std::move(gradient));
    if (first) queue.push(node.inputs[i]);
  }
  release_inputs(node.inputs);
}

}  // namespace

InputGradients::InputGradients(const Node& node) : gradients_(node.inputs.size()) {
  needed_.reserve(node.inputs.size());
  for (const auto& input : node.inputs) needed_.push_back(input && input->requires_grad);
}

Node::~Node() {
  release_inputs(inputs);
}

bool must_record(const std::vector<Variable>& inputs) {
  return !NoGrad::active() &&
         std::any_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.defined() && v.requires_grad(); });
}

Variable connect(const char* op, std::shared_ptr<Node> node, Tensor value, const std::vector<Variable>& inputs) {
  node->op = op;
  node->requires_grad = true;
  node->is_leaf = false;
  node->inputs.reserve(inputs.size());
  for (const Variable& input : inputs) {
    // A constant's node would only hold its memory: what backward needs of it, the function has saved.
    const bool constant = !input.defined() || !input.requires_grad();
    node->inputs.push_back(constant ? nullptr : input.node());
    if (!constant) node->level = std::max(node->level, input.node()->level + 1);
  }
  return {std::move(node), std::move(value)};
}

void run_backward(const std::shared_ptr<Node>& root, const Tensor& seed) {
  accumulate(*root, seed);
  if (root->is_leaf) return;
  Queue queue;
  queue.push(root);
  try {
    while (!queue.empty()) {
      const std::shared_ptr<Node> node = queue.pop();
      step(*node, queue);
    }
  } catch (...) {
    queue.drop_gradients();
    throw;
  }
}

}  // namespace qinco::autograd
