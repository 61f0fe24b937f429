// Models in files. Ours are safetensors: the parameters under the reference's names, and metadata format=qinco, variant
// (qinco, qinco-lr or ivf-qinco), d, K, L, M, h, db_scale, and of ivf-qinco K_ivf.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "qinco/model/qinco.h"
#include "tensor/safetensors.h"

namespace qinco {

/// What a model file of any format holds.
struct ModelContents {
  std::string source;                           // "safetensors", "PyTorch module model_qinco.QINCo", ...
  std::map<std::string, std::string> metadata;  // as in safetensors files; db_scale is missing where the file has none
  TensorMap tensors;                            // lie on the mapped file
  std::shared_ptr<const MappedFile> file = nullptr;
};

/// Opens safetensors and PyTorch's files (torch_file.h), told apart by their first bytes. What the metadata says of the
/// tensors is not checked yet. Throws a one-line Error naming the file.
ModelContents read_model_file(const std::string& path);

/// Writes the model (f32), atomically.
void save_model(const std::string& path, const Qinco& model);

/// Reads a model of any format that read_model_file opens. Tensors may be stored as f32, f64, f16 or bf16. Throws a
/// one-line Error naming the file for anything that is not a whole and valid model: wrong format, metadata out of
/// range, tensors missing, unexpected, of other shapes than the metadata says, or holding NaN or infinities. Memory
/// stays within a small multiple of the file's size.
Qinco load_model(const std::string& path);

// The parts, for files that hold a model and more (checkpoints, PQ-QINCo).

/// The metadata that describes `config`.
std::map<std::string, std::string> model_metadata(const QincoConfig& config);
/// A model of what model_metadata describes with the parameters `tensors`; Errors start with `path`.
Qinco model_from(const std::string& path, const std::map<std::string, std::string>& metadata, const TensorMap& tensors);
/// Checks the same without making the model, and returns its sizes. Of tensors on `file` (may be null) some MB at a
/// time are in memory.
QincoConfig check_parameters(const std::string& path, const std::map<std::string, std::string>& metadata,
                             const TensorMap& tensors, const MappedFile* file);
/// Throws Error naming `path` and `name` unless the tensor is f32, f64, f16 or bf16 and all values are finite as f32:
/// below its range they become 0. `file` as above.
void check_values(const std::string& path, const std::string& name, const Tensor& tensor, const MappedFile* file);

/// The value of a metadata key, an integer or a finite number; Errors name `path` and the key.
int64_t metadata_int(const std::string& path, const std::map<std::string, std::string>& metadata,
                     const std::string& key);
double metadata_double(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const std::string& key);

}  // namespace qinco
