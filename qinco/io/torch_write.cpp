// write_torch_file: a ZIP archive of stored entries, as torch.save lays it out.
#include <fmt/format.h>
#include <functional>
#include <vector>
#include <zlib.h>

#include "kernels/check.h"
#include "qinco/io/torch/pickle_input.h"
#include "qinco/io/torch_file.h"
#include "tensor/blocks.h"

namespace qinco {
namespace {

constexpr size_t kAlignment = 64;  // of every entry's data
constexpr const char* kFolder = "model/";
constexpr std::string_view kScale = ".db_scale";

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Gives the bytes of an entry, piece by piece, to what it is called with; it is called twice.
using Sink = std::function<void(const void* data, size_t size)>;
using Content = std::function<void(const Sink& sink)>;

Content content_of(std::string_view bytes) {
  return [bytes](const Sink& sink) { sink(bytes.data(), bytes.size()); };
}
/// `file`: what the tensor may lie on.
Content content_of(const Tensor& tensor, const MappedFile* file) {
  return [&tensor, file](const Sink& sink) {
    for_blocks(tensor, file, [&](const Tensor& block) {
      sink(block.bytes(), static_cast<size_t>(block.numel()) * size_of(block.dtype()));
    });
  };
}

/// Writes entries one after the other; every size and offset goes into zip64 fields, so one layout serves all sizes.
class ZipWriter {
 public:
  explicit ZipWriter(const std::string& path) : file_(path) {}

  void add(const std::string& name, const Content& content) {
    Entry entry{kFolder + name, 0, 0, at_};
    content([&entry](const void* data, size_t bytes) {
      entry.crc = static_cast<uint32_t>(crc32_z(entry.crc, static_cast<const Bytef*>(data), bytes));
      entry.size += bytes;
    });
    std::string header;
    append(header, uint32_t{0x04034b50});
    append_fields(header, entry);
    append(header, kIn64), append(header, kIn64);
    const size_t fixed = at_ + header.size() + 4 + entry.name.size() + kZip64Local + 4;
    const size_t padding = (kAlignment - fixed % kAlignment) % kAlignment;
    append(header, static_cast<uint16_t>(entry.name.size()));
    append(header, static_cast<uint16_t>(kZip64Local + 4 + padding));
    header += entry.name;
    append(header, uint16_t{1}), append(header, static_cast<uint16_t>(kZip64Local - 4));
    append(header, entry.size), append(header, entry.size);
    append(header, uint16_t{0x4246}), append(header, static_cast<uint16_t>(padding));  // torch's padding field
    header.append(padding, 'Z');
    write(header.data(), header.size());
    content([this](const void* data, size_t bytes) { write(data, bytes); });
    entries_.push_back(entry);
  }

  /// Writes the directory; the file appears under its name.
  void commit() {
    const uint64_t begin = at_;
    for (const Entry& entry : entries_) {
      std::string record;
      append(record, uint32_t{0x02014b50}), append(record, uint16_t{45});
      append_fields(record, entry);
      append(record, kIn64), append(record, kIn64);
      append(record, static_cast<uint16_t>(entry.name.size())), append(record, uint16_t{28});
      record.append(10, '\0');  // comment, disk, attributes
      append(record, kIn64);
      record += entry.name;
      append(record, uint16_t{1}), append(record, uint16_t{24});
      append(record, entry.size), append(record, entry.size), append(record, entry.offset);
      write(record.data(), record.size());
    }
    const uint64_t size = at_ - begin, end = at_, count = entries_.size();
    std::string record;
    append(record, uint32_t{0x06064b50}), append(record, uint64_t{44});
    append(record, uint16_t{45}), append(record, uint16_t{45}), append(record, uint64_t{0});
    append(record, count), append(record, count), append(record, size), append(record, begin);
    append(record, uint32_t{0x07064b50}), append(record, uint32_t{0}), append(record, end), append(record, uint32_t{1});
    append(record, uint32_t{0x06054b50}), append(record, uint32_t{0});
    append(record, uint16_t{0xffff}), append(record, uint16_t{0xffff});
    append(record, kIn64), append(record, kIn64), append(record, uint16_t{0});
    write(record.data(), record.size());
    file_.commit();
  }

 private:
  static constexpr uint32_t kIn64 = 0xffffffff;
  static constexpr size_t kZip64Local = 20;

  struct Entry {
    std::string name;
    uint32_t crc;
    uint64_t size, offset;
  };

