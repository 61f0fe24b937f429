// ZIP archives as PyTorch writes them: stored entries, with or without zip64, read in place from a mapped file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file.h"

namespace qinco::torch {

/// One file of the archive; name and data lie on the mapped archive.
struct ZipEntry {
  std::string_view name;
  std::span<const std::byte> data;
  uint32_t crc = 0;  // 0: the writer left it out
};

/// The entries of an archive, found through its central directory.
class ZipArchive {
 public:
  /// Throws Error naming the file for anything but a consistent archive: directory or entries outside the file,
  /// overlapping, of sizes that differ between directory and entry, named twice, compressed or encrypted, or spread
  /// over several disks. Memory: 64 bytes per entry.
  explicit ZipArchive(std::shared_ptr<const MappedFile> file);

  const std::shared_ptr<const MappedFile>& file() const { return file_; }
  /// Sorted by name.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null if there is none of that name.
  const ZipEntry* find(std::string_view name) const;
  /// Throws Error when the entry's bytes do not have the checksum it states.
  void check_crc(const ZipEntry& entry) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<ZipEntry> entries_;
};

/// Whether a file begins as a ZIP archive does.
bool is_zip(const MappedFile& file);

}  // namespace qinco::torch
