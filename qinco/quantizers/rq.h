// The residual quantizer: x is approximated by a sum of M codewords, one from each of M codebooks of K, chosen step by
// step, greedily or by beam search. QINCo's baseline and its initialisation.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

struct ResidualQuantizer {
  Tensor codebooks;  // f32 [M,K,d], on any device

  int64_t M() const { return codebooks.size(0); }
  int64_t K() const { return codebooks.size(1); }
  int64_t d() const { return codebooks.size(2); }

  /// codes [n,M] of x [n,d], both the host's; the context's device does the work. At every step the `beam` best
  /// prefixes are kept (1 = greedy), ties to the lower prefix and then the lower index; the best of the last step is
  /// the code.
  void encode(const kernels::Context& context, int64_t n, const float* x, int64_t beam, int32_t* codes) const;

  /// x [n,d] = the sum of the codewords of the first M_used codes; row i of codes starts at codes + i*codes_ld. Both
  /// are the host's. Throws Error naming the row when a code is not in [0,K), or M_used not in 1..M.
  void decode(const kernels::Context& context, int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used,
              float* x) const;
};

/// Training vectors per codeword beyond which more of them change little: what QINCo's start and `baseline` take.
inline constexpr int64_t kRqPointsPerCodeword = 1024;

struct RqOptions {
  int64_t beam_size = 1;  // beams kept per vector while training
  int iterations = 25;    // of every k-means
  uint64_t seed = 1;
  int64_t max_points_per_centroid = 256;                      // as in KmeansOptions
  std::function<void(int64_t step, int64_t M)> on_step = {};  // called after each of the M steps, if set
  std::function<void()> poll = {};  // called between parts of a step, if set: may throw, which
                                    // ends the training
};

/// Trains on x, in the memory of the context's device, step by step: k-means on the residuals of all beams of x [n,d],
/// then every vector keeps its best beams. K is a power of two up to 65536. Throws Error on K > n or other bad sizes.
ResidualQuantizer train_rq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                           const RqOptions& options = {});

/// Writes safetensors: tensor `codebooks`, metadata format=rq, d, K, M.
void save_rq(const std::string& path, const ResidualQuantizer& rq);
/// Reads what save_rq wrote; throws Error naming the file, the expected and the found value.
ResidualQuantizer load_rq(const std::string& path);

}  // namespace qinco
