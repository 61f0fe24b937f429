// QINCo and QINCo-LR (Huijben et al., "Residual Quantization with Implicit Neural Codebooks", ICML 2024): a residual
// quantizer whose codebooks, but the first, are made by a network from what is decoded so far. In IVF-QINCo the first
// are the fixed centroids of a coarse quantizer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "qinco/model/step_network.h"

namespace qinco {

/// The trainable model. Parameters: codebook0.weight [K,d] and those of the StepNetworks step1 .. step{M-1}; with a
/// coarse quantizer codebook0.weight [K_ivf,d], which gets no gradient, and step0 .. step{M-1}.
/// For encoding and fast decoding, compile it: qinco/codec/codec.h.
class Qinco : public nn::Module {
 public:
  /// Linear layers start as PyTorch's default, all codebooks at 0. Throws Error for a config that is not valid.
  Qinco(const QincoConfig& config, Random& random, DType dtype = DType::f32);

  const QincoConfig& config() const { return config_; }
  /// Where the parameters are: the CPU, until Module::to moves them.
  Device device() const { return codebook0_.value().device(); }
  /// C_m [K,d], m = 0..codes()-1; C_0 is [K0(),d].
  const Variable& codebook(int64_t m) const { return m == 0 ? codebook0_ : step(m).codebook; }
  /// m = 1..codes()-1.
  const StepNetwork& step(int64_t m) const { return *steps_[static_cast<size_t>(m - 1)]; }
  /// Sets all codebooks of K codewords from [M,K,d].
  void set_codebooks(const Tensor& codebooks);
  /// Sets the coarse quantizer from [K_ivf,d].
  void set_centroids(const Tensor& centroids);

  /// codes i32 [n,M'], 1 <= M' <= codes() -> xhat_0 .. xhat_{M'-1}, each [n,d] in scaled space (x / db_scale).
  std::vector<Variable> decode_partials(const Tensor& codes) const;

  /// The training loss: sum_m ||xhat_m - x||^2 / (n*d) for x [n,d] in scaled space and its codes i32 [n,codes()]; of
  /// fewer codes, [n,M'], the sum over those.
  Variable loss(const Tensor& x, const Tensor& codes) const;

 private:
  QincoConfig config_;
  Variable codebook0_;
  std::vector<const StepNetwork*> steps_;
};

/// Calls visit(name, shape) for every parameter that a Qinco of this valid config has, without making one; what it
/// throws ends it.
void for_each_parameter(const QincoConfig& config,
                        const std::function<void(const std::string& name, const Shape& shape)>& visit);

}  // namespace qinco
