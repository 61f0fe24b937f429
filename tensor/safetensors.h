// safetensors files (the format of https://github.com/huggingface/safetensors): a length, a JSON header, raw data.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace qinco {

/// Named tensors, in the order of their names.
using TensorMap = std::map<std::string, Tensor>;

struct SafetensorsFile {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;
  std::shared_ptr<const MappedFile> file = nullptr;  // that the tensors lie on, if they were read from one
};

/// Reads a file. Tensors lie on the mapped file and are read-only (clone() them to write). Throws a one-line Error that
/// names the file for what the format forbids: a header that is malformed, nested or above 8 MB, unknown dtypes,
/// sizes that differ from dtype x shape, ranges that overlap, leave holes or leave the file, duplicate names.
SafetensorsFile read_safetensors(const std::string& path);
SafetensorsFile read_safetensors(std::shared_ptr<const MappedFile> file);

/// Writes `file` atomically (tensor/file.h). Data starts at a multiple of 64 bytes; wider dtypes come first, so every
/// tensor is aligned to its element size. Needs some MB of memory beside the tensors, of any layout. Error for what
/// read_safetensors would refuse: more than 65,536 tensors, 8 MB of header, or 16 MB of metadata (128 bytes a pair, and
/// what it holds).
void write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace qinco
