// Writing an index file: whole and atomically, or at its end.
#include <algorithm>
#include <cerrno>
#include <functional>
#include <numeric>
#include <queue>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/search/ivf_file.h"
#include "qinco/search/ivf_layout.h"
#include "qinco/search/ivf_lock.h"
#include "tensor/file.h"

namespace qinco {
namespace {

using namespace ivf_layout;

using kernels::kScanBlock;

/// Grows the bytes of a section, each part padded.
class Writer {
 public:
  /// For a payload of `bytes`.
  Writer(Kind kind, int64_t bytes) {
    header_.kind = kind;
    bytes_.reserve(static_cast<size_t>(kAlign + bytes));
    bytes_.resize(kAlign);
  }

  /// Room for `count` values, all 0.
  template <class T>
  T* room(int64_t count) {
    const size_t at = bytes_.size();
    bytes_.resize(at + static_cast<size_t>(bytes_of<T>(count)));
    return reinterpret_cast<T*>(bytes_.data() + at);
  }
  template <class T>
  void put(const T* values, int64_t count) {
    if (count > 0) std::memcpy(room<T>(count), values, static_cast<size_t>(count) * sizeof(T));
  }
  /// What `count` values take.
  template <class T>
  static int64_t bytes_of(int64_t count) {
    return padded(count * static_cast<int64_t>(sizeof(T)));
  }

  /// The section, header included. Nothing can be put into it any more.
  std::vector<std::byte> finish() {
    header_.bytes = static_cast<int64_t>(bytes_.size()) - kAlign;
    header_.checksum = checksum(bytes_.data() + kAlign, header_.bytes);
    header_.header_checksum = checksum(&header_, static_cast<int64_t>(offsetof(SectionHeader, header_checksum)));
    std::memcpy(bytes_.data(), &header_, sizeof(header_));
    return std::move(bytes_);
  }

 private:
  SectionHeader header_{};
  std::vector<std::byte> bytes_;
};

Slot make_slot(uint64_t generation, int64_t end, int64_t sections) {
  Slot slot{};
  std::memcpy(slot.magic, kMagic, sizeof(kMagic));
  slot.version = kVersion;
  slot.generation = generation;
  slot.end = end;
  slot.sections = sections;
  slot.checksum = checksum(&slot, static_cast<int64_t>(offsetof(Slot, checksum)));
  return slot;
}

std::vector<std::byte> parameters_section(const IvfParameters& p) {
  const auto levels = static_cast<int64_t>(p.levels.size());
  Writer writer(Kind::parameters,
                kAlign + Writer::bytes_of<float>(p.codebooks.numel()) + Writer::bytes_of<float>(levels));
  const ParametersHeader header{p.d, p.M, p.K, p.K_ivf, p.model, {}};
  writer.put(&header, 1);
  writer.put(p.codebooks.data<float>(), p.codebooks.numel());
  writer.put(p.levels.data(), levels);
  return writer.finish();
}

std::vector<std::byte> graph_section(std::span<const std::byte> graph) {
  const GraphHeader header{static_cast<int64_t>(graph.size()), {}};
  Writer writer(Kind::graph, kAlign + Writer::bytes_of<std::byte>(header.bytes));
  writer.put(&header, 1);
  writer.put(graph.data(), header.bytes);
  return writer.finish();
}

int64_t blocks_of(int64_t entries) {
  return (entries + kScanBlock - 1) / kScanBlock;
}

/// Lists with the number of their entries, ascending.
struct Pieces {
  std::vector<uint32_t> lists, counts;

  void add(uint32_t list, uint32_t count) {
    if (lists.empty() || lists.back() != list) {
      lists.push_back(list);
      counts.push_back(0);
    }
    counts.back() += count;
  }
  int64_t size() const { return static_cast<int64_t>(lists.size()); }
  int64_t blocks() const {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0},
                           [](int64_t sum, uint32_t count) { return sum + blocks_of(count); });
  }
};

