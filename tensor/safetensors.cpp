#include "tensor/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <vector>

#include "kernels/check.h"
#include "tensor/blocks.h"
#include "tensor/create.h"

namespace qinco {

namespace {

using nlohmann::ordered_json;

constexpr int64_t kMaxHeader = 1 << 23;   // bytes, of the format's 100 MB; kMaxTensors need less: to refuse one number
                                          // of this size takes 80 MB of memory
constexpr size_t kMaxTensors = 1 << 16;   // what this library will hold of them
constexpr size_t kMaxMetadata = 1 << 24;  // bytes of keys and values, which count kMetadataItem more each pair
constexpr size_t kMetadataItem = 128;     // what a pair costs beyond its bytes
constexpr const char* kMetadata = "__metadata__";

struct TypeName {
  DType dtype;
  std::string_view text;
};
constexpr TypeName kTypeNames[] = {{DType::f32, "F32"}, {DType::f64, "F64"}, {DType::bf16, "BF16"}, {DType::f16, "F16"},
                                   {DType::u8, "U8"},   {DType::i32, "I32"}, {DType::i64, "I64"}};

/// One tensor's line of the header. Offsets are relative to the start of the data.
struct Entry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape, offsets;
};

/// Reads the header event by event, so that memory stays bounded by what the grammar allows:
/// {"NAME": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {"KEY": "TEXT"}}
class HeaderReader {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  // The interface that nlohmann::json::sax_parse calls.
  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("true or false"); }
  bool number_integer(int64_t) { unexpected("a negative number"); }
  bool number_float(double, const std::string&) { unexpected("a fraction"); }
  bool binary(std::vector<uint8_t>&) { unexpected("binary data"); }
  bool number_unsigned(uint64_t value) {
    if (depth_ != 3) unexpected("a number");
    std::vector<uint64_t>& list = field_ == "shape" ? entries.back().shape : entries.back().offsets;
    check(list.size() < static_cast<size_t>(kMaxDims), "{}: tensor {}: more than {} values in {}", path_, quote(name_),
          kMaxDims, field_);
    list.push_back(value);
    return true;
  }
  bool string(std::string& text) {
    if (depth_ != 2 || (!in_metadata() && field_ != "dtype")) unexpected("a string");
    if (!in_metadata()) return entries.back().dtype = text, true;
    metadata_bytes_ += field_.size() + text.size() + kMetadataItem;
    check(metadata_bytes_ <= kMaxMetadata, "{}: metadata of {} bytes, expected at most {}", path_, metadata_bytes_,
          kMaxMetadata);
    metadata[field_] = text;
    return true;
  }
  bool start_object(size_t) {
    if (depth_ > 1) unexpected("an object");
    if (++depth_ == 2) {
      fields_.clear();
      if (in_metadata()) return true;
      check(entries.size() < kMaxTensors, "{}: expected at most {} tensors, found more", path_, kMaxTensors);
      entries.push_back({name_, {}, {}, {}});
    }
    return true;
  }
  bool key(std::string& text) {
    if (depth_ == 1) {
      check(names_.insert(text).second, "{}: duplicate name {}", path_, quote(text));
      name_ = text;
      return true;
    }
    const bool known = in_metadata() || text == "dtype" || text == "shape" || text == "data_offsets";
    check(known, "{}: tensor {}: unknown field {}", path_, quote(name_), quote(text));
    check(fields_.insert(text).second, "{}: {}: duplicate field {}", path_, quote(name_), quote(text));
    field_ = text;
    return true;
  }
  bool end_object() {
    if (depth_-- == 2 && !in_metadata())
      check(fields_.size() == 3, "{}: tensor {}: expected dtype, shape and data_offsets", path_, quote(name_));
    return true;
  }
  bool start_array(size_t) {
    if (depth_ != 2 || in_metadata() || field_ == "dtype") unexpected("an array");
    ++depth_;
    return true;
  }
  bool end_array() {
    --depth_;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    fail("{}: malformed header: not JSON at byte {}", path_, position);
  }

 private:
  bool in_metadata() const { return name_ == kMetadata; }
  [[noreturn]] void unexpected(const char* found) const {
    fail("{}: malformed header: unexpected {} in {}", path_, found, depth_ == 0 ? "place of an object" : quote(name_));
  }

  const std::string& path_;
  size_t metadata_bytes_ = 0;
  int depth_ = 0;  // 1 in the header, 2 in a tensor or the metadata, 3 in a list
  std::string name_, field_;
  std::set<std::string> names_, fields_;
};

// One tensor of the file. `data` [size] is everything after the header.
Tensor make_tensor(const Entry& entry, std::byte* data, uint64_t size, const std::shared_ptr<void>& owner) {
  const auto* const type = std::find_if(std::begin(kTypeNames), std::end(kTypeNames),
                                        [&](const TypeName& t) { return t.text == entry.dtype; });
  check(type != std::end(kTypeNames), "expected dtype F32, F64, BF16, F16, U8, I32 or I64, found {}",
        quote(entry.dtype));
  Shape shape;
  for (const uint64_t dim : entry.shape) {
    check(dim <= static_cast<uint64_t>(INT64_MAX), "size {} overflows", dim);
    shape.push_back(static_cast<int64_t>(dim));
  }
  check(entry.offsets.size() == 2, "expected 2 data_offsets, found {}", entry.offsets.size());
  const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  check(begin <= end && end <= size, "data_offsets {}..{} leave the file's {} bytes of data", begin, end, size);
  const int64_t expected = checked_mul(shape.numel(), static_cast<int64_t>(size_of(type->dtype)), "shape");
  check(end - begin == static_cast<uint64_t>(expected), "expected {} bytes for {} {}, found {}", expected, entry.dtype,
        shape, end - begin);
  std::byte* const first = data + begin;
  if (reinterpret_cast<uintptr_t>(first) % size_of(type->dtype) == 0) return wrap(first, shape, type->dtype, owner);
  const Tensor copy = Tensor::empty(shape, type->dtype);  // not aligned to its elements: move it to where it is
  if (expected > 0) std::memcpy(copy.bytes(), first, static_cast<size_t>(expected));
  return copy;
}

