// Files as torch.save writes them, made by hand: every field can lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qinco::testing {

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

struct ArchiveEntry {
  std::string name, data;
  // What is written, where it differs from the truth.
  uint16_t method = 0, flags = 0;
  int64_t listed_size = -1, local_size = -1, listed_offset = -1;
  uint32_t crc = 0;  // 0: not stated
  std::string local_name = {};
};

/// The bytes of a ZIP archive, without zip64.
inline std::string archive(const std::vector<ArchiveEntry>& entries, uint16_t count_offset = 0) {
  std::string bytes, directory;
  for (const ArchiveEntry& entry : entries) {
    const auto offset = static_cast<uint32_t>(entry.listed_offset >= 0 ? entry.listed_offset : bytes.size());
    const auto size = static_cast<uint32_t>(entry.data.size());
    const auto local = static_cast<uint32_t>(entry.local_size >= 0 ? entry.local_size : size);
    const auto listed = static_cast<uint32_t>(entry.listed_size >= 0 ? entry.listed_size : size);
    const std::string& name = entry.local_name.empty() ? entry.name : entry.local_name;
    append(bytes, uint32_t{0x04034b50}), append(bytes, uint16_t{20});
    append(bytes, entry.flags), append(bytes, entry.method), append(bytes, uint32_t{0}), append(bytes, entry.crc);
    append(bytes, local), append(bytes, local);
    append(bytes, static_cast<uint16_t>(name.size())), append(bytes, uint16_t{0});
    bytes += name + entry.data;
    append(directory, uint32_t{0x02014b50}), append(directory, uint16_t{20}), append(directory, uint16_t{20});
    append(directory, entry.flags), append(directory, entry.method), append(directory, uint32_t{0});
    append(directory, entry.crc), append(directory, listed), append(directory, listed);
    append(directory, static_cast<uint16_t>(entry.name.size()));
    directory.append(12, '\0');
    append(directory, offset);
    directory += entry.name;
  }
  const auto begin = static_cast<uint32_t>(bytes.size());
  const auto count = static_cast<uint16_t>(entries.size() + count_offset);
  bytes += directory;
  append(bytes, uint32_t{0x06054b50}), append(bytes, uint32_t{0}), append(bytes, count), append(bytes, count);
  append(bytes, static_cast<uint32_t>(directory.size())), append(bytes, begin), append(bytes, uint16_t{0});
  return bytes;
}

/// A file of the given data.pkl, and one storage "0" of 16 floats.
inline std::string torch_file(const std::string& pickle) {
  return archive({{"m/data.pkl", pickle}, {"m/data/0", std::string(64, '\0')}});
}

// Pieces of pickles, protocol 2.

inline std::string text(const std::string& value) {
  std::string bytes = "X";
  append(bytes, static_cast<uint32_t>(value.size()));
  return bytes + value;
}
inline std::string integer(int64_t value) {
  std::string bytes = "\x8a\x08";
  append(bytes, value);
  return bytes;
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::string& items) {
  return "(" + items + "t";
}
inline std::string pickle(const std::string& value) {
  return "\x80\x02" + value + ".";
}
/// A tensor on storage `key` of `numel` elements.
inline std::string tensor(const std::string& sizes, const std::string& strides, int64_t offset = 0, int64_t numel = 16,
                          const std::string& type = "FloatStorage", const std::string& key = "0") {
  const std::string storage = tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + integer(numel));
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(storage + "Q" + integer(offset) + tuple(sizes) + tuple(strides) + "\x89N") + "R";
}
inline std::string dict(const std::string& items) {
  return "}(" + items + "u";
}

}  // namespace qinco::testing
