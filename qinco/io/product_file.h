// PQ-QINCo models as safetensors: the tensors of part j under `sub_quantizer_{j}.`, the rotation as `opq_matrix`, and
// metadata format=qinco, variant=pq-qinco, nsub, d, M, K, and each part's own under `sub_quantizer_{j}.`.
#pragma once

#include <string>
#include <vector>

#include "qinco/io/model_file.h"
#include "qinco/model/product.h"

namespace qinco {

/// Writes the model (f32), atomically; a plain one as save_model does.
void save_product(const std::string& path, const ProductQinco& model);

/// Reads a PQ-QINCo model of any format that read_model_file opens, or a plain one as the case of one part. Throws a
/// one-line Error naming the file for anything that is not a whole and valid model, as load_model does.
ProductQinco load_product(const std::string& path);

/// Throws a one-line Error starting with `path` unless `contents` is a whole and valid model, as load_product does:
/// every variant but qinco2, of which there is nothing to check. Makes no
/// model: memory stays within some MB for tensors that lie on contents.file.
void check_model(const std::string& path, const ModelContents& contents);

/// The metadata keys that hold a model's db_scale: `db_scale`, or one for each part of a PQ-QINCo model.
std::vector<std::string> scale_keys(const std::string& path, const std::map<std::string, std::string>& metadata);

}  // namespace qinco