// The ranges must cover the data exactly, without overlap.
void check_coverage(const std::string& path, std::vector<Entry>& entries, uint64_t size) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  uint64_t at = 0;
  for (const Entry& entry : entries) {
    check(entry.offsets[0] >= at, "{}: tensor {}: its data overlaps another's", path, quote(entry.name));
    check(entry.offsets[0] == at, "{}: tensor {}: a hole of {} bytes before its data", path, quote(entry.name),
          entry.offsets[0] - at);
    at = entry.offsets[1];
  }
  check(at == size, "{}: expected {} bytes of data, found {}", path, at, size);
}

// The header's text, entry by entry: a JSON object that keeps its order looks for each new name among all it has.
std::string header_of(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& order,
                      const std::map<std::string, std::string>& metadata) {
  const auto quoted = [&](const std::string& text) {
    try {
      return ordered_json(text).dump();
    } catch (const nlohmann::json::exception&) {
      fail("{}: a tensor's name or the metadata is not UTF-8", path);
    }
  };
  std::string header = "{";
  const auto add = [&](const std::string& key, const std::string& value) {
    if (header.back() != '{') header += ',';
    header += quoted(key) + ':' + value;
  };
  if (!metadata.empty()) {
    size_t bytes = 0;
    header += quoted(kMetadata) + ":{";
    for (const auto& [key, value] : metadata) {
      bytes += key.size() + value.size() + kMetadataItem;
      add(key, quoted(value));
    }
    header += '}';
    check(bytes <= kMaxMetadata, "{}: metadata of {} bytes, expected at most {}", path, bytes, kMaxMetadata);
  }
  int64_t at = 0;
  for (const auto& [name, tensor] : order) {
    check(name != kMetadata, "{}: a tensor cannot be named {}", path, kMetadata);
    check(tensor.defined(), "{}: tensor {} is undefined", path, quote(name));
    const int64_t end = at + tensor.numel() * static_cast<int64_t>(size_of(tensor.dtype()));
    add(name, fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                          kTypeNames[static_cast<size_t>(tensor.dtype())].text, tensor.shape(), at, end));
    at = end;
  }
  header += '}';
  header.resize((8 + header.size() + 63) / 64 * 64 - 8, ' ');
  check(static_cast<int64_t>(header.size()) <= kMaxHeader, "{}: header of {} bytes, expected at most {}", path,
        header.size(), kMaxHeader);
  return header;
}

}  // namespace

SafetensorsFile read_safetensors(const std::string& path) {
  return read_safetensors(MappedFile::open(path));
}

SafetensorsFile read_safetensors(std::shared_ptr<const MappedFile> file) {
  const std::string& path = file->path();
  check(file->size() >= 8, "{}: not a safetensors file: {} bytes", path, file->size());
  uint64_t length = 0;
  std::memcpy(&length, file->data(), sizeof length);
  check(length <= static_cast<uint64_t>(file->size() - 8),
        "{}: not a safetensors file, or truncated: header of {} bytes in a file of {}", path, length, file->size());
  check(length <= static_cast<uint64_t>(kMaxHeader), "{}: header of {} bytes, expected at most {}", path, length,
        kMaxHeader);
  const auto* const text = reinterpret_cast<const char*>(file->data()) + 8;
  check(length >= 2 && text[0] == '{', "{}: not a safetensors file: no JSON header", path);
  HeaderReader reader(path);
  ordered_json::sax_parse(text, text + length, &reader);

  auto* const data = const_cast<std::byte*>(file->data()) + 8 + length;
  const uint64_t size = static_cast<uint64_t>(file->size()) - 8 - length;
  SafetensorsFile result;
  result.metadata = std::move(reader.metadata);
  const std::shared_ptr<void> owner = std::const_pointer_cast<MappedFile>(file);
  for (const Entry& entry : reader.entries) {
    try {
      result.tensors[entry.name] = make_tensor(entry, data, size, owner);
    } catch (const Error& error) {
      fail("{}: tensor {}: {}", path, quote(entry.name), error.what());
    }
  }
  check_coverage(path, reader.entries, size);
  result.file = std::move(file);
  return result;
}

void write_safetensors(const std::string& path, const SafetensorsFile& file) {
  std::vector<std::pair<std::string, Tensor>> order(file.tensors.begin(), file.tensors.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return size_of(a.second.dtype()) > size_of(b.second.dtype()); });
  check(order.size() <= kMaxTensors, "{}: expected at most {} tensors, found {}", path, kMaxTensors, order.size());
  const std::string text = header_of(path, order, file.metadata);
  const uint64_t length = text.size();
  AtomicFile out(path);
  out.write(&length, sizeof length);
  out.write(text.data(), text.size());
  for (const auto& [name, tensor] : order)
    for_blocks(tensor.to(Device{}), file.file.get(), [&](const Tensor& block) {
      out.write(block.bytes(), static_cast<size_t>(block.numel()) * size_of(block.dtype()));
    });
  out.commit();
}

}  // namespace qinco
