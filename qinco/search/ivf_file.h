// The file of an IVF-QINCo index: written once, then appended to, batch by batch, without ever being in an unreadable
// state. Layout: docs/files.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace qinco {

/// What does not change after an index is built.
struct IvfParameters {
  int64_t d = 0, M = 0, K = 0, K_ivf = 0;
  uint64_t model = 0;                // fingerprint of the model whose codes are kept
  Tensor codebooks;                  // f32 [M,K,d], fitted to the residuals
  std::vector<float> levels;         // [256] of the norms' bytes
  std::span<const std::byte> graph;  // Hnsw::bytes of the centroids; empty: the coarse quantizer is flat

  int64_t width() const { return M + 1; }  // bytes of an entry beside its id: codes, norm
};

/// Ids begin..end-1.
using IdRange = std::pair<int64_t, int64_t>;

/// Entries of some lists, as they lie in the file.
struct IvfSegment {
  int64_t n = 0;                     // entries
  int64_t pieces = 0;                // lists that have some
  int64_t blocks = 0;                // blocks of 32 entries, a list's last one padded
  std::vector<IdRange> ranges;       // of the ids
  const uint32_t* lists = nullptr;   // [pieces], ascending
  const uint32_t* counts = nullptr;  // [pieces] entries, at least 1
  const uint32_t* ids = nullptr;     // [blocks,32]
  const uint8_t* codes = nullptr;    // [blocks,width,32]: what the scan kernel reads
};

/// Entries to be written: list, id and bytes [width] of each.
struct IvfEntries {
  std::vector<uint32_t> lists, ids;
  std::vector<uint8_t> bytes;  // [n,width]
  std::vector<IdRange> ranges;
};

/// Which file a name stands for: two are the same while one of them is open or mapped.
struct FileIdentity {
  uint64_t device = 0, inode = 0;
  bool operator==(const FileIdentity&) const = default;
};

/// An index file that was opened for reading: a value, whose copies share the mapping.
class IvfFile {
 public:
  /// Writes an index of the entries of `segments`, which have no id in common, list by list and in the order of their
  /// ids, atomically. Throws Error where they are too many, or the disk is full. In memory: that index once.
  static void create(const std::string& path, const IvfParameters& parameters,
                     const std::vector<IvfSegment>& segments = {});

  /// Maps the file and verifies every checksum. Throws Error naming the file when it is truncated, damaged or no index.
  /// A header slot that a crash left half written is no damage: the other one says what to read.
  static IvfFile open(const std::string& path);

  /// Adds entries to the file at path(), durably: after a crash at any moment all of them are in it, or none. Entries
  /// of a list are put in the order of their ids; they were made for these parameters. Throws Error when another
  /// process is adding or merging, the file is of another build or lacks ids that this object has, an id is in it
  /// already, it would hold more blocks than can be searched, or the disk is full; file and object are then what they
  /// were. Else the object is what is in the file, and its segments the same and one more, or, as false says, others:
  /// where somebody else wrote to the file meanwhile. Unless that is so, what was verified is not read again.
  bool append(const IvfEntries& entries);
  /// Throws Error where the file at path() cannot be opened for writing.
  void check_writable() const;

  /// Whether the file begins as an index does. Throws Error where it cannot be read.
  static bool is_index(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const IvfParameters& parameters() const { return parameters_; }
  const std::vector<IvfSegment>& segments() const { return segments_; }
  int64_t size() const;    // entries
  int64_t blocks() const;  // of 32 entries, padding among them
  int64_t bytes() const { return end_; }
  /// The id after the largest one.
  int64_t next_id() const;

 private:
  void map(const std::string& path);
  void read_segment_at(int64_t& at);
  void grow(int64_t bytes);

  std::shared_ptr<const MappedFile> file_;
  FileIdentity identity_;  // of what is mapped; none if it was replaced while being opened
  IvfParameters parameters_;
  std::vector<IvfSegment> segments_;
  int64_t end_ = 0;
  int slot_ = 0;               // the header slot that counts
  uint64_t generation_ = 0;    // and its generation
  bool damaged_slot_ = false;  // whether the other one is not whole
};

/// Throws Error when so many blocks cannot be searched, whose entries have numbers of 32 bits.
void check_blocks(const std::string& path, int64_t blocks);

/// Whether two indexes are copies of one that was built: of the same model, fitted to the same vectors.
bool same_build(const IvfParameters& a, const IvfParameters& b);

/// Throws Error "IDS ids B to E are in the index already" where a range of `more` overlaps one of `ranges`.
void check_disjoint(const std::string& path, const std::vector<IdRange>& ranges, const std::vector<IdRange>& more);

}  // namespace qinco
