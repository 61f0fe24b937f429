#include "qinco/io/torch/zip.h"

#include <algorithm>
#include <cstring>
#include <zlib.h>

#include "kernels/check.h"

namespace qinco::torch {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50, kCentralSignature = 0x02014b50, kEndSignature = 0x06054b50,
                   kEnd64Signature = 0x06064b50, kLocator64Signature = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocator64Size = 20,
                   kEnd64Tail = 12;  // bytes of the zip64 end record that its own size leaves out
constexpr uint64_t kMaxComment = 65535;
constexpr uint64_t kMaxEntries = 1 << 18;  // far above any model's tensors: bounds the memory of a hostile archive
constexpr uint16_t kEncrypted = 1 << 0, kSizesFollow = 1 << 3, kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xffffffff;  // a 32-bit field whose value is in the zip64 extra field

/// What the central directory says of an entry.
struct Listed {
  std::string_view name;
  uint16_t flags = 0, method = 0;
  uint32_t crc = 0;
  uint64_t packed = 0, size = 0, offset = 0;
};

struct Directory {
  uint64_t offset = 0, size = 0, entries = 0;
  uint64_t end = 0;  // where the record that says so begins
};

/// Bounds-checked access to the archive's bytes.
class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file), size_(static_cast<uint64_t>(file.size())) {}

  uint64_t size() const { return size_; }
  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) fail("{}: ZIP archive: {}", file_.path(), fmt::format(format, std::forward<Args>(args)...));
  }
  const std::byte* at(uint64_t offset, uint64_t count, const char* what) const {
    check(offset <= size_ && count <= size_ - offset, "{} at byte {} ({} bytes) leaves the file's {} bytes", what,
          offset, count, size_);
    return file_.data() + offset;
  }
  std::string_view text(uint64_t offset, uint64_t count, const char* what) const {
    return {reinterpret_cast<const char*>(at(offset, count, what)), count};
  }

 private:
  const MappedFile& file_;
  uint64_t size_;
};

/// The zip64 record that the locator before the end record points to.
Directory find_directory64(const Reader& in, uint64_t end) {
  in.check(end >= kLocator64Size, "no room for the zip64 locator");
  const std::byte* const locator = in.at(end - kLocator64Size, kLocator64Size, "zip64 locator");
  in.check(load_as<uint32_t>(locator) == kLocator64Signature, "sizes are said to be in a zip64 record, found none");
  const auto offset = load_as<uint64_t>(locator + 8);
  const std::byte* const record = in.at(offset, kEnd64Size, "zip64 end record");
  in.check(load_as<uint32_t>(record) == kEnd64Signature, "no zip64 end record at byte {}", offset);
  in.check(load_as<uint64_t>(record + 4) + kEnd64Tail == end - kLocator64Size - offset,
           "the zip64 end record at byte {} does not end at its locator", offset);
  in.check(load_as<uint32_t>(record + 16) == 0 && load_as<uint32_t>(record + 20) == 0, "spread over several disks");
  return {.offset = load_as<uint64_t>(record + 48),
          .size = load_as<uint64_t>(record + 40),
          .entries = load_as<uint64_t>(record + 32),
          .end = offset};
}

/// Reads the end record, the last one whose comment reaches exactly the end of the file.
Directory find_directory(const Reader& in) {
  in.check(in.size() >= kEndSize, "{} bytes are too few", in.size());
  const uint64_t last = in.size() - kEndSize;
  for (uint64_t back = 0; back <= std::min(last, kMaxComment); ++back) {
    const uint64_t end = last - back;
    const std::byte* const record = in.at(end, kEndSize, "end record");
    if (load_as<uint32_t>(record) != kEndSignature || load_as<uint16_t>(record + 20) != back) continue;
    const bool has64 = end >= kLocator64Size &&
                       load_as<uint32_t>(in.at(end - kLocator64Size, 4, "zip64 locator")) == kLocator64Signature;
    const auto entries = load_as<uint16_t>(record + 10);
    const auto size = load_as<uint32_t>(record + 12), offset = load_as<uint32_t>(record + 16);
    if (has64 || entries == 0xffff || size == kIn64 || offset == kIn64) return find_directory64(in, end);
    in.check(load_as<uint16_t>(record + 4) == 0, "spread over several disks");
    return {.offset = offset, .size = size, .entries = entries, .end = end};
  }
  in.check(false, "no end record: truncated, or not a ZIP archive");
  return {};
}

/// Replaces the fields that say so by the values of the zip64 extra field, in the order the format fixes.
void apply_zip64(const Reader& in, uint64_t extra, uint64_t length, std::initializer_list<uint64_t*> fields) {
  if (std::none_of(fields.begin(), fields.end(), [](const uint64_t* field) { return *field == kIn64; })) return;
  const std::byte* const bytes = in.at(extra, length, "extra field");
  for (uint64_t at = 0; at + 4 <= length;) {
    const auto id = load_as<uint16_t>(bytes + at), size = load_as<uint16_t>(bytes + at + 2);
    in.check(at + 4 + size <= length, "an extra field of {} bytes leaves its {} bytes", size, length);
    at += 4;
    if (id != kZip64Extra) {
      at += size;
      continue;
    }
    for (uint64_t from = at; uint64_t * field : fields) {
      if (*field != kIn64) continue;
      in.check(from + 8 <= at + size, "a zip64 extra field of {} bytes is too short", size);
      *field = load_as<uint64_t>(bytes + from);
      from += 8;
    }
    return;
  }
  in.check(false, "an entry's sizes are said to be in a zip64 extra field, found none");
}

