// The tensors of a PyTorch file: views of storages that lie, one each, in the archive.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "qinco/io/torch/pickle.h"
#include "qinco/io/torch/zip.h"
#include "tensor/tensor.h"

namespace qinco::torch {

class TensorReader {
 public:
  /// `prefix`: the archive's folder, "NAME/".
  TensorReader(const ZipArchive& archive, std::string prefix) : archive_(archive), prefix_(std::move(prefix)) {}

  /// Whether `value` is a tensor or a parameter.
  static bool is_tensor(const Value& value);
  /// The tensor of `value`, lying on the mapped file, read-only. Throws Error naming the file and `name` for dtypes
  /// other than f32 f64 f16 bf16 u8 i32 i64, sizes and strides that leave the storage or repeat its elements, and
  /// storages that are missing, damaged or of another size than stated.
  Tensor read(const Value& value, const std::string& name);

 private:
  struct Block {
    std::shared_ptr<Storage> storage;
    DType dtype = DType::f32;
    std::string_view type;  // the class's name without its module
    int64_t numel = 0;
  };
  const Block& block(const Value& id);
  Block open_block(std::string_view type, std::string_view key, int64_t numel) const;
  Tensor view(const Value& call);

  const ZipArchive& archive_;
  std::string prefix_;
  std::map<std::string_view, Block> blocks_;  // by key
  int64_t bytes_ = 0;                         // of all tensors read so far
};

}  // namespace qinco::torch
