#include "qinco/io/codes.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "tensor/npy.h"

namespace qinco {

int bits_per_code(int64_t K) {
  return std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(K - 1))));
}

int64_t packed_code_bytes(int64_t M, int64_t K, int64_t K_first) {
  return (bits_per_code(K_first > 0 ? K_first : K) + (M - 1) * bits_per_code(K) + 7) / 8;
}

void pack_codes(int64_t n, int64_t M, int first_bits, int bits, const int32_t* codes, uint8_t* packed) {
  assert(bits >= 1 && bits <= 16 && first_bits >= 1 && first_bits <= 31);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t pending = 0;  // bits not yet written, from the lowest: at most 7 + 31
    int count = 0;
    for (int64_t m = 0; m < M; ++m) {
      pending |= static_cast<uint64_t>(*codes++) << count;
      for (count += m == 0 ? first_bits : bits; count >= 8; count -= 8, pending >>= 8)
        *packed++ = static_cast<uint8_t>(pending);
    }
    if (count > 0) *packed++ = static_cast<uint8_t>(pending);
  }
}

void unpack_codes(int64_t n, int64_t M, int first_bits, int bits, const uint8_t* packed, int32_t* codes) {
  assert(bits >= 1 && bits <= 16 && first_bits >= 1 && first_bits <= 31);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t pending = 0;
    int count = 0;
    for (int64_t m = 0; m < M; ++m) {
      const int wanted = m == 0 ? first_bits : bits;
      for (; count < wanted; count += 8) pending |= static_cast<uint64_t>(*packed++) << count;
      *codes++ = static_cast<int32_t>(pending & ((uint64_t{1} << wanted) - 1));
      pending >>= wanted;
      count -= wanted;
    }
  }
}

CodeWriter::CodeWriter(const std::string& path, CodeFormat format, int64_t n, int64_t M, int64_t K, int64_t K_first)
    : file_(std::make_unique<AtomicFile>(path)),
      format_(format),
      n_(n),
      M_(M),
      bits_(bits_per_code(K)),
      first_bits_(K_first > 0 ? bits_per_code(K_first) : bits_),
      packed_bytes_(packed_code_bytes(M, K, K_first)) {
  if (format_ == CodeFormat::raw) return;
  const std::string header = npy_header(DType::i32, {n, M});
  file_->write(header.data(), header.size());
}

void CodeWriter::write(int64_t count, const int32_t* codes) {
  written_ += count;
  if (format_ == CodeFormat::npy) {
    file_->write(codes, static_cast<size_t>(count * M_) * sizeof(int32_t));
    return;
  }
  std::vector<uint8_t> packed(static_cast<size_t>(count * packed_bytes_));
  pack_codes(count, M_, first_bits_, bits_, codes, packed.data());
  file_->write(packed.data(), packed.size());
}

void CodeWriter::commit() {
  check(written_ == n_, "{}: {} rows of codes written, {} announced", file_->path(), written_, n_);
  file_->commit();
}

CodeFile CodeFile::open(const std::string& path, CodeFormat format, int64_t M, int64_t K, int64_t K_first) {
  CodeFile codes(MappedFile::open(path), format, M, K, K_first > 0 ? K_first : K);
  const MappedFile& file = *codes.file_;
  check(file.size() > 0, "{}: empty file, expected codes", path);
  if (format == CodeFormat::raw) {
    check(!is_npy(file), "{}: a .npy file, expected raw codes: leave out --raw", path);
    codes.row_bytes_ = packed_code_bytes(M, K, K_first);
    check(file.size() % codes.row_bytes_ == 0, "{}: {} bytes are not a whole number of {}-byte codes (M = {}, K = {})",
          path, file.size(), codes.row_bytes_, M, K);
    codes.n_ = file.size() / codes.row_bytes_;
    return codes;
  }
  check(is_npy(file), "{}: not a .npy file of codes; packed bits need --raw, or qinco convert", path);
  const NpyHeader header = parse_npy_header(file);
  check(header.dtype == DType::i32 || header.dtype == DType::i64, "{}: codes of type {}, expected i32 or i64", path,
        name(header.dtype));
  check(header.shape.size() == 2 && header.shape[0] >= 1 && header.shape[1] == M, "{}: shape {}, expected [n,{}]", path,
        header.shape, M);
  codes.dtype_ = header.dtype;
  codes.offset_ = header.data_offset;
  codes.row_bytes_ = M * static_cast<int64_t>(size_of(header.dtype));
  codes.n_ = header.shape[0];
  return codes;
}

CodeFile::CodeFile(std::shared_ptr<const MappedFile> file, CodeFormat format, int64_t M, int64_t K, int64_t K_first)
    : file_(std::move(file)), format_(format), M_(M), K_(K), K_first_(K_first) {}

void CodeFile::read(int64_t begin, int64_t end, int32_t* codes) const {
  check(0 <= begin && begin <= end && end <= n_, "{}: rows {} to {} asked for, the file has {}", file_->path(), begin,
        end, n_);
  const int64_t first = offset_ + begin * row_bytes_, count = (end - begin) * M_;
  const std::byte* from = file_->data() + first;
  if (format_ == CodeFormat::raw) {
    unpack_codes(end - begin, M_, bits_per_code(K_first_), bits_per_code(K_), reinterpret_cast<const uint8_t*>(from),
                 codes);
  } else if (dtype_ == DType::i32) {
    std::memcpy(codes, from, static_cast<size_t>(count) * sizeof(int32_t));
  } else {
    for (int64_t i = 0; i < count; ++i) {
      int64_t code;
      std::memcpy(&code, from + i * 8, sizeof(code));
      codes[i] = code == static_cast<int32_t>(code) ? static_cast<int32_t>(code) : -1;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t limit = i % M_ == 0 ? K_first_ : K_;
    check(codes[i] >= 0 && codes[i] < limit, "{}: row {} holds a code outside 0 to {}", file_->path(), begin + i / M_,
          limit - 1);
  }
  file_->release(first, first + (end - begin) * row_bytes_);
}

}  // namespace qinco
