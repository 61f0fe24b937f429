// Files of vectors: .fvecs .bvecs .ivecs (per row: int32 d, then d values) and .npy (f32 f16 u8), memory-mapped and
// converted to float by blocks, so a file larger than memory can be streamed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tensor/dtype.h"
#include "tensor/file.h"
#include "tensor/tensor.h"

namespace qinco {

/// Where the rows of a mapped file lie.
struct RowLayout {
  std::shared_ptr<const MappedFile> file;
  DType dtype = DType::f32;
  int64_t n = 0, d = 0;
  int64_t offset = 0;      // bytes before the first row
  int64_t row_header = 0;  // bytes before the values of each row: 4 in .?vecs files, 0 in .npy

  int64_t row_bytes() const { return row_header + d * static_cast<int64_t>(size_of(dtype)); }
  /// The values of row i, at any alignment.
  const std::byte* row(int64_t i) const { return file->data() + offset + i * row_bytes() + row_header; }
};

/// A read-only file of n vectors of d values. The format comes from the extension. Opening checks the size of the whole
/// file; what the rows hold is checked as they are read. A value: copies share the mapping.
class VectorFile {
 public:
  /// Throws Error naming the file on a missing, empty, truncated or malformed file, or an unknown extension.
  static VectorFile open(const std::string& path);

  const std::string& path() const { return rows_.file->path(); }
  int64_t size() const { return rows_.n; }
  int64_t dim() const { return rows_.d; }
  DType dtype() const { return rows_.dtype; }

  /// Rows [begin,end) as floats into out [end-begin,d]. Throws Error naming file and row when a row has another
  /// dimension than the first or holds a NaN or an infinity, or when the range is outside the file.
  void read(int64_t begin, int64_t end, float* out) const;

 private:
  explicit VectorFile(RowLayout rows) : rows_(std::move(rows)) {}
  RowLayout rows_;
};

/// Rows [begin,end) of the file as an f32 tensor [end-begin,d]; errors as VectorFile.
Tensor read_rows(const std::string& path, int64_t begin, int64_t end);
/// All rows of the file as an f32 tensor [n,d]; errors as VectorFile.
Tensor read_all(const std::string& path);

/// Ids of neighbours, i32 [n,R], from .ivecs or .npy (i32 i64): row i lists the neighbours of query i, nearest first.
/// Throws Error naming file and row when an id is outside [0,limit).
Tensor read_ids(const std::string& path, int64_t limit);

/// Writes n vectors of d floats, block by block, as .fvecs or .npy (f32) by the extension. The file appears under its
/// name only on commit(); without it, nothing is left behind.
class VectorWriter {
 public:
  /// Throws Error on an unknown extension or an unwritable place.
  VectorWriter(const std::string& path, int64_t n, int64_t d);

  /// Appends `count` rows x [count,d].
  void write(int64_t count, const float* x);
  /// Call after exactly n rows; throws Error when the file cannot be completed (disk full, say).
  void commit();

 private:
  std::unique_ptr<AtomicFile> file_;
  int64_t n_;
  int64_t d_;
  int64_t written_ = 0;
  bool row_header_;
};

}  // namespace qinco
