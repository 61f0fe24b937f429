#include "qinco/io/vectors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/check.h"
#include "tensor/npy.h"

namespace qinco {
namespace {

constexpr int64_t kVecsHeader = sizeof(int32_t);
constexpr int64_t kMaxDim = 1 << 20;

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

std::string extension(const std::string& path) {
  return std::filesystem::path(path).extension().string();
}

int32_t row_dim(const RowLayout& rows, int64_t i) {
  return load<int32_t>(rows.row(i) - rows.row_header);
}

/// The size of a .?vecs file does not fit its first row: says whether a row differs or the end is missing.
[[noreturn]] void fail_at_odd_row(const RowLayout& rows) {
  const MappedFile& file = *rows.file;
  const int64_t whole = file.size() / rows.row_bytes();
  for (int64_t i = 0; i < whole; ++i)
    check(row_dim(rows, i) == rows.d, "{}: row {} has dimension {}, expected {} as in row 0", file.path(), i,
          row_dim(rows, i), rows.d);
  fail("{}: truncated or over-long: {} bytes are not a whole number of rows of {} bytes (d = {}); row {} is cut short",
       file.path(), file.size(), rows.row_bytes(), rows.d, whole);
}

RowLayout open_vecs(const std::string& path, DType dtype) {
  RowLayout rows;
  rows.file = MappedFile::open(path);
  rows.dtype = dtype;
  rows.row_header = kVecsHeader;
  const int64_t size = rows.file->size();
  check(size > 0, "{}: empty file, expected rows of an int32 dimension and its values", path);
  check(size >= kVecsHeader, "{}: {} bytes, too short for the dimension of row 0", path, size);
  rows.d = row_dim(rows, 0);
  check(rows.d >= 1 && rows.d <= kMaxDim, "{}: row 0 has dimension {}, expected 1 to {}", path, rows.d, kMaxDim);
  rows.n = size / rows.row_bytes();
  if (size % rows.row_bytes() != 0) fail_at_odd_row(rows);
  return rows;
}

RowLayout open_npy(const std::string& path) {
  RowLayout rows;
  rows.file = MappedFile::open(path);
  const NpyHeader header = parse_npy_header(*rows.file);
  check(header.shape.size() == 2 && header.shape[0] >= 1, "{}: shape {}, expected [n,d] with n >= 1", path,
        header.shape.str());
  check(header.shape[1] >= 1 && header.shape[1] <= kMaxDim, "{}: dimension {}, expected 1 to {}", path, header.shape[1],
        kMaxDim);
  rows.dtype = header.dtype;
  rows.n = header.shape[0];
  rows.d = header.shape[1];
  rows.offset = header.data_offset;
  return rows;
}

void check_range(const RowLayout& rows, int64_t begin, int64_t end) {
  check(0 <= begin && begin <= end && end <= rows.n, "{}: rows {} to {} asked for, the file has {}", rows.file->path(),
        begin, end, rows.n);
}

void check_row_dim(const RowLayout& rows, int64_t i) {
  if (rows.row_header == 0) return;
  check(row_dim(rows, i) == rows.d, "{}: row {} has dimension {}, expected {} as in row 0", rows.file->path(), i,
        row_dim(rows, i), rows.d);
}

void convert_row(DType dtype, int64_t d, const std::byte* from, float* out) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(out, from, static_cast<size_t>(d) * sizeof(float));
      return;
    case DType::u8:
      for (int64_t j = 0; j < d; ++j) out[j] = static_cast<float>(std::to_integer<uint8_t>(from[j]));
      return;
    case DType::i32:
      for (int64_t j = 0; j < d; ++j) out[j] = static_cast<float>(load<int32_t>(from + j * 4));
      return;
    default:  // f16: open() admits no other
      for (int64_t j = 0; j < d; ++j) out[j] = f16_value(load<uint16_t>(from + j * 2));
  }
}