/// Reads the entry of the central directory at byte `at`, and moves `at` behind it.
Listed read_listed(const Reader& in, uint64_t& at) {
  const std::byte* const fixed = in.at(at, kCentralSize, "directory entry");
  in.check(load_as<uint32_t>(fixed) == kCentralSignature, "no directory entry at byte {}", at);
  const auto name = load_as<uint16_t>(fixed + 28), extra = load_as<uint16_t>(fixed + 30),
             comment = load_as<uint16_t>(fixed + 32);
  Listed listed;
  listed.flags = load_as<uint16_t>(fixed + 8);
  listed.method = load_as<uint16_t>(fixed + 10);
  listed.crc = load_as<uint32_t>(fixed + 16);
  listed.packed = load_as<uint32_t>(fixed + 20);
  listed.size = load_as<uint32_t>(fixed + 24);
  listed.offset = load_as<uint32_t>(fixed + 42);
  listed.name = in.text(at + kCentralSize, name, "entry name");
  apply_zip64(in, at + kCentralSize + name, extra, {&listed.size, &listed.packed, &listed.offset});
  at += kCentralSize + uint64_t{name} + extra + comment;
  return listed;
}

/// Checks the entry against its local header; `limit`: where the next thing of the file begins.
ZipEntry open_entry(const Reader& in, const Listed& listed, uint64_t limit) {
  const std::string name = quote(listed.name);
  in.check((listed.flags & kEncrypted) == 0, "entry {} is encrypted", name);
  in.check(listed.method == 0, "entry {} is compressed (method {}), expected stored", name, listed.method);
  in.check(listed.packed == listed.size, "entry {}: {} bytes stored for {}", name, listed.packed, listed.size);
  const std::byte* const local = in.at(listed.offset, kLocalSize, "entry");
  in.check(load_as<uint32_t>(local) == kLocalSignature, "entry {}: no header at byte {}", name, listed.offset);
  const auto name_size = load_as<uint16_t>(local + 26), extra_size = load_as<uint16_t>(local + 28);
  const uint64_t extra = listed.offset + kLocalSize + name_size, data = extra + extra_size;
  in.check(in.text(listed.offset + kLocalSize, name_size, "entry name") == listed.name,
           "entry {} has another name at byte {}", name, listed.offset);
  in.check(load_as<uint16_t>(local + 8) == 0, "entry {} is compressed at byte {}", name, listed.offset);
  if ((load_as<uint16_t>(local + 6) & kSizesFollow) == 0) {
    uint64_t packed = load_as<uint32_t>(local + 18), size = load_as<uint32_t>(local + 22);
    apply_zip64(in, extra, extra_size, {&size, &packed});
    in.check(packed == listed.size && size == listed.size, "entry {}: {} bytes in the directory, {} at the entry", name,
             listed.size, size);
  }
  in.check(data <= limit && listed.size <= limit - data, "entry {}: {} bytes at byte {} overlap what begins at byte {}",
           name, listed.size, data, limit);
  return {listed.name, {in.at(data, listed.size, "data"), listed.size}, listed.crc};
}

}  // namespace

bool is_zip(const MappedFile& file) {
  return file.size() >= 4 && load_as<uint32_t>(file.data()) == kLocalSignature;
}

ZipArchive::ZipArchive(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
  const Reader in(*file_);
  const Directory directory = find_directory(in);
  in.at(directory.offset, directory.size, "directory");
  in.check(directory.offset + directory.size == directory.end,
           "the directory ends at byte {}, the record of its end begins at byte {}", directory.offset + directory.size,
           directory.end);
  in.check(directory.entries <= kMaxEntries, "{} entries, expected at most {}", directory.entries, kMaxEntries);
  in.check(directory.entries <= directory.size / kCentralSize, "{} entries in a directory of {} bytes",
           directory.entries, directory.size);
  std::vector<Listed> listed;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) listed.push_back(read_listed(in, at));
  in.check(at == directory.offset + directory.size, "a directory of {} bytes, expected {}", at - directory.offset,
           directory.size);
  std::sort(listed.begin(), listed.end(), [](const Listed& a, const Listed& b) { return a.offset < b.offset; });
  for (size_t i = 0; i < listed.size(); ++i)
    entries_.push_back(open_entry(in, listed[i], i + 1 < listed.size() ? listed[i + 1].offset : directory.offset));
  std::sort(entries_.begin(), entries_.end(), [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(entries_.begin(), entries_.end(),
                                        [](const ZipEntry& a, const ZipEntry& b) { return a.name == b.name; });
  in.check(twice == entries_.end(), "two entries are named {}", twice == entries_.end() ? "" : quote(twice->name));
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const ZipEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

void ZipArchive::check_crc(const ZipEntry& entry) const {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return;
#endif
  if (entry.crc == 0) return;
  constexpr size_t kBlock = size_t{16} << 20;
  const int64_t begin = entry.data.data() - file_->data();
  uLong crc = crc32(0, nullptr, 0);
  for (size_t i = 0; i < entry.data.size(); i += kBlock) {
    const size_t count = std::min(kBlock, entry.data.size() - i);
    crc = crc32(crc, reinterpret_cast<const Bytef*>(entry.data.data() + i), static_cast<uInt>(count));
    file_->release(begin + static_cast<int64_t>(i), begin + static_cast<int64_t>(i + count));
  }
  check(crc == entry.crc, "{}: ZIP archive: entry {} is damaged: checksum {:08x}, expected {:08x}", file_->path(),
        quote(entry.name), crc, entry.crc);
}

}  // namespace qinco::torch
