#include "qinco/search/ivf_file.h"

#include <algorithm>
#include <cmath>
#include <fcntl.h>
#include <limits>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/search/ivf_layout.h"
#include "qinco/search/ivf_limits.h"

namespace qinco {
namespace {

using namespace ivf_layout;

using kernels::kScanBlock;
constexpr int64_t kLevels = 256;

/// Walks through a part of the file; never past its end.
class Reader {
 public:
  Reader(const std::string& path, const std::byte* data, int64_t size) : path_(path), data_(data), size_(size) {}

  /// The next `count` rows of `width` >= 1 values, whose padding is skipped as well.
  template <class T>
  const T* take(int64_t count, int64_t width = 1) {
    const int64_t room = (size_ - at_) / static_cast<int64_t>(sizeof(T)) / width;
    check(count >= 0 && count <= room, "{}: damaged index: a section of {} bytes cannot hold {} times {} values", path_,
          size_, count, width);  // it is padded: what fits, fits with its padding
    const std::byte* const from = data_ + at_;
    at_ += padded(count * width * static_cast<int64_t>(sizeof(T)));
    return reinterpret_cast<const T*>(from);
  }
  bool at_end() const { return at_ == size_; }

 private:
  const std::string& path_;
  const std::byte* data_;
  int64_t size_;
  int64_t at_ = 0;
};

Slot read_slot(const MappedFile& file, int index) {
  Slot slot;
  std::memcpy(&slot, file.data() + index * kSlotStride, sizeof(slot));
  return slot;
}

/// Of the file that has this name now; of none where there is none.
FileIdentity identity_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return {};
  return {static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino)};
}

/// The payload of the section at `at`, which is moved behind it.
Reader next_section(const MappedFile& file, int64_t end, Kind kind, int64_t& at) {
  const std::string& path = file.path();
  check(at + kAlign <= end, "{}: damaged index: {} bytes do not hold all sections", path, end);
  SectionHeader header;
  std::memcpy(&header, file.data() + at, sizeof(header));
  const uint64_t expected = checksum(&header, static_cast<int64_t>(offsetof(SectionHeader, header_checksum)));
  check(header.header_checksum == expected && header.kind == kind, "{}: damaged index: section header at byte {}", path,
        at);
  const std::byte* const payload = file.data() + at + kAlign;
  check(header.bytes >= 0 && header.bytes <= end - at - kAlign && header.bytes % kAlign == 0,
        "{}: damaged index: section of {} bytes at byte {} of {}", path, header.bytes, at, end);
  check(header.checksum == checksum(payload, header.bytes), "{}: damaged index: checksum of the section at byte {}",
        path, at);
  at += kAlign + header.bytes;
  return Reader(path, payload, header.bytes);
}

IvfParameters read_parameters(const std::string& path, Reader reader) {
  const auto& header = *reader.take<ParametersHeader>(1);
  IvfParameters p;
  p.d = header.d, p.M = header.M, p.K = header.K, p.K_ivf = header.K_ivf, p.model = header.model;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const bool sizes = p.d >= 1 && p.d <= kMost && p.M >= 1 && p.M <= kMost && p.K >= 2 && p.K <= 256 && p.K_ivf >= 1 &&
                     p.K_ivf <= kMost;
  check(sizes, "{}: damaged index: d={} M={} K={} K_ivf={}", path, p.d, p.M, p.K, p.K_ivf);
  const float* const codebooks = reader.take<float>(p.M, p.K * p.d);
  p.codebooks = Tensor::empty({p.M, p.K, p.d});
  std::copy_n(codebooks, p.codebooks.numel(), p.codebooks.data<float>());
  const float* const levels = reader.take<float>(kLevels);
  p.levels.assign(levels, levels + kLevels);
  return p;
}

std::span<const std::byte> read_graph(Reader reader) {
  const int64_t bytes = reader.take<GraphHeader>(1)->bytes;
  return {reader.take<std::byte>(bytes), static_cast<size_t>(bytes)};
}

IvfSegment read_segment(const std::string& path, const IvfParameters& p, Reader reader) {
  const auto& header = *reader.take<SegmentHeader>(1);
  IvfSegment s;
  s.n = header.n, s.pieces = header.pieces, s.blocks = header.blocks;
  const int64_t* const ranges = reader.take<int64_t>(header.ranges, 2);
  for (int64_t i = 0; i < header.ranges; ++i) s.ranges.emplace_back(ranges[2 * i], ranges[2 * i + 1]);
  s.lists = reader.take<uint32_t>(s.pieces);
  s.counts = reader.take<uint32_t>(s.pieces);
  s.ids = reader.take<uint32_t>(s.blocks, kScanBlock);
  s.codes = reader.take<uint8_t>(s.blocks, p.width() * kScanBlock);
  int64_t n = 0, blocks = 0;
  bool ordered = reader.at_end();
  for (int64_t i = 0; i < s.pieces; ++i) {
    ordered &= s.lists[i] < p.K_ivf && (i == 0 || s.lists[i - 1] < s.lists[i]) && s.counts[i] > 0;
    n += s.counts[i];
    blocks += (s.counts[i] + kScanBlock - 1) / kScanBlock;
  }
  check(ordered && n == s.n && blocks == s.blocks, "{}: damaged index: a segment's lists do not agree with its sizes",
        path);
  return s;
}

}  // namespace

