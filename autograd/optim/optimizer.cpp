#include "autograd/optim/optimizer.h"

#include <cmath>
#include <set>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "tensor/create.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco::optim {

namespace {

using kernels::Context;

// "m.3": the moment m of parameter 3.
std::string key(const char* moment, size_t index) {
  return fmt::format("{}.{}", moment, index);
}

const Tensor& require(const TensorMap& state, const std::string& name, DType dtype, const Shape& shape) {
  const auto found = state.find(name);
  check(found != state.end(), "optimizer: state {} is missing", name);
  const Tensor& value = found->second;
  check(value.dtype() == dtype && value.shape() == shape, "optimizer: state {}: expected {} {}, found {} {}", name,
        qinco::name(dtype), shape, qinco::name(value.dtype()), value.shape());
  return value;
}

}  // namespace

Optimizer::Optimizer(std::vector<Variable> parameters, double lr) : lr_(lr) {
  set_lr(lr);
  std::set<const autograd::Node*> seen;
  check(!parameters.empty(), "optimizer: no parameters: a module has those that it has registered, and its children's");
  bool some = false;
  for (Variable& parameter : parameters) {
    check(parameter.is_leaf() && is_floating(parameter.dtype()) && parameter.value().is_contiguous(),
          "optimizer: expected contiguous leaves of f32 or f64");
    some |= parameter.requires_grad();
    check(seen.insert(parameter.node().get()).second, "optimizer: parameter {} is there twice", slots_.size());
    slots_.push_back({std::move(parameter), {}, 0});
  }
  check(some, "optimizer: none of the {} parameters requires a gradient", slots_.size());
}

void Optimizer::set_lr(double lr) {
  check(std::isfinite(lr) && lr >= 0, "optimizer: expected a learning rate >= 0, found {}", lr);
  lr_ = lr;
}

void Optimizer::zero_grad() {
  for (Slot& slot : slots_) slot.parameter.zero_grad();
}

void Optimizer::reset_state() {
  for (Slot& slot : slots_) {
    slot.moments.clear();
    slot.steps = 0;
  }
}

void Optimizer::step() {
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Tensor grad = slots_[i].parameter.grad(), &value = slots_[i].parameter.value();
    if (!grad.defined()) continue;
    check(value.is_contiguous(), "optimizer: parameter {} of shape {} is not contiguous", i, value.shape());
    check(grad.device() == value.device(), "optimizer: parameter {} is on {}, its gradient on {}", i, value.device(),
          grad.device());
  }
  const size_t moments = moment_names().size();
  std::vector<Update> updates;
  for (Slot& slot : slots_) {
    const Tensor grad = slot.parameter.grad(), &value = slot.parameter.value();
    if (!grad.defined()) continue;
    for (Tensor& moment : slot.moments) moment = moment.to(value.device());
    while (slot.moments.size() < moments) slot.moments.push_back(zeros_like(value));
    updates.push_back({value, grad.contiguous(), slot.moments, slot.steps + 1});
  }
  for (Slot& slot : slots_) slot.steps += slot.parameter.grad().defined();
  update(updates);
}

TensorMap Optimizer::state() const {
  TensorMap state;
  state["lr"] = scalar(lr_, DType::f64);
  std::vector<int64_t> steps;
  const std::vector<const char*> names = moment_names();
  for (size_t i = 0; i < slots_.size(); ++i) {
    steps.push_back(slots_[i].steps);
    for (size_t j = 0; j < slots_[i].moments.size(); ++j)
      state[key(names[j], i)] = slots_[i].moments[j].clone(Device{});
  }
  state["steps"] = from_vector(steps);
  return state;
}

void Optimizer::load_state(const TensorMap& state) {
  const std::vector<const char*> names = moment_names();
  const Tensor steps = require(state, "steps", DType::i64, {static_cast<int64_t>(slots_.size())});
  const double lr = require(state, "lr", DType::f64, {}).item<double>();
  std::set<std::string> expected{"steps", "lr"};
  std::vector<Slot> loaded;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot slot{slots_[i].parameter, {}, steps.data<int64_t>()[i]};
    check(slot.steps >= 0, "optimizer: state steps: {} for parameter {}", slot.steps, i);
    const Tensor& value = slot.parameter.value();
    for (size_t j = 0; j < names.size() && slot.steps > 0; ++j) {
      const std::string name = key(names[j], i);
      slot.moments.push_back(require(state, name, value.dtype(), value.shape()).clone(value.device()));
      expected.insert(name);
    }
    loaded.push_back(std::move(slot));
  }
  for (const auto& [name, value] : state) check(expected.count(name) > 0, "optimizer: unexpected state {}", name);
  set_lr(lr);
  slots_ = std::move(loaded);
}

