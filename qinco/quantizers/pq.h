// The product quantizer (Jegou, Douze, Schmid, PAMI 2011) and its optimised form OPQ (Ge, He, Ke, Sun, CVPR 2013): the
// dimensions are cut into M contiguous blocks of d/M, each quantized by a codebook of its own; OPQ rotates first.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/context.h"
#include "tensor/tensor.h"

namespace qinco {

struct ProductQuantizer {
  Tensor codebooks;  // f32 [M,K,d/M], on any device, as the rotation
  Tensor rotation;   // OPQ: orthogonal f32 [d,d], and x' = x rotation^T is what is cut; undefined: x itself

  int64_t M() const { return codebooks.size(0); }
  int64_t K() const { return codebooks.size(1); }
  int64_t d() const { return codebooks.size(0) * codebooks.size(2); }

  // The context's device does the work; pointers are to the host's memory.

  /// codes [n,M] of x [n,d]: the nearest codeword of every block, the lowest index among equals.
  void encode(const kernels::Context& context, int64_t n, const float* x, int32_t* codes) const;

  /// codes [n,M] -> x [n,d]. Throws Error naming the row when a code is not in [0,K).
  void decode(const kernels::Context& context, int64_t n, const int32_t* codes, float* x) const;
};

struct PqOptions {
  int iterations = 25;      // of every k-means
  int opq_iterations = 50;  // of the alternation that trains a rotation
  uint64_t seed = 1;
  int64_t max_points_per_centroid = 256;                          // as in KmeansOptions
  std::function<void(int64_t done, int64_t total)> on_step = {};  // steps are codebooks and rotations; called if set
};

/// Trains on x [n,d], in the memory of the context's device: one k-means a block. K is a power of two up to 65536.
/// Throws Error when d is not a multiple of M, K > n, or a size is bad.
ProductQuantizer train_pq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                          const PqOptions& options = {});

/// The rotation f32 [d,d] of OPQ for M blocks and K codewords each: starting from none, quantize the rotated vectors,
/// then turn them to what they were quantized to, opq_iterations times; the CPU does the decompositions. x as for
/// train_pq, and its errors.
Tensor train_opq_rotation(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                          const PqOptions& options = {});

/// The rotation, then the product quantizer of the rotated vectors.
ProductQuantizer train_opq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                           const PqOptions& options = {});

/// On the context's device, with everything in its memory: out [n,d_out] = x A^T for x [n,d] and A [d_out,d], and its
/// inverse for an orthogonal A, out [n,d] = x A for x [n,d_out].
void rotate(const kernels::Context& context, const Tensor& A, int64_t n, const float* x, float* out);
void rotate_back(const kernels::Context& context, const Tensor& A, int64_t n, const float* x, float* out);

/// Writes safetensors: tensor `codebooks`, with OPQ `opq_matrix`; metadata format=pq, d, K, M.
void save_pq(const std::string& path, const ProductQuantizer& pq);
/// Reads what save_pq wrote; throws Error naming the file, the expected and the found value.
ProductQuantizer load_pq(const std::string& path);

}  // namespace qinco