bool IvfFile::is_index(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const int64_t size = file->size(), slot = sizeof(Slot);
  return (size >= slot && has_magic(read_slot(*file, 0))) ||
         (size >= kSlotStride + slot && has_magic(read_slot(*file, 1)));
}

void IvfFile::check_writable() const {
  const int fd = ::open(path().c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  check_call(fd >= 0, path(), "write");
  ::close(fd);
}

void IvfFile::map(const std::string& path) {
  const FileIdentity before = identity_of(path);
  file_ = MappedFile::open(path);
  identity_ = identity_of(path) == before ? before : FileIdentity{};
}

void IvfFile::read_segment_at(int64_t& at) {
  segments_.push_back(read_segment(path(), parameters_, next_section(*file_, end_, Kind::segment, at)));
}

// Maps a section of `bytes` that was written behind the end.
void IvfFile::grow(int64_t bytes) {
  const std::shared_ptr<const MappedFile> shorter = file_;
  const FileIdentity same = identity_;
  map(shorter->path());
  check(identity_ == same, "{}: cannot add: another process has just replaced it", path());
  check(file_->size() >= end_ + bytes, "{}: truncated index: {} bytes, expected {}", path(), file_->size(),
        end_ + bytes);
  const auto moved = [&](auto* from) {
    const std::byte* const at = file_->data() + (reinterpret_cast<const std::byte*>(from) - shorter->data());
    return reinterpret_cast<decltype(from)>(at);
  };
  for (IvfSegment& s : segments_)
    s.lists = moved(s.lists), s.counts = moved(s.counts), s.ids = moved(s.ids), s.codes = moved(s.codes);
  parameters_.graph = {moved(parameters_.graph.data()), parameters_.graph.size()};
  int64_t at = end_;
  end_ += bytes;
  read_segment_at(at);
}

IvfFile IvfFile::open(const std::string& path) {
  IvfFile result;
  result.map(path);
  const MappedFile& file = *result.file_;
  check(file.size() >= kFirstSection, "{}: {} bytes, too short for an index", path, file.size());
  const Slot slots[2] = {read_slot(file, 0), read_slot(file, 1)};
  const bool whole[2] = {is_whole(slots[0]), is_whole(slots[1])};
  check(has_magic(slots[0]) || has_magic(slots[1]), "{}: not an index file", path);
  check(whole[0] || whole[1], "{}: damaged index: both header slots", path);
  result.slot_ = newest(slots);
  result.damaged_slot_ = !(whole[0] && whole[1]);
  const Slot& slot = slots[result.slot_];
  check(slot.version == kVersion, "{}: index of version {}, expected {}", path, slot.version, kVersion);
  check(slot.end <= file.size(), "{}: truncated index: {} bytes, expected {}", path, file.size(), slot.end);
  result.generation_ = slot.generation;
  // A slot is written once its section is on the disk: where that was cut short, the section behind the end counts.
  result.end_ = result.damaged_slot_ ? file.size() : slot.end;
  int64_t at = kFirstSection;
  result.parameters_ = read_parameters(path, next_section(file, slot.end, Kind::parameters, at));
  result.parameters_.graph = read_graph(next_section(file, slot.end, Kind::graph, at));
  for (int64_t i = 2; i < slot.sections || (at == slot.end && at < result.end_); ++i) result.read_segment_at(at);
  check(at == result.end_, "{}: damaged index: sections end at byte {}, expected {}", path, at, result.end_);
  return result;
}

bool same_build(const IvfParameters& a, const IvfParameters& b) {
  const auto same_values = [](const Tensor& x, const Tensor& y) {
    return std::equal(x.data<float>(), x.data<float>() + x.numel(), y.data<float>());
  };
  return a.d == b.d && a.M == b.M && a.K == b.K && a.K_ivf == b.K_ivf && a.model == b.model &&
         same_values(a.codebooks, b.codebooks) && a.levels == b.levels &&
         std::equal(a.graph.begin(), a.graph.end(), b.graph.begin(), b.graph.end());
}

int64_t IvfFile::size() const {
  int64_t n = 0;
  for (const IvfSegment& segment : segments_) n += segment.n;
  return n;
}

int64_t IvfFile::blocks() const {
  int64_t blocks = 0;
  for (const IvfSegment& segment : segments_) blocks += segment.blocks;
  return blocks;
}

int64_t IvfFile::next_id() const {
  int64_t next = 0;
  for (const IvfSegment& segment : segments_)
    for (const IdRange& range : segment.ranges) next = std::max(next, range.second);
  return next;
}

void check_blocks(const std::string& path, int64_t blocks) {
  check(blocks <= ivf_limits::most_blocks,
        "{}: {} blocks of 32 entries, expected at most {} (where there are several segments, merging needs fewer)",
        path, blocks, ivf_limits::most_blocks);
}

void check_disjoint(const std::string& path, const std::vector<IdRange>& ranges, const std::vector<IdRange>& more) {
  for (const auto& [begin, end] : more)
    for (const auto& [other_begin, other_end] : ranges)
      check(end <= other_begin || other_end <= begin, "{}: ids {} to {} are in the index already", path,
            std::max(begin, other_begin), std::min(end, other_end) - 1);
}

}  // namespace qinco