SGD::SGD(std::vector<Variable> parameters, const SgdOptions& options)
    : Optimizer(std::move(parameters), options.lr), options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "sgd: expected a momentum in [0,1), found {}", options.momentum);
  check(std::isfinite(options.weight_decay) && options.weight_decay >= 0, "sgd: expected a weight decay >= 0, found {}",
        options.weight_decay);
  check(!options.nesterov || options.momentum > 0, "sgd: nesterov needs a momentum above 0");
}

std::vector<const char*> SGD::moment_names() const {
  if (options_.momentum == 0) return {};
  return {"momentum"};
}

void SGD::update(const std::vector<Update>& updates) {
  for (const Update& u : updates) {
    const kernels::SgdStep options{lr(), options_.momentum, options_.weight_decay, options_.nesterov};
    const Context& context = Context::of(u.value.device());
    floating_dtype("sgd", u.value.dtype(), [&]<class T>() {
      kernels::table<T>(context.device)
          .sgd(context, options, u.value.numel(), u.value.data<T>(), u.grad.data<T>(),
               u.moments.empty() ? nullptr : u.moments[0].data<T>());
    });
  }
}

Adam::Adam(std::vector<Variable> parameters, const AdamOptions& options, bool decoupled)
    : Optimizer(std::move(parameters), options.lr), options_(options), decoupled_(decoupled) {
  const double beta1 = options.beta1, beta2 = options.beta2, decay = options.weight_decay;
  check(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "adam: expected betas in [0,1), found {} and {}", beta1,
        beta2);
  check(std::isfinite(options.eps) && options.eps >= 0, "adam: expected eps >= 0, found {}", options.eps);
  check(std::isfinite(decay) && decay >= 0, "adam: expected a weight decay >= 0, found {}", decay);
}

// Neighbours that are at the same step, of one dtype and on one device, go to the kernel together.
void Adam::update(const std::vector<Update>& updates) {
  for (size_t begin = 0; begin < updates.size();) {
    const Update& first = updates[begin];
    const Context& context = Context::of(first.value.device());
    size_t end = begin;
    floating_dtype("adam", first.value.dtype(), [&]<class T>() {
      std::vector<kernels::AdamParameter<T>> together;
      for (; end < updates.size(); ++end) {
        const auto& [value, grad, moments, step] = updates[end];
        if (step != first.step || value.dtype() != first.value.dtype() || value.device() != first.value.device()) break;
        together.push_back(
            {value.numel(), value.data<T>(), grad.data<T>(), moments[0].data<T>(), moments[1].data<T>()});
      }
      const kernels::AdamStep options{lr(),       options_.beta1, options_.beta2, options_.eps, options_.weight_decay,
                                      decoupled_, first.step};
      kernels::table<T>(context.device).adam(context, options, static_cast<int64_t>(together.size()), together.data());
    });
    begin = end;
  }
}

double clip_grad_norm(const std::vector<Variable>& parameters, double max_norm) {
  check(max_norm >= 0, "clip_grad_norm: expected a norm >= 0, found {}", max_norm);
  double total = 0;
  std::set<const autograd::Node*> seen;
  for (const Variable& parameter : parameters) {
    check(seen.insert(parameter.node().get()).second, "clip_grad_norm: a parameter is there twice");
    const Tensor grad = parameter.grad();
    if (grad.defined()) total += sum_squared_difference(grad, scalar_like(0, grad).expand(grad.shape()));
  }
  const double norm = std::sqrt(total);
  if (!(norm <= max_norm))
    for (Variable parameter : parameters)
      if (parameter.grad().defined()) parameter.set_grad(scale(parameter.grad(), max_norm / norm));
  return norm;
}

}  // namespace qinco::optim
