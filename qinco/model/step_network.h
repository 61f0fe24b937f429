// The network of one QINCo step: the codeword that the step adds, made from a plain codeword and what is there so far.
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/nn/module.h"
#include "tensor/random.h"

namespace qinco {

using autograd::Variable;

/// The sizes of a model.
struct QincoConfig {
  int64_t d = 0;         // dimension of the vectors
  int64_t M = 8;         // codes a vector
  int64_t K = 256;       // codewords a step, a power of two
  int64_t L = 2;         // residual blocks of a step
  int64_t h = 256;       // their hidden width
  bool lowrank = false;  // QINCo-LR: the concat block through h instead of d x d
  float db_scale = 1;    // the network works on x / db_scale
  int64_t K_ivf = 0;     // IVF-QINCo: centroids of the coarse quantizer, whose id comes before the M codes; 0: none

  /// Entries of a code: M, or with a coarse quantizer M + 1. Every one but the first has a step network.
  int64_t codes() const { return M + (K_ivf > 0 ? 1 : 0); }
  /// FLOP that encoding takes per vector: those of its candidates, which are nearly all.
  double encode_flops() const {
    return 2.0 * static_cast<double>(K) * static_cast<double>(d) * static_cast<double>(h) *
           static_cast<double>((2 * L - 1) * (codes() - 1));
  }
  /// What the first entry counts: centroids or codewords.
  int64_t K0() const { return K_ivf > 0 ? K_ivf : K; }

  /// Throws Error naming the value unless every one is in range: d, M, L, h >= 1 and bounded, K a power of two in
  /// 2..65536, db_scale finite and > 0, K_ivf 0 to 2^27 and not together with lowrank.
  void validate() const;
  /// Elements of all parameters; throws Error on overflow.
  int64_t parameter_count() const;
  /// Whether all but db_scale is equal.
  bool same_sizes(const QincoConfig& other) const;
  /// "qinco", "qinco-lr" or "ivf-qinco".
  const char* variant() const { return K_ivf > 0 ? "ivf-qinco" : lowrank ? "qinco-lr" : "qinco"; }
};

/// f(c, xhat) of one step and its codebook. Parameters: codebook.weight; MLPconcat.weight and .bias, or low rank
/// MLPconcat.0.weight and MLPconcat.1.weight; residual_block{l}.0.weight and residual_block{l}.2.weight, l = 0..L-1.
class StepNetwork : public nn::Module {
 public:
  /// Linear layers start as PyTorch's default, the codebook at 0.
  StepNetwork(const QincoConfig& config, Random& random, DType dtype);

  /// c, xhat [n,d] -> z [n,d]:  z = c + W_cat [c ; xhat] + b  (low rank: c + W_B W_A [c ; xhat]), then for each block
  /// z += W_down relu(W_up z).
  Variable forward(const Variable& c, const Variable& xhat) const;

  Variable codebook;           // [K,d]
  Variable concat;             // [d,2d], the codeword's half first; undefined with low rank
  Variable concat_bias;        // [d]; undefined with low rank
  Variable concat_in;          // low rank: W_A [h,2d]
  Variable concat_out;         // low rank: W_B [d,h]
  std::vector<Variable> up;    // L of [h,d]
  std::vector<Variable> down;  // L of [d,h]
};

}  // namespace qinco
