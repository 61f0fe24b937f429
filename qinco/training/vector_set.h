// Vectors held in memory for training: rows are drawn in random order, so the file's own mapping would thrash.
#pragma once

#include <cstdint>

#include "qinco/io/vectors.h"
#include "tensor/tensor.h"

namespace qinco {

/// n vectors of d values in the host's memory, kept as bytes where the file holds bytes (a quarter of the memory), else
/// as floats.
class VectorSet {
 public:
  /// Rows [begin,end) of the file; errors as VectorFile::read.
  VectorSet(const VectorFile& file, int64_t begin, int64_t end);
  /// Rows that exist: f32 or u8 [n,d], contiguous; shared, not copied. Throws Error when they are not, or hold NaN or
  /// infinity.
  explicit VectorSet(Tensor rows);

  int64_t size() const { return rows_.size(0); }
  int64_t dim() const { return rows_.size(1); }
  /// How many vectors to work on together, at most size(): the same on any CPU, more on a GPU to keep it busy.
  int64_t block_rows(Device device) const;

  /// out [n,d] = the rows ids[0..n-1], all in range.
  void gather(int64_t n, const int32_t* ids, float* out) const;
  /// out [end-begin,d] = the rows [begin,end).
  void copy(int64_t begin, int64_t end, float* out) const;

  /// f32 [min(size, limit),d], limit >= 1: all vectors, or so many spread evenly over the set.
  Tensor sample(int64_t limit) const;

  /// The columns [begin,end) of all vectors, copied.
  VectorSet columns(int64_t begin, int64_t end) const;

  /// The largest entry; n, d >= 1.
  float max_entry() const;
  /// A hash of the sizes and of up to a thousand rows spread over the set: tells one data set from another.
  uint64_t fingerprint() const;

 private:
  Tensor rows_;
};

}  // namespace qinco
