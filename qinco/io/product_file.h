// PQ-QINCo models as safetensors: the tensors of part j under `sub_quantizer_{j}.`, the rotation as `opq_matrix`, and
// metadata format=qinco, variant=pq-qinco, nsub, d, M, K, and each part's own under `sub_quantizer_{j}.`.
#pragma once

#include <string>

#include "qinco/model/product.h"

namespace qinco {

/// Writes the model (f32), atomically; a plain one as save_model does.
void save_product(const std::string& path, const ProductQinco& model);

/// Reads a PQ-QINCo model of any format that read_model_file opens, or a plain one as the case of one part. Throws a
/// one-line Error naming the file for anything that is not a whole and valid model, as load_model does.
ProductQinco load_product(const std::string& path);

}  // namespace qinco
