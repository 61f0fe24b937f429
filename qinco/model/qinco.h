// QINCo and QINCo-LR (Huijben et al., "Residual Quantization with Implicit Neural Codebooks", ICML 2024): a residual
// quantizer whose codebooks, but the first, are made by a network from what is decoded so far.
#pragma once

#include <cstdint>
#include <vector>

#include "qinco/model/step_network.h"

namespace qinco {

/// The trainable model. Parameters: codebook0.weight [K,d] and those of the StepNetworks step1 .. step{M-1}.
/// For encoding and fast decoding, compile it: qinco/codec/codec.h.
class Qinco : public nn::Module {
 public:
  /// Linear layers start as PyTorch's default, all codebooks at 0. Throws Error for a config that is not valid.
  Qinco(const QincoConfig& config, Random& random, DType dtype = DType::f32);

  const QincoConfig& config() const { return config_; }
  /// C_m [K,d], m = 0..M-1.
  const Variable& codebook(int64_t m) const { return m == 0 ? codebook0_ : step(m).codebook; }
  /// m = 1..M-1.
  const StepNetwork& step(int64_t m) const { return *steps_[static_cast<size_t>(m - 1)]; }
  /// Sets all codebooks from [M,K,d].
  void set_codebooks(const Tensor& codebooks);

  /// codes i32 [n,M'], 1 <= M' <= M -> xhat_0 .. xhat_{M'-1}, each [n,d] in scaled space (x / db_scale).
  std::vector<Variable> decode_partials(const Tensor& codes) const;

  /// The training loss: sum_m ||xhat_m - x||^2 / (n*d) for x [n,d] in scaled space and its codes i32 [n,M].
  Variable loss(const Tensor& x, const Tensor& codes) const;

 private:
  QincoConfig config_;
  Variable codebook0_;
  std::vector<const StepNetwork*> steps_;
};

}  // namespace qinco
