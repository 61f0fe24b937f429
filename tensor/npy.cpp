#include "tensor/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

#include "kernels/check.h"
#include "tensor/create.h"

namespace qinco {

namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);

struct Descr {
  DType dtype;
  std::string_view text;
};
constexpr Descr kDescrs[] = {{DType::f32, "<f4"}, {DType::f64, "<f8"}, {DType::f16, "<f2"},
                             {DType::u8, "|u1"},  {DType::i32, "<i4"}, {DType::i64, "<i8"}};

/// Reads the one Python literal that a header is: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(const std::string& path, std::string_view text) : path_(path), rest_(text) {}

  NpyHeader parse() {
    NpyHeader header;
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr" && !std::exchange(descr, true))
        header.dtype = dtype();
      else if (key == "fortran_order" && !std::exchange(order, true))
        require_c_order();
      else if (key == "shape" && !std::exchange(shape, true))
        header.shape = tuple();
      else
        broken();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (!rest_.empty() || !descr || !order || !shape) broken();
    return header;
  }

 private:
  [[noreturn]] void broken() const { fail("{}: malformed .npy header", path_); }

  void skip_space() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\n' || rest_[0] == '\t')) rest_.remove_prefix(1);
  }
  bool accept(char c) {
    skip_space();
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char c) {
    if (!accept(c)) broken();
  }
  std::string_view quoted() {
    expect('\'');
    const size_t end = rest_.find('\'');
    if (end == std::string_view::npos) broken();
    const std::string_view text = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return text;
  }
  DType dtype() {
    skip_space();
    check(!rest_.starts_with('['), "{}: expected a plain .npy array, found a structured one", path_);
    const std::string_view text = quoted();
    const auto* const found =
        std::find_if(std::begin(kDescrs), std::end(kDescrs), [&](const Descr& descr) { return descr.text == text; });
    if (found != std::end(kDescrs)) return found->dtype;
    const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
    fail("{}: expected dtype <f4, <f8, <f2, |u1, <i4 or <i8, found {}", path_,
         plain && text.size() <= 16 ? text : "something else");
  }
  void require_c_order() {
    skip_space();
    check(!rest_.starts_with("True"), "{}: expected C order, found Fortran order", path_);
    if (!rest_.starts_with("False")) broken();
    rest_.remove_prefix(5);
  }
  Shape tuple() {
    Shape shape;
    expect('(');
    while (!accept(')')) {
      skip_space();
      int64_t size = 0;
      const auto [stop, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (error != std::errc() || size < 0) broken();
      check(shape.size() < kMaxDims, "{}: expected at most {} dimensions, found more", path_, kMaxDims);
      shape.push_back(size);
      rest_.remove_prefix(static_cast<size_t>(stop - rest_.data()));
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  const std::string& path_;
  std::string_view rest_;
};

}  // namespace

bool is_npy(const MappedFile& file) {
  return file.size() >= static_cast<int64_t>(kMagic.size()) &&
         std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

NpyHeader parse_npy_header(const MappedFile& file) {
  const std::string& path = file.path();
  const auto* const bytes = reinterpret_cast<const unsigned char*>(file.data());
  const int64_t size = file.size();
  check(size >= 10 && is_npy(file), "{}: not a .npy file", path);
  const int version = bytes[6];
  check(1 <= version && version <= 3, "{}: expected .npy version 1 to 3, found {}", path, version);
  const int64_t start = version == 1 ? 10 : 12;
  check(size >= start, "{}: truncated .npy header", path);
  int64_t length = 0;
  for (int64_t i = start - 1; i >= 8; --i) length = length * 256 + bytes[i];
  check(length <= size - start, "{}: truncated .npy header: {} bytes announced, {} left", path, length, size - start);
  NpyHeader header =
      HeaderParser(path, {reinterpret_cast<const char*>(bytes) + start, static_cast<size_t>(length)}).parse();
  header.data_offset = start + length;
  int64_t expected = 0;
  try {
    expected = checked_mul(header.shape.numel(), static_cast<int64_t>(size_of(header.dtype)), "shape");
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
  check(size - header.data_offset == expected, "{}: expected {} bytes of data for {} {}, found {}", path, expected,
        name(header.dtype), header.shape, size - header.data_offset);
  return header;
}

std::string npy_header(DType dtype, const Shape& shape) {
  const auto* const descr =
      std::find_if(std::begin(kDescrs), std::end(kDescrs), [&](const Descr& d) { return d.dtype == dtype; });
  check(descr != std::end(kDescrs), "npy: dtype {} has no .npy form", name(dtype));
  std::string sizes;
  for (const int64_t size : shape) sizes += fmt::format("{}, ", size);
  if (shape.size() > 1) sizes.resize(sizes.size() - 2);
  if (shape.size() == 1) sizes.pop_back();
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr->text, sizes);
  const size_t total = (10 + text.size() + 1 + 63) / 64 * 64;
  text.resize(total - 11, ' ');
  text += '\n';
  const size_t length = text.size();
  std::string header(kMagic);
  header += {'\x01', '\x00', static_cast<char>(length & 0xff), static_cast<char>(length >> 8)};
  return header + text;
}

Tensor read_npy(const std::string& path) {
  const auto file = MappedFile::open(path);
  const NpyHeader header = parse_npy_header(*file);
  auto* const data = const_cast<std::byte*>(file->data()) + header.data_offset;
  const Tensor mapped = wrap(data, header.shape, header.dtype, std::const_pointer_cast<MappedFile>(file));
  if (header.data_offset % static_cast<int64_t>(size_of(header.dtype)) == 0) return mapped;
  // Not aligned to its elements (NumPy never writes that, others may): move the bytes to where it is.
  const Tensor copy = Tensor::empty(header.shape, header.dtype);
  if (copy.numel() > 0) std::memcpy(copy.bytes(), data, static_cast<size_t>(copy.numel()) * size_of(copy.dtype()));
  return copy;
}

void write_npy(const std::string& path, const Tensor& x) {
  check(x.defined(), "{}: the tensor to write is undefined", path);
  const std::string header = npy_header(x.dtype(), x.shape());
  const Tensor values = x.contiguous().to(Device{});
  AtomicFile file(path);
  file.write(header.data(), header.size());
  file.write(values.bytes(), static_cast<size_t>(values.numel()) * size_of(values.dtype()));
  file.commit();
}

}  // namespace qinco
