#include "qinco/io/convert.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "qinco/io/codes.h"
#include "qinco/io/rows.h"

namespace qinco {
namespace {

constexpr int64_t kBlockValues = int64_t{1} << 20;   // of a block: 8 MB as double
constexpr double kExactIntegers = 9007199254740992;  // 2^53: a double holds all integers up to it

int64_t rows_per_block(int64_t d) {
  return std::max<int64_t>(1, kBlockValues / d);
}

/// Calls body(T{}) with the C++ type of a dtype that files of rows hold.
template <class Body>
auto with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::f16:
      return body(Float16{});
    case DType::u8:
      return body(uint8_t{});
    case DType::i32:
      return body(int32_t{});
    case DType::i64:
      return body(int64_t{});
    default:  // no format of rows has bf16
      return body(float{});
  }
}

template <class T>
double as_double(T value) {
  if constexpr (std::is_same_v<T, Float16>)
    return f16_value(value.bits);
  else
    return static_cast<double>(value);
}

/// The values of rows [begin,end) of a file as doubles; throws Error for those that a double does not hold.
void read_doubles(const RowLayout& rows, int64_t begin, int64_t end, double* out) {
  with_type(rows.dtype, [&]<class T>(T value) {
    for (int64_t i = begin; i < end; ++i) {
      rows.check_row(i);
      const std::byte* const row = rows.row(i);
      for (int64_t j = 0; j < rows.d; ++j) {
        std::memcpy(&value, row + j * static_cast<int64_t>(sizeof(T)), sizeof(T));
        const double x = as_double(value);
        const bool holds = std::is_same_v<T, int64_t> ? std::abs(x) <= kExactIntegers : std::isfinite(x);
        check(holds, "{}: row {} holds {}, expected finite values", rows.file->path(), i, x);
        *out++ = x;
      }
    }
  });
}

template <class T>
bool fits(double x, bool from_integers) {
  if constexpr (std::is_integral_v<T>)
    return x == std::trunc(x) && x >= static_cast<double>(std::numeric_limits<T>::min()) &&
           x <= static_cast<double>(std::numeric_limits<T>::max());
  else
    return std::isfinite(as_double(T(static_cast<float>(x)))) &&
           (!from_integers || as_double(T(static_cast<float>(x))) == x);
}

/// Doubles [count] of row `first` and on as values of `dtype`.
void store(const RowLayout& from, int64_t first, int64_t count, const double* values, DType dtype, std::byte* out) {
  const bool from_integers = from.dtype == DType::u8 || from.dtype == DType::i32 || from.dtype == DType::i64;
  with_type(dtype, [&]<class T>(T value) {
    for (int64_t i = 0; i < count; ++i, out += sizeof(T)) {
      check(fits<T>(values[i], from_integers), "{}: row {} holds {}, which {} does not", from.file->path(),
            first + i / from.d, values[i], name(dtype));
      if constexpr (std::is_same_v<T, Float16>)
        value = Float16(static_cast<float>(values[i]));
      else
        value = static_cast<T>(values[i]);
      std::memcpy(out, &value, sizeof(T));
    }
  });
}

/// Calls body(first row, values as doubles, rows) block by block.
template <class Body>
void for_blocks(const RowLayout& rows, const ConvertProgress& progress, Body&& body) {
  const int64_t block = std::min(rows_per_block(rows.d), rows.n);
  std::vector<double> values(static_cast<size_t>(block * rows.d));
  for (int64_t i = 0; i < rows.n; i += block) {
    const int64_t count = std::min(block, rows.n - i);
    read_doubles(rows, i, i + count, values.data());
    body(i, values.data(), count);
    rows.release(i, i + count);
    progress(i + count, rows.n);
  }
}

}  // namespace

int64_t convert_rows(const std::string& in, const std::string& out, const ConvertProgress& progress) {
  const RowLayout rows = open_rows(in);
  const DType dtype = row_dtype(out).value_or(rows.dtype);
  RowWriter writer(out, rows.n, rows.d, dtype);
  std::vector<std::byte> stored;
  for_blocks(rows, progress, [&](int64_t first, const double* values, int64_t count) {
    stored.resize(static_cast<size_t>(count * rows.d) * size_of(dtype));
    store(rows, first, count * rows.d, values, dtype, stored.data());
    writer.write(count, stored.data());
  });
  writer.commit();
  return rows.n;
}

int64_t pack_code_file(const std::string& in, const std::string& out, int64_t K, int64_t K_first,
                       const ConvertProgress& progress) {
  const RowLayout rows = open_rows(in);
  check(rows.dtype == DType::i32 || rows.dtype == DType::i64, "{}: codes of type {}, expected i32 or i64", in,
        name(rows.dtype));
  CodeWriter writer(out, CodeFormat::raw, rows.n, rows.d, K, K_first);
  std::vector<int32_t> codes;
  for_blocks(rows, progress, [&](int64_t first, const double* values, int64_t count) {
    codes.resize(static_cast<size_t>(count * rows.d));
    for (size_t i = 0; i < codes.size(); ++i) {
      const auto [row, column] = std::ldiv(static_cast<int64_t>(i), rows.d);
      const int64_t most = column == 0 && K_first > 0 ? K_first : K;
      check(values[i] >= 0 && values[i] < static_cast<double>(most), "{}: row {} holds a code outside 0 to {}", in,
            first + row, most - 1);
      codes[i] = static_cast<int32_t>(values[i]);
    }
    writer.write(count, codes.data());
  });
  writer.commit();
  return rows.n;
}

int64_t unpack_code_file(const std::string& in, const std::string& out, int64_t M, int64_t K, int64_t K_first,
                         const ConvertProgress& progress) {
  const CodeFile file = CodeFile::open(in, CodeFormat::raw, M, K, K_first);
  RowWriter writer(out, file.size(), M, DType::i32);
  const int64_t n = file.size(), block = std::min(rows_per_block(M), n);
  std::vector<int32_t> codes(static_cast<size_t>(block * M));
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    file.read(i, i + count, codes.data());
    writer.write(count, codes.data());
    progress(i + count, n);
  }
  writer.commit();
  return n;
}

}  // namespace qinco
