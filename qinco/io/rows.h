// Files of rows of numbers, by their extension: where the rows lie, and how they are written.
//
//   .fvecs .bvecs .ivecs   per row an int32 d, then d f32, u8 or i32
//   .fbin .u8bin           uint32 n, uint32 d, then n*d f32 or u8
//   .npy                   [n,d] of f32 f64 f16 u8 i32 i64
//   FILE.hdf5:DATASET      [n,d], contiguous; reading only, where the build has HDF5
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tensor/dtype.h"
#include "tensor/file.h"

namespace qinco {

/// Where the rows of a mapped file lie.
struct RowLayout {
  std::shared_ptr<const MappedFile> file;
  DType dtype = DType::f32;
  int64_t n = 0, d = 0;
  int64_t offset = 0;      // bytes before the first row
  int64_t row_header = 0;  // bytes before the values of each row: 4 in .?vecs files, 0 in others

  int64_t row_bytes() const { return row_header + d * static_cast<int64_t>(size_of(dtype)); }
  /// The values of row i, at any alignment.
  const std::byte* row(int64_t i) const { return file->data() + offset + i * row_bytes() + row_header; }
  /// Throws Error naming the file unless 0 <= begin <= end <= n.
  void check_range(int64_t begin, int64_t end) const;
  /// Throws Error naming file and row when the row's own dimension is another than d.
  void check_row(int64_t i) const;
  /// Lets the pages of rows [begin,end) leave this process's memory.
  void release(int64_t begin, int64_t end) const;
};

/// Opens a file of n >= 1 rows of 1 <= d <= 2^20. Throws Error naming the file if it is missing, empty, truncated,
/// over-long or malformed, or of an unknown extension. What the rows hold is not read yet.
RowLayout open_rows(const std::string& path);

/// "b.hdf5" of "b.hdf5:train"; other paths as they are.
std::string row_file(const std::string& path);
/// ".npy" of "a/b.npy", ".hdf5" of "b.hdf5:train".
std::string row_extension(const std::string& path);
/// The extensions above as text, ".fvecs .bvecs ...": of all that is read, or only of what is written too.
std::string row_extensions(bool written = false);
/// Whether the extension is one of those above.
bool is_row_file(const std::string& path);
/// The one type that files of this extension hold; none for .npy and HDF5.
std::optional<DType> row_dtype(const std::string& path);

/// Writes n rows of d values, block by block. The file appears under its name only on commit(); without it, nothing is
/// left behind.
class RowWriter {
 public:
  /// The format is that of the extension, of type `dtype`. Throws Error on an extension that is unknown, not written or
  /// of another type, and on an unwritable place.
  RowWriter(const std::string& path, int64_t n, int64_t d, DType dtype);

  /// Appends `count` rows [count,d] of the type.
  void write(int64_t count, const void* rows);
  /// Call after exactly n rows; throws Error when the file cannot be completed (disk full, say).
  void commit();

 private:
  std::unique_ptr<AtomicFile> file_;
  int64_t n_;
  int64_t d_;
  int64_t value_bytes_;
  int64_t written_ = 0;
  bool row_header_ = false;
};

}  // namespace qinco