/// The section of a segment, into which entries are put in the order of lists and ids.
class SegmentSection {
 public:
  SegmentSection(int64_t width, const std::vector<IdRange>& ranges, Pieces pieces)
      : width_(width), pieces_(std::move(pieces)), writer_(Kind::segment, payload_of(width, ranges, pieces_)) {
    const auto count = static_cast<int64_t>(ranges.size()), blocks = pieces_.blocks();
    const int64_t n = std::accumulate(pieces_.counts.begin(), pieces_.counts.end(), int64_t{0});
    const SegmentHeader header{n, pieces_.size(), blocks, count, {}};
    writer_.put(&header, 1);
    auto* const bounds = writer_.room<int64_t>(2 * count);
    for (size_t i = 0; i < ranges.size(); ++i) bounds[2 * i] = ranges[i].first, bounds[2 * i + 1] = ranges[i].second;
    writer_.put(pieces_.lists.data(), pieces_.size());
    writer_.put(pieces_.counts.data(), pieces_.size());
    ids_ = writer_.room<uint32_t>(blocks * kScanBlock);
    std::fill_n(ids_, blocks * kScanBlock, ~uint32_t{0});
    codes_ = writer_.room<uint8_t>(blocks * width * kScanBlock);
  }

  /// The next entry, whose bytes lie `stride` apart.
  void put(uint32_t id, const uint8_t* bytes, int64_t stride) {
    const int64_t lane = within_ % kScanBlock;
    ids_[block_ * kScanBlock + lane] = id;
    uint8_t* const codes = codes_ + block_ * width_ * kScanBlock + lane;
    for (int64_t m = 0; m < width_; ++m) codes[m * kScanBlock] = bytes[m * stride];
    const bool last = ++within_ == pieces_.counts[piece_];
    if (last || lane + 1 == kScanBlock) ++block_;
    if (last) ++piece_, within_ = 0;
  }

  std::vector<std::byte> finish() { return writer_.finish(); }

 private:
  static int64_t payload_of(int64_t width, const std::vector<IdRange>& ranges, const Pieces& pieces) {
    const int64_t blocks = pieces.blocks();
    return kAlign + Writer::bytes_of<int64_t>(2 * static_cast<int64_t>(ranges.size())) +
           2 * Writer::bytes_of<uint32_t>(pieces.size()) + Writer::bytes_of<uint32_t>(blocks * kScanBlock) +
           Writer::bytes_of<uint8_t>(blocks * width * kScanBlock);
  }

  int64_t width_;
  Pieces pieces_;
  Writer writer_;
  uint32_t* ids_;
  uint8_t* codes_;
  size_t piece_ = 0;
  int64_t within_ = 0, block_ = 0;
};

/// Entries in the order of lists and ids.
std::vector<uint32_t> order_of(const IvfEntries& entries) {
  std::vector<uint32_t> order(entries.ids.size());
  std::iota(order.begin(), order.end(), uint32_t{0});
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return entries.lists[a] != entries.lists[b] ? entries.lists[a] < entries.lists[b] : entries.ids[a] < entries.ids[b];
  });
  return order;
}

/// A list's entries in one of several segments.
struct Part {
  const IvfSegment* segment;
  int64_t piece = 0, block = 0;

  uint32_t count() const { return segment->counts[piece]; }
  uint32_t id(int64_t i) const { return segment->ids[block * kScanBlock + i]; }
  /// The first byte of entry i; the others follow kScanBlock apart.
  const uint8_t* bytes(int64_t i, int64_t width) const {
    return segment->codes + kernels::scan_place(block * kScanBlock + i, 0, width);
  }
};

