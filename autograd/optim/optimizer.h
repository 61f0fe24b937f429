// Optimisers: SGD, Adam, AdamW, each one fused kernel per parameter (on CUDA Adam: for all of them).
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/variable.h"
#include "tensor/safetensors.h"

namespace qinco::optim {

using autograd::Variable;

/// What all have in common; moments lie on the device of their parameter. Parameters without a gradient, so all that
/// are frozen (Variable::set_requires_grad), are left alone by step(), weight decay included, and keep their moments.
class Optimizer {
 public:
  /// `parameters` are contiguous leaves of f32 or f64. They may be frozen, and take part from when they no longer are,
  /// but not all of them: nothing to train is probably a mistake, and an error, as an empty list is.
  Optimizer(std::vector<Variable> parameters, double lr);
  virtual ~Optimizer() = default;

  /// Updates every parameter that has a gradient, in place. Error where one is no longer contiguous, or not on its
  /// gradient's device; then nothing has changed.
  void step();
  void zero_grad();
  double lr() const { return lr_; }
  void set_lr(double lr);
  /// Forgets moments and step counts, as if new; lr stays.
  void reset_state();

  /// lr, step counts and moments (copies on the CPU), so that load_state() and the same gradients give the same bits.
  TensorMap state() const;
  /// Error if the state is for other parameters or another optimiser; then nothing has changed.
  void load_state(const TensorMap& state);

 protected:
  /// One parameter's update number `step` >= 1.
  struct Update {
    Tensor value, grad;
    const std::vector<Tensor>& moments;
    int64_t step;
  };
  virtual void update(const std::vector<Update>& updates) = 0;
  /// The names of the moments: "m", "v" for Adam.
  virtual std::vector<const char*> moment_names() const = 0;

 private:
  struct Slot {
    Variable parameter;
    std::vector<Tensor> moments;  // zero until the first step; made then
    int64_t steps = 0;
  };
  std::vector<Slot> slots_;
  double lr_;
};

struct SgdOptions {
  double lr = 1e-2, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};

/// Stochastic gradient descent in PyTorch's formulation (kernels.h: SgdStep). Error unless 0 <= momentum < 1, with
/// nesterov above 0, and weight_decay is finite and >= 0.
class SGD : public Optimizer {
 public:
  SGD(std::vector<Variable> parameters, const SgdOptions& options);

 protected:
  void update(const std::vector<Update>& updates) override;
  std::vector<const char*> moment_names() const override;

 private:
  SgdOptions options_;
};

struct AdamOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};

/// Adam (Kingma & Ba 2015); weight decay is an L2 term of the gradient.
class Adam : public Optimizer {
 public:
  Adam(std::vector<Variable> parameters, const AdamOptions& options = {})
      : Adam(std::move(parameters), options, false) {}

 protected:
  Adam(std::vector<Variable> parameters, const AdamOptions& options, bool decoupled);
  void update(const std::vector<Update>& updates) override;
  std::vector<const char*> moment_names() const override { return {"m", "v"}; }

 private:
  AdamOptions options_;
  bool decoupled_;
};

/// PyTorch's defaults, which decay where Adam's do not.
struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2;
};

/// AdamW (Loshchilov & Hutter 2019): weight decay apart from the moments.
class AdamW : public Adam {
 public:
  AdamW(std::vector<Variable> parameters, const AdamWOptions& o = {})
      : Adam(std::move(parameters), {o.lr, o.beta1, o.beta2, o.eps, o.weight_decay}, true) {}
};

/// Scales all gradients so that their joint L2 norm is at most `max_norm`; returns the norm before. Where that is NaN,
/// all gradients become NaN, as in PyTorch. Throws Error where max_norm is below 0 or NaN, or a parameter there twice.
double clip_grad_norm(const std::vector<Variable>& parameters, double max_norm);

}  // namespace qinco::optim
