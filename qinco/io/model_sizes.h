// What a QINCo model is, from the names and shapes of its parameters.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor/safetensors.h"

namespace qinco {

struct ModelSizes {
  std::string variant;                        // qinco, qinco-lr, ivf-qinco or pq-qinco
  int64_t d = 0, M = 0, K = 0, L = 0, h = 0;  // pq-qinco: d of the vectors, M the codes of a part, an IVF-QINCo's list
                                              // among them; L and h are the parts'
  int64_t K_ivf = 0;                          // ivf-qinco: coarse centroids
  std::vector<ModelSizes> parts;              // pq-qinco: its sub-quantizers
};

/// "sub_quantizer_{j}.": what the names of part j of pq-qinco begin with.
std::string part_prefix(int64_t j);

/// Reads them off. With M = 1 nothing shows L and h: they stay 0. Throws Error (without a file's name) when the tensors
/// are no QINCo model's, or two parts of it disagree.
ModelSizes infer_sizes(const TensorMap& tensors);

/// The metadata that says so: format, variant, d, M, K, L, h, and K_ivf; of pq-qinco format, variant, nsub, d, M, K,
/// and variant, d, M, K, L, h of part j under "sub_quantizer_{j}.".
std::map<std::string, std::string> size_metadata(const ModelSizes& sizes);

}  // namespace qinco