bool all_finite(int64_t d, const float* x) {
  uint32_t largest = 0;  // exponent and mantissa bits compare like magnitudes; infinity and NaN lie above all others
  for (int64_t j = 0; j < d; ++j) {
    uint32_t bits;
    std::memcpy(&bits, x + j, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  return largest < 0x7f800000u;
}

int64_t load_id(const RowLayout& rows, int64_t i, int64_t j) {
  if (rows.dtype == DType::i64) return load<int64_t>(rows.row(i) + j * 8);
  return load<int32_t>(rows.row(i) + j * 4);
}

}  // namespace

VectorFile VectorFile::open(const std::string& path) {
  const std::string kind = extension(path);
  if (kind == ".fvecs") return VectorFile(open_vecs(path, DType::f32));
  if (kind == ".bvecs") return VectorFile(open_vecs(path, DType::u8));
  if (kind == ".ivecs") return VectorFile(open_vecs(path, DType::i32));
  check(kind == ".npy", "{}: unknown kind of vector file, expected .fvecs, .bvecs, .ivecs or .npy", path);
  RowLayout rows = open_npy(path);
  const bool known = rows.dtype == DType::f32 || rows.dtype == DType::f16 || rows.dtype == DType::u8;
  check(known, "{}: values of type {}, expected f32, f16 or u8", path, name(rows.dtype));
  return VectorFile(std::move(rows));
}

void VectorFile::read(int64_t begin, int64_t end, float* out) const {
  check_range(rows_, begin, end);
  for (int64_t i = begin; i < end; ++i, out += rows_.d) {
    check_row_dim(rows_, i);
    convert_row(rows_.dtype, rows_.d, rows_.row(i), out);
    check(all_finite(rows_.d, out), "{}: row {} holds a NaN or an infinity, expected finite values", path(), i);
  }
  rows_.file->release(rows_.offset + begin * rows_.row_bytes(), rows_.offset + end * rows_.row_bytes());
}

Tensor read_rows(const std::string& path, int64_t begin, int64_t end) {
  const VectorFile file = VectorFile::open(path);
  check(0 <= begin && begin <= end && end <= file.size(), "{}: rows {} to {} asked for, the file has {}", path, begin,
        end, file.size());
  Tensor x = Tensor::empty({end - begin, file.dim()});
  const int64_t block =
      std::max<int64_t>(1, (1 << 22) / file.dim());  // pages of the file are given back block by block
  for (int64_t i = begin; i < end; i += block)
    file.read(i, std::min(i + block, end), x.data<float>() + (i - begin) * file.dim());
  return x;
}

Tensor read_all(const std::string& path) {
  return read_rows(path, 0, VectorFile::open(path).size());
}

Tensor read_ids(const std::string& path, int64_t limit) {
  const std::string kind = extension(path);
  check(kind == ".ivecs" || kind == ".npy", "{}: unknown kind of id file, expected .ivecs or .npy", path);
  const RowLayout rows = kind == ".ivecs" ? open_vecs(path, DType::i32) : open_npy(path);
  const bool known = rows.dtype == DType::i32 || rows.dtype == DType::i64;
  check(known, "{}: ids of type {}, expected i32 or i64", path, name(rows.dtype));
  Tensor ids = Tensor::empty({rows.n, rows.d}, DType::i32);
  int32_t* out = ids.data<int32_t>();
  for (int64_t i = 0; i < rows.n; ++i) {
    check_row_dim(rows, i);
    for (int64_t j = 0; j < rows.d; ++j) {
      const int64_t id = load_id(rows, i, j);
      check(id >= 0 && id < limit, "{}: row {} holds id {}, expected 0 to {}", path, i, id, limit - 1);
      *out++ = static_cast<int32_t>(id);
    }
  }
  return ids;
}

VectorWriter::VectorWriter(const std::string& path, int64_t n, int64_t d) : n_(n), d_(d) {
  const std::string kind = extension(path);
  check(kind == ".fvecs" || kind == ".npy", "{}: cannot write this kind of vector file, expected .fvecs or .npy", path);
  row_header_ = kind == ".fvecs";
  file_ = std::make_unique<AtomicFile>(path);
  if (row_header_) return;
  const std::string header = npy_header(DType::f32, {n, d});
  file_->write(header.data(), header.size());
}

void VectorWriter::write(int64_t count, const float* x) {
  written_ += count;
  const auto bytes = static_cast<size_t>(d_) * sizeof(float);
  if (!row_header_) {
    file_->write(x, static_cast<size_t>(count) * bytes);
    return;
  }
  const auto header = static_cast<int32_t>(d_);
  for (int64_t i = 0; i < count; ++i) {
    file_->write(&header, sizeof(header));
    file_->write(x + i * d_, bytes);
  }
}

void VectorWriter::commit() {
  check(written_ == n_, "{}: {} vectors written, {} announced", file_->path(), written_, n_);
  file_->commit();
}

}  // namespace qinco