/// body(list, parts) for every list that has entries, ascending.
template <class Body>
void for_lists(const std::vector<IvfSegment>& segments, Body body) {
  using Next = std::pair<uint32_t, size_t>;  // the next list of a segment
  std::priority_queue<Next, std::vector<Next>, std::greater<>> heads;
  std::vector<Part> next, parts;
  for (const IvfSegment& segment : segments) {
    if (segment.pieces > 0) heads.emplace(segment.lists[0], next.size());
    next.push_back({&segment});
  }
  while (!heads.empty()) {
    const uint32_t list = heads.top().first;
    parts.clear();
    while (!heads.empty() && heads.top().first == list) {
      Part& part = next[heads.top().second];
      parts.push_back(part);
      part.block += blocks_of(part.count());
      const size_t number = heads.top().second;
      heads.pop();
      if (++part.piece < part.segment->pieces) heads.emplace(part.segment->lists[part.piece], number);
    }
    body(list, parts);
  }
}

/// Sorted, with neighbours joined.
std::vector<IdRange> joined(std::vector<IdRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<IdRange> result;
  for (const IdRange& range : ranges) {
    if (!result.empty() && result.back().second == range.first) {
      result.back().second = range.second;
    } else {
      result.push_back(range);
    }
  }
  return result;
}

std::vector<IdRange> ranges_of(const std::vector<IvfSegment>& segments) {
  std::vector<IdRange> ranges;
  for (const IvfSegment& segment : segments) ranges.insert(ranges.end(), segment.ranges.begin(), segment.ranges.end());
  return joined(std::move(ranges));
}

/// Whether all ids of `some` are among those of `segments`.
bool holds(const std::vector<IvfSegment>& segments, const std::vector<IvfSegment>& some) {
  const std::vector<IdRange> held = ranges_of(segments), wanted = ranges_of(some);
  return std::all_of(wanted.begin(), wanted.end(), [&](const IdRange& range) {
    const auto after = std::upper_bound(held.begin(), held.end(), range.first,
                                        [](int64_t id, const IdRange& other) { return id < other.first; });
    return after != held.begin() && range.second <= (after - 1)->second;
  });
}

/// One segment's section of the entries of all, for the file at `path`.
std::vector<std::byte> merged_section(const std::string& path, int64_t width, const std::vector<IvfSegment>& segments) {
  int64_t n = 0;
  for (const IvfSegment& segment : segments) n += segment.n;
  check_blocks(path, blocks_of(n));  // which 32 bits can count
  Pieces pieces;
  for_lists(segments, [&](uint32_t list, const std::vector<Part>& parts) {
    for (const Part& part : parts) pieces.add(list, part.count());
  });
  check_blocks(path, pieces.blocks());
  SegmentSection section(width, ranges_of(segments), std::move(pieces));
  std::vector<std::pair<uint32_t, const uint8_t*>> entries;
  for_lists(segments, [&](uint32_t, const std::vector<Part>& parts) {
    entries.clear();
    for (const Part& part : parts)
      for (int64_t i = 0; i < part.count(); ++i) entries.emplace_back(part.id(i), part.bytes(i, width));
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [id, bytes] : entries) section.put(id, bytes, kScanBlock);
  });
  return section.finish();
}

/// A file open for adding, locked against others who would.
class Appender {
 public:
  explicit Appender(const std::string& path) : path_(path), lock_(path, true, "add"), fd_(lock_.descriptor()) {}

  void truncate(int64_t end) const { check_call(::ftruncate(fd_, end) == 0, path_, "write"); }

