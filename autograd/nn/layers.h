// The usual layers, with PyTorch's parameter names and default initialisation.
//
// Their public variables are handles to the parameters that the module has registered. For other values use
// Variable::set_value or Module::load: a variable assigned to a handle would be computed with, but neither trained nor
// saved. To share a parameter (tied weights), make the second layer from the first one's:
//     nn::Embedding& tokens = register_module("tokens", nn::Embedding(count, d, random));
//     nn::Linear& scores = register_module("scores", nn::Linear(tokens.weight));
#pragma once

#include <string>
#include <utility>

#include "autograd/nn/module.h"
#include "autograd/ops.h"
#include "tensor/random.h"

namespace qinco::nn {

/// y = x W^T + b. `weight` [out,in] and `bias` [out] start uniform in +-1/sqrt(in).
class Linear : public Layer {
 public:
  Linear(int64_t in, int64_t out, Random& random) : Linear(in, out, true, random) {}
  Linear(int64_t in, int64_t out, bool with_bias, Random& random, DType dtype = DType::f32);
  /// Starts from values that exist, which are copied unless they are moved here: w [out,in] and b [out], of one dtype,
  /// or b undefined.
  explicit Linear(Tensor w, Tensor b = {});
  /// Of parameters that exist, which it shares, as above.
  explicit Linear(const Variable& w, const Variable& b = {});
  Variable forward(const Variable& x) override;

  Variable weight;
  Variable bias;  // undefined without bias
};

/// Rows of `weight` [count,d], which starts normal(0, 1), by index.
class Embedding : public Module {
 public:
  Embedding(int64_t count, int64_t d, Random& random, DType dtype = DType::f32);
  /// The rows from a table that exists, which is copied unless it is moved here.
  explicit Embedding(Tensor table);
  /// Of a parameter [count,d] that exists, which it shares.
  explicit Embedding(const Variable& table);
  /// ids i32 of any shape: [ids.shape.., d].
  Variable operator()(const Tensor& ids) const;

  Variable weight;
};

/// Layer normalisation over the last dimension; `weight` starts at 1, `bias` at 0.
class LayerNorm : public Layer {
 public:
  explicit LayerNorm(int64_t size, double eps = 1e-5, DType dtype = DType::f32);
  Variable forward(const Variable& x) override;

  Variable weight;
  Variable bias;

 private:
  double eps_;
};

/// In training, zeroes each element with probability p and scales the rest by 1/(1-p); otherwise the identity. In
/// random_state() its generator is "random".
class Dropout : public Layer {
 public:
  /// Layers of one seed draw the same masks, so that what comes after one another is zeroed in the same places.
  Dropout(double p, uint64_t seed);
  /// Takes its seed from `random`: every layer another one.
  Dropout(double p, Random& random) : Dropout(p, random.next64()) {}
  Variable forward(const Variable& x) override;

 private:
  double p_;
  Random& random_;  // the module's, which is where it is after a move too
};

#define QINCO_ACTIVATION(Name, op)                                           \
  class Name : public Layer {                                                \
   public:                                                                   \
    Variable forward(const Variable& x) override { return autograd::op(x); } \
  };
QINCO_ACTIVATION(ReLU, relu)
QINCO_ACTIVATION(GELU, gelu)
QINCO_ACTIVATION(Tanh, tanh)
QINCO_ACTIVATION(Sigmoid, sigmoid)
QINCO_ACTIVATION(SiLU, silu)
#undef QINCO_ACTIVATION

/// Layers applied one after the other, named "0", "1", ...; a Linear followed by a ReLU runs as one fused pass.
class Sequential : public Layer {
 public:
  template <class... Layers>
  explicit Sequential(Layers&&... layers) {
    (append(std::forward<Layers>(layers)), ...);
  }
  /// Adds a layer at the end and returns it where it will stay.
  template <class L>
  L& append(L&& layer) {
    L& added = register_module(std::to_string(layers_.size()), std::forward<L>(layer));
    layers_.push_back(&added);
    return added;
  }
  Variable forward(const Variable& x) override;

 private:
  std::vector<Layer*> layers_;
};

}  // namespace qinco::nn
