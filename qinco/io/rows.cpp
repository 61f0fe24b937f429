#include "qinco/io/rows.h"

#include <cstring>
#include <filesystem>

#include "kernels/check.h"
#include "qinco/io/hdf5.h"
#include "tensor/npy.h"

namespace qinco {
namespace {

constexpr int64_t kVecsHeader = sizeof(int32_t);
constexpr int64_t kBinHeader = 2 * sizeof(uint32_t);
constexpr int64_t kMaxDim = 1 << 20;

enum class Family { vecs, bin, npy, hdf5 };

struct Format {
  const char* extension;
  Family family;
  std::optional<DType> dtype;  // none: the file says it
};
constexpr Format kFormats[] = {{".fvecs", Family::vecs, DType::f32}, {".bvecs", Family::vecs, DType::u8},
                               {".ivecs", Family::vecs, DType::i32}, {".fbin", Family::bin, DType::f32},
                               {".u8bin", Family::bin, DType::u8},   {".npy", Family::npy, std::nullopt},
                               {".hdf5", Family::hdf5, std::nullopt}};

const Format* find_format(const std::string& path) {
  const std::string kind = row_extension(path);
  for (const Format& format : kFormats)
    if (kind == format.extension) return &format;
  return nullptr;
}

int32_t row_dim(const RowLayout& rows, int64_t i) {
  return load_as<int32_t>(rows.row(i) - rows.row_header);
}

/// The size of a .?vecs file does not fit its first row: says whether a row differs or the end is missing.
[[noreturn]] void fail_at_odd_row(const RowLayout& rows) {
  const MappedFile& file = *rows.file;
  const int64_t whole = file.size() / rows.row_bytes();
  for (int64_t i = 0; i < whole; ++i) rows.check_row(i);
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

RowLayout open_bin(const std::string& path, DType dtype) {
  RowLayout rows;
  rows.file = MappedFile::open(path);
  rows.dtype = dtype;
  rows.offset = kBinHeader;
  const int64_t size = rows.file->size();
  check(size >= kBinHeader, "{}: {} bytes, too short for the {} bytes of n and d", path, size, kBinHeader);
  rows.n = load_as<uint32_t>(rows.file->data());
  rows.d = load_as<uint32_t>(rows.file->data() + 4);
  check(rows.n >= 1, "{}: holds 0 rows, expected at least 1", path);
  check(rows.d >= 1 && rows.d <= kMaxDim, "{}: dimension {}, expected 1 to {}", path, rows.d, kMaxDim);
  const int64_t expected = kBinHeader + checked_mul(rows.n, rows.row_bytes(), "rows");
  check(size == expected, "{}: truncated or over-long: expected {} bytes for {} rows of dimension {}, found {}", path,
        expected, rows.n, rows.d, size);
  return rows;
}

RowLayout open_npy(const std::string& path) {
  RowLayout rows;
  rows.file = MappedFile::open(path);
  const NpyHeader header = parse_npy_header(*rows.file);
  check(header.shape.size() == 2 && header.shape[0] >= 1, "{}: shape {}, expected [n,d] with n >= 1", path,
        header.shape);
  check(header.shape[1] >= 1 && header.shape[1] <= kMaxDim, "{}: dimension {}, expected 1 to {}", path, header.shape[1],
        kMaxDim);
  rows.dtype = header.dtype;
  rows.n = header.shape[0];
  rows.d = header.shape[1];
  rows.offset = header.data_offset;
  return rows;
}

}  // namespace

void RowLayout::check_range(int64_t begin, int64_t end) const {
  check(0 <= begin && begin <= end && end <= n, "{}: rows {} to {} asked for, the file has {}", file->path(), begin,
        end, n);
}

void RowLayout::check_row(int64_t i) const {
  if (row_header == 0) return;
  check(row_dim(*this, i) == d, "{}: row {} has dimension {}, expected {} as in row 0", file->path(), i,
        row_dim(*this, i), d);
}

void RowLayout::release(int64_t begin, int64_t end) const {
  file->release(offset + begin * row_bytes(), offset + end * row_bytes());
}

std::string row_file(const std::string& path) {
  constexpr std::string_view kKind = ".hdf5";
  const auto dataset = path.rfind(".hdf5:");
  return dataset == std::string::npos ? path : path.substr(0, dataset + kKind.size());
}

std::string row_extension(const std::string& path) {
  return std::filesystem::path(row_file(path)).extension().string();
}

std::string row_extensions(bool written) {
  std::string text;
  for (const Format& format : kFormats) {
    const bool hdf5 = format.family == Family::hdf5;
    if (hdf5 && written) continue;
    if (!text.empty()) text += ' ';
    text += format.extension;
    if (hdf5) text += ":DATASET";
  }
  return text;
}

bool is_row_file(const std::string& path) {
  return find_format(path) != nullptr;
}

std::optional<DType> row_dtype(const std::string& path) {
  const Format* const format = find_format(path);
  return format == nullptr ? std::nullopt : format->dtype;
}

RowLayout open_rows(const std::string& path) {
  const Format* const format = find_format(path);
  check(format != nullptr, "{}: unknown kind of vector file, expected one of {}", path, row_extensions());
  switch (format->family) {
    case Family::vecs:
      return open_vecs(path, *format->dtype);
    case Family::bin:
      return open_bin(path, *format->dtype);
    case Family::npy:
      return open_npy(path);
    default:
      return open_hdf5(path);
  }
}

RowWriter::RowWriter(const std::string& path, int64_t n, int64_t d, DType dtype)
    : n_(n), d_(d), value_bytes_(static_cast<int64_t>(size_of(dtype))) {
  const Format* const format = find_format(path);
  check(format != nullptr && format->family != Family::hdf5,
        "{}: cannot write this kind of vector file, expected one of {}", path, row_extensions(true));
  check(!format->dtype || *format->dtype == dtype, "{}: cannot hold {}, only {}", path, name(dtype),
        name(format->dtype.value_or(dtype)));
  row_header_ = format->family == Family::vecs;
  check(format->family != Family::bin || n <= UINT32_MAX, "{}: cannot hold {} rows, at most {}", path, n, UINT32_MAX);
  file_ = std::make_unique<AtomicFile>(path);
  if (format->family == Family::npy) {
    const std::string header = npy_header(dtype, {n, d});
    file_->write(header.data(), header.size());
  } else if (format->family == Family::bin) {
    const uint32_t header[] = {static_cast<uint32_t>(n), static_cast<uint32_t>(d)};
    file_->write(header, sizeof header);
  }
}

void RowWriter::write(int64_t count, const void* rows) {
  written_ += count;
  const auto* from = static_cast<const std::byte*>(rows);
  const auto bytes = static_cast<size_t>(d_ * value_bytes_);
  if (!row_header_) {
    file_->write(from, static_cast<size_t>(count) * bytes);
    return;
  }
  const auto header = static_cast<int32_t>(d_);
  for (int64_t i = 0; i < count; ++i, from += bytes) {
    file_->write(&header, sizeof(header));
    file_->write(from, bytes);
  }
}

void RowWriter::commit() {
  check(written_ == n_, "{}: {} rows written, {} announced", file_->path(), written_, n_);
  file_->commit();
}

}  // namespace qinco