  void write(const void* data, int64_t bytes, int64_t at) const {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t n = ::pwrite(fd_, from, static_cast<size_t>(bytes), at);
      if (n < 0 && errno == EINTR) continue;
      check_call(n >= 0, path_, "write");
      check(n > 0, "{}: cannot write: nothing was accepted", path_);
      from += n, at += n, bytes -= n;
    }
  }

  /// Whether the file is the one of this identity, and ends where it did in this generation.
  bool is(const FileIdentity& identity, uint64_t generation, int64_t end) const {
    struct stat info {};
    Slot slots[2];
    for (const int index : {0, 1})
      if (::pread(fd_, &slots[index], sizeof(Slot), index * kSlotStride) != ssize_t{sizeof(Slot)}) return false;
    const Slot& slot = slots[newest(slots)];
    return ::fstat(fd_, &info) == 0 && static_cast<uint64_t>(info.st_dev) == identity.device &&
           static_cast<uint64_t>(info.st_ino) == identity.inode && info.st_size >= end && is_whole(slots[0]) &&
           is_whole(slots[1]) && slot.generation == generation && slot.end == end;
  }

  void sync() const { check_call(::fdatasync(fd_) == 0, path_, "write"); }

 private:
  const std::string& path_;
  IvfLock lock_;
  int fd_;
};

}  // namespace

void IvfFile::create(const std::string& path, const IvfParameters& parameters,
                     const std::vector<IvfSegment>& segments) {
  std::vector<std::vector<std::byte>> sections = {parameters_section(parameters), graph_section(parameters.graph)};
  if (std::any_of(segments.begin(), segments.end(), [](const IvfSegment& segment) { return segment.n > 0; }))
    sections.push_back(merged_section(path, parameters.width(), segments));
  int64_t end = kFirstSection;
  for (const auto& section : sections) end += static_cast<int64_t>(section.size());
  std::vector<std::byte> header(static_cast<size_t>(kFirstSection));
  for (const int index : {0, 1}) {
    const Slot slot = make_slot(static_cast<uint64_t>(index), end, static_cast<int64_t>(sections.size()));
    std::memcpy(header.data() + index * kSlotStride, &slot, sizeof(slot));
  }
  AtomicFile file(path);
  file.write(header.data(), header.size());
  for (const auto& section : sections) file.write(section.data(), section.size());
  file.commit();
}

bool IvfFile::append(const IvfEntries& entries) {
  const std::string path = file_->path();
  const Appender out(path);
  const bool unchanged = out.is(identity_, generation_, end_);
  IvfFile next = unchanged ? *this : open(path);
  check(unchanged || out.is(next.identity_, next.generation_, next.end_) || next.damaged_slot_,
        "{}: cannot add: another process has just replaced it", path);
  check(unchanged || same_build(next.parameters(), parameters()),
        "{}: cannot add: an index of another build has taken its place", path);
  check(unchanged || holds(next.segments(), segments_),
        "{}: cannot add: another index has taken its place, without vectors that were in it", path);
  for (const IvfSegment& segment : next.segments()) check_disjoint(path, segment.ranges, entries.ranges);
  const std::vector<uint32_t> order = order_of(entries);
  Pieces pieces;
  for (const uint32_t i : order) pieces.add(entries.lists[i], 1);
  check_blocks(path, next.blocks() + pieces.blocks());
  const int64_t width = parameters().width(), sections = static_cast<int64_t>(next.segments().size()) + 2;
  SegmentSection segment(width, entries.ranges, std::move(pieces));
  for (const uint32_t i : order) segment.put(entries.ids[i], entries.bytes.data() + i * width, 1);
  const std::vector<std::byte> section = segment.finish();
  const auto bytes = static_cast<int64_t>(section.size());
  const int64_t end = next.end_;
  out.truncate(end);  // drops what a crash left behind it
  const auto write_slot = [&](int64_t at, int64_t count) {
    next.slot_ = 1 - next.slot_;
    const Slot slot = make_slot(++next.generation_, at, count);
    out.write(&slot, sizeof(slot), next.slot_ * kSlotStride);
    out.sync();
  };
  if (next.damaged_slot_) write_slot(end, sections);  // one whole slot is needed while the other is written
  next.damaged_slot_ = false;
  out.write(section.data(), bytes, end);
  next.grow(bytes);  // before the file says that it is longer: nothing may fail after that
  out.sync();
  write_slot(end + bytes, sections + 1);
  *this = std::move(next);
  return unchanged;
}

}  // namespace qinco
