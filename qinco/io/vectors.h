// Files of vectors: .fvecs .bvecs .ivecs .fbin .u8bin .npy (f32 f64 f16 u8) and HDF5 (rows.h), memory-mapped and
// converted to float by blocks, so a file larger than memory can be streamed.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "qinco/io/rows.h"
#include "tensor/tensor.h"

namespace qinco {

/// The largest magnitude in a file of vectors: squared distances stay well below the largest float.
constexpr float kLargestValue = 1e15f;

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
  /// dimension than the first, or holds a NaN, an infinity or a value beyond 1e15, or when the range is outside the
  /// file.
  void read(int64_t begin, int64_t end, float* out) const;
  /// f32 [min(nt, limit),d]: the first nt >= 1 rows or, where they are more, `limit` >= 1 of them spread evenly; the
  /// others are not looked at, and not read ahead where they are far apart. Errors as read().
  Tensor sample(int64_t nt, int64_t limit) const;

 private:
  explicit VectorFile(RowLayout rows) : rows_(std::move(rows)) {}
  void read_row(int64_t i, float* out) const;

  RowLayout rows_;
};

/// Rows [begin,end) of the file as an f32 tensor [end-begin,d]; errors as VectorFile.
Tensor read_rows(const std::string& path, int64_t begin, int64_t end);
/// All rows of the file as an f32 tensor [n,d]; errors as VectorFile.
Tensor read_all(const std::string& path);

/// Ids of neighbours, i32 [n,R], from .ivecs or .npy (i32 i64): row i lists the neighbours of query i, nearest first.
/// Throws Error naming file and row when an id is outside [0,limit), limit < 2^32: ids from 2^31 on are their lower 32
/// bits, which compare as ids do and are never -1.
Tensor read_ids(const std::string& path, int64_t limit);

/// Row i of n that are spread evenly over `size` rows, n <= size.
inline int64_t spread_row(int64_t i, int64_t n, int64_t size) {
  return size / n * i + size % n * i / n;
}

/// Writes n vectors of d floats, block by block, as .fvecs, .fbin or .npy (f32) by the extension; see RowWriter.
class VectorWriter {
 public:
  VectorWriter(const std::string& path, int64_t n, int64_t d) : rows_(path, n, d, DType::f32) {}

  /// Appends `count` rows x [count,d].
  void write(int64_t count, const float* x) { rows_.write(count, x); }
  void commit() { rows_.commit(); }

 private:
  RowWriter rows_;
};

}  // namespace qinco