  /// What local header and directory share: version, flags (UTF-8), method, time, date, checksum.
  static void append_fields(std::string& header, const Entry& entry) {
    append(header, uint16_t{45}), append(header, uint16_t{1 << 11}), append(header, uint16_t{0});
    append(header, uint16_t{0}), append(header, uint16_t{(1 << 5) | 1});
    append(header, entry.crc);
  }
  void write(const void* data, size_t size) {
    file_.write(data, size);
    at_ += size;
  }

  AtomicFile file_;
  uint64_t at_ = 0;
  std::vector<Entry> entries_;
};

/// Pickles with protocol 2, the oldest that every PyTorch since 1.6 reads.
class PickleWriter {
 public:
  PickleWriter() { op(torch::kProto), append(bytes_, uint8_t{2}); }

  void op(torch::Opcode code) { bytes_ += static_cast<char>(code); }
  void text(std::string_view value) {
    op(torch::kBinUnicode);
    append(bytes_, static_cast<uint32_t>(value.size()));
    bytes_ += value;
  }
  void integer(int64_t value) { op(torch::kLong1), append(bytes_, uint8_t{8}), append(bytes_, value); }
  void global(std::string_view module, std::string_view name) {
    op(torch::kGlobal);
    bytes_.append(module).append("\n").append(name).append("\n");
  }
  void ordered_dict() { global("collections", "OrderedDict"), op(torch::kEmptyTuple), op(torch::kReduce); }
  void tensor(const Tensor& tensor, const std::string& key);
  const std::string& finish() {
    op(torch::kStop);
    return bytes_;
  }

 private:
  std::string bytes_;
};

constexpr const char* kStorages[] = {"FloatStorage", "DoubleStorage", "BFloat16Storage", "HalfStorage",
                                     "ByteStorage",  "IntStorage",    "LongStorage"};  // in the order of DType

void PickleWriter::tensor(const Tensor& tensor, const std::string& key) {
  global("torch._utils", "_rebuild_tensor_v2");
  op(torch::kMark);
  op(torch::kMark), text("storage"), global("torch", kStorages[static_cast<size_t>(tensor.dtype())]), text(key),
      text("cpu"), integer(tensor.numel()), op(torch::kTuple), op(torch::kBinPersId);
  integer(0);
  op(torch::kMark);
  for (const int64_t size : tensor.shape()) integer(size);
  op(torch::kTuple), op(torch::kMark);
  for (int i = 0; i < tensor.dim(); ++i) integer(contiguous_strides(tensor.shape())[static_cast<size_t>(i)]);
  op(torch::kTuple), op(torch::kNewFalse), ordered_dict(), op(torch::kTuple), op(torch::kReduce);
}

}  // namespace

void write_torch_file(const std::string& path, const ModelContents& contents) {
  PickleWriter pickle;
  pickle.ordered_dict();
  int64_t key = 0;
  for (const auto& [name, tensor] : contents.tensors) {
    pickle.text(name), pickle.tensor(tensor, fmt::to_string(key++)), pickle.op(torch::kSetItem);
  }
  pickle.op(torch::kEmptyDict), pickle.text("_metadata"), pickle.ordered_dict();
  for (const auto& [name, value] : contents.metadata) {
    const bool whole = name == kScale.substr(1);
    if (!whole && !name.ends_with(kScale)) continue;
    pickle.text(whole ? std::string() : name.substr(0, name.size() - kScale.size()));  // the module
    pickle.op(torch::kEmptyDict), pickle.text("version"), pickle.integer(1), pickle.op(torch::kSetItem);
    metadata_double(path, contents.metadata, name);                                 // throws unless it is a number
    pickle.text(kScale.substr(1)), pickle.text(value), pickle.op(torch::kSetItem);  // 1.13 opens no reals
    const std::string prefix = name.substr(0, name.size() - kScale.size() + 1);     // "" or "MODULE."
    for (const char* size : {"L", "h"}) {                                           // with M = 1 no tensor shows them
      if (contents.metadata.count(prefix + size) == 0) continue;
      pickle.text(size), pickle.integer(metadata_int(path, contents.metadata, prefix + size));
      pickle.op(torch::kSetItem);
    }
    pickle.op(torch::kSetItem);
  }
  pickle.op(torch::kSetItem), pickle.op(torch::kBuild);
  ZipWriter zip(path);
  zip.add("data.pkl", content_of(pickle.finish()));
  zip.add("byteorder", content_of("little"));
  key = 0;
  for (const auto& [name, tensor] : contents.tensors)
    zip.add("data/" + fmt::to_string(key++), content_of(tensor, contents.file.get()));
  zip.add("version", content_of("3\n"));
  zip.commit();
}

}  // namespace qinco
