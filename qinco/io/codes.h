// Files of codes, M indices below K per vector: .npy int32 [n,M], or raw: each index in ceil(log2 K) bits, packed from
// the least significant bit on, each vector rounded up to whole bytes, no header. The first index of a vector may be
// below another number, K_first (IVF-QINCo's list); where that is 0, it is K's like the others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tensor/dtype.h"
#include "tensor/file.h"

namespace qinco {

enum class CodeFormat { npy, raw };

/// ceil(log2 K), at least 1: the bits of one index.
int bits_per_code(int64_t K);
/// Bytes of one packed vector of M indices.
int64_t packed_code_bytes(int64_t M, int64_t K, int64_t K_first = 0);

/// codes [n,M], each in [0,2^bits) with 1 <= bits <= 16, the first ones in [0,2^first_bits), 1 <= first_bits <= 31 ->
/// packed [n, ceil((first_bits + (M-1)*bits) / 8)].
void pack_codes(int64_t n, int64_t M, int first_bits, int bits, const int32_t* codes, uint8_t* packed);
/// The inverse of pack_codes.
void unpack_codes(int64_t n, int64_t M, int first_bits, int bits, const uint8_t* packed, int32_t* codes);

/// Writes n rows of M codes block by block; the file appears under its name only on commit().
class CodeWriter {
 public:
  CodeWriter(const std::string& path, CodeFormat format, int64_t n, int64_t M, int64_t K, int64_t K_first = 0);

  /// Appends `count` rows codes [count,M], all in [0,K), or the first ones in [0,K_first).
  void write(int64_t count, const int32_t* codes);
  /// Call after exactly n rows; throws Error when the file cannot be completed.
  void commit();

 private:
  std::unique_ptr<AtomicFile> file_;
  CodeFormat format_;
  int64_t n_;
  int64_t M_;
  int bits_, first_bits_;
  int64_t packed_bytes_;  // of a row
  int64_t written_ = 0;
};

/// A read-only, memory-mapped file of codes.
class CodeFile {
 public:
  /// Rows of M codes in [0,K), the first of each row in [0,K_first) if that is not 0. Throws Error
  /// naming the file when it is missing, truncated, or does not hold rows of M codes (.npy: i32 or i64).
  static CodeFile open(const std::string& path, CodeFormat format, int64_t M, int64_t K, int64_t K_first = 0);

  int64_t size() const { return n_; }
  /// Rows [begin,end) into codes [end-begin,M]; throws Error naming file and row when a code is out of range.
  void read(int64_t begin, int64_t end, int32_t* codes) const;

 private:
  CodeFile(std::shared_ptr<const MappedFile> file, CodeFormat format, int64_t M, int64_t K, int64_t K_first);

  std::shared_ptr<const MappedFile> file_;
  CodeFormat format_;
  DType dtype_ = DType::i32;
  int64_t offset_ = 0;  // bytes before the first row
  int64_t row_bytes_ = 0;
  int64_t n_ = 0;
  int64_t M_;
  int64_t K_, K_first_;
};

}  // namespace qinco
