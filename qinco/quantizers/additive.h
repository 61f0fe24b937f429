// Additive fixed codebooks: x is approximated by a sum of M codewords, one from each codebook, whatever chose the
// codes. For the codes of a QINCo model they are its fast, approximate decoder (the short-list of two-stage search).
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

/// x [n,d] = the sum of the codewords of the first M_used codes in codebooks f32 [M,K,d]; row i of codes starts at
/// codes + i*codes_ld. x and codes are the host's; codebooks may be on any device. Throws Error naming the row when a
/// code is not in [0,K), or M_used not in 1..M.
void additive_decode(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                     int64_t codes_ld, int64_t M_used, float* x);

/// norms [n] = ||x||^2 of that x, for codes [n,M]; errors as there. Needs bounded memory besides.
void additive_norms(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                    float* norms);

/// Finds the codebooks of least squared error for given vectors and codes: one_hot(codes) [n,M*K] T = x, solved by the
/// normal equations, whose matrix counts how often two codes occur together. The CPU does all of it: the counts are in
/// double and need no products, and the equations are few. Memory (M*K)^2 doubles, however many
/// vectors are added, while solving too.
class AdditiveFit {
 public:
  AdditiveFit(int64_t M, int64_t K, int64_t d);

  /// Takes in n more vectors x [n,d] and their codes [n,M], in the host's memory; the context is the CPU's. Throws
  /// Error naming the row when a code is not in [0,K) or a value not finite, and after solve().
  void add(const kernels::Context& context, int64_t n, const float* x, const int32_t* codes);

  /// The codebooks f32 [M,K,d]. The equations never have one solution only (a constant can move from one codebook to
  /// another), so a ridge of 1e-8 of the mean diagonal picks one of small norm; codes that never occurred get 0.
  /// Throws Error when nothing was added. Solves in place, which the fit does not survive. `poll`, if set, is called
  /// between parts of that: it may throw, and the fit has gone as well.
  Tensor solve(const std::function<void()>& poll = {}) &&;

 private:
  int64_t M_, K_, d_;
  int64_t n_ = 0;
  std::vector<double> gram_;  // [M*K,M*K] counts; the blocks (m,m') with m <= m' only
  std::vector<double> sums_;  // [M*K,d]  sum of the x of each code
};

/// Squared norms in 8 bits: 256 levels fitted by Lloyd's algorithm.
class NormQuantizer {
 public:
  /// Fits the levels to n >= 1 norms (fewer levels where n < 256).
  NormQuantizer(int64_t n, const float* norms);
  /// With levels [256] from another one; throws Error on another number.
  explicit NormQuantizer(std::vector<float> levels);

  /// The nearest level of each norm; the lower one among equals.
  void encode(int64_t n, const float* norms, uint8_t* codes) const;
  /// [256], ascending; beyond those fitted, the last one again.
  const std::vector<float>& levels() const { return levels_; }

 private:
  std::vector<float> levels_;
};

}  // namespace qinco
