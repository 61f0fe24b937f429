#include "qinco/io/vectors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"

namespace qinco {
namespace {

void convert_row(DType dtype, int64_t d, const std::byte* from, float* out) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(out, from, static_cast<size_t>(d) * sizeof(float));
      return;
    case DType::u8:
      for (int64_t j = 0; j < d; ++j) out[j] = static_cast<float>(std::to_integer<uint8_t>(from[j]));
      return;
    case DType::i32:
      for (int64_t j = 0; j < d; ++j) out[j] = static_cast<float>(load_as<int32_t>(from + j * 4));
      return;
    case DType::f64:
      for (int64_t j = 0; j < d; ++j) {
        const double x = load_as<double>(from + j * 8), most = std::numeric_limits<float>::max();
        out[j] = static_cast<float>(std::isfinite(x) ? std::clamp(x, -most, most) : x);  // check_values refuses `most`
      }
      return;
    default:  // f16: open() admits no other
      for (int64_t j = 0; j < d; ++j) out[j] = f16_value(load_as<uint16_t>(from + j * 2));
  }
}

constexpr int64_t kBlockFloats = 1 << 22;  // read into memory at a time: after each, the file gives back its pages
constexpr int64_t kReadAhead = 1 << 17;    // bytes that systems read around what is asked for
constexpr int64_t kSampleRows = 64;        // of a sample, read before pages are given back

// The largest magnitude; NaN counts as larger than infinity.
float largest_magnitude(int64_t d, const float* x) {
  uint32_t largest = 0;  // exponent and mantissa bits compare like magnitudes; infinity and NaN lie above all others
  for (int64_t j = 0; j < d; ++j) {
    uint32_t bits;
    std::memcpy(&bits, x + j, sizeof(bits));
    largest = std::max(largest, bits & 0x7fffffffu);
  }
  return std::bit_cast<float>(largest);
}

void check_values(const std::string& path, int64_t row, int64_t d, const float* x) {
  const float largest = largest_magnitude(d, x);
  if (largest <= kLargestValue) return;
  check(std::isfinite(largest), "{}: row {} holds a NaN or an infinity, expected finite values", path, row);
  fail("{}: row {} holds a value of size {}, expected at most {}: scale the vectors down", path, row, largest,
       kLargestValue);
}

int64_t load_id(const RowLayout& rows, int64_t i, int64_t j) {
  if (rows.dtype == DType::i64) return load_as<int64_t>(rows.row(i) + j * 8);
  return load_as<int32_t>(rows.row(i) + j * 4);
}

}  // namespace

VectorFile VectorFile::open(const std::string& path) {
  RowLayout rows = open_rows(path);
  const bool known = rows.dtype == DType::f32 || rows.dtype == DType::f64 || rows.dtype == DType::f16 ||
                     rows.dtype == DType::u8 || (rows.dtype == DType::i32 && row_dtype(path) == DType::i32);
  check(known, "{}: values of type {}, expected f32, f64, f16 or u8", path, name(rows.dtype));
  return VectorFile(std::move(rows));
}

void VectorFile::read_row(int64_t i, float* out) const {
  rows_.check_row(i);
  convert_row(rows_.dtype, rows_.d, rows_.row(i), out);
  check_values(path(), i, rows_.d, out);
}

void VectorFile::read(int64_t begin, int64_t end, float* out) const {
  rows_.check_range(begin, end);
  for (int64_t i = begin; i < end; ++i, out += rows_.d) read_row(i, out);
  rows_.release(begin, end);
}

Tensor VectorFile::sample(int64_t nt, int64_t limit) const {
  check(nt >= 1 && limit >= 1, "{}: a sample of {} of {} rows asked for", path(), limit, nt);
  rows_.check_range(0, nt);
  const int64_t n = std::min(nt, limit), d = rows_.d;
  if (nt / n * rows_.row_bytes() > kReadAhead) rows_.file->expect_scattered_reads();
  Tensor x = Tensor::empty({n, d});
  int64_t released = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = spread_row(i, n, nt);
    read_row(row, x.data<float>() + i * d);
    if (i % kSampleRows != 0) continue;
    rows_.release(released, row);
    released = row;
  }
  rows_.release(released, nt);
  return x;
}

Tensor read_rows(const std::string& path, int64_t begin, int64_t end) {
  const VectorFile file = VectorFile::open(path);
  check(0 <= begin && begin <= end && end <= file.size(), "{}: rows {} to {} asked for, the file has {}", path, begin,
        end, file.size());
  Tensor x = Tensor::empty({end - begin, file.dim()});
  const int64_t block = std::max<int64_t>(1, kBlockFloats / file.dim());
  for (int64_t i = begin; i < end; i += block)
    file.read(i, std::min(i + block, end), x.data<float>() + (i - begin) * file.dim());
  return x;
}

Tensor read_all(const std::string& path) {
  return read_rows(path, 0, VectorFile::open(path).size());
}

Tensor read_ids(const std::string& path, int64_t limit) {
  check(limit <= std::numeric_limits<uint32_t>::max(), "ids: a limit of {}, expected less than 2^32", limit);
  const RowLayout rows = open_rows(path);
  const bool known = rows.dtype == DType::i32 || rows.dtype == DType::i64;
  check(known, "{}: ids of type {}, expected i32 or i64", path, name(rows.dtype));
  Tensor ids = Tensor::empty({rows.n, rows.d}, DType::i32);
  int32_t* out = ids.data<int32_t>();
  for (int64_t i = 0; i < rows.n; ++i) {
    rows.check_row(i);
    for (int64_t j = 0; j < rows.d; ++j) {
      const int64_t id = load_id(rows, i, j);
      check(id >= 0 && id < limit, "{}: row {} holds id {}, expected 0 to {}", path, i, id, limit - 1);
      *out++ = static_cast<int32_t>(id);
    }
  }
  return ids;
}

}  // namespace qinco
