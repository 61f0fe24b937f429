// Writing an index file: whole and atomically, or at its end.
#include <algorithm>
#include <cerrno>
#include <numeric>
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
  explicit Writer(Kind kind) : bytes_(kAlign) { header_.kind = kind; }

  template <class T>
  void put(const T* values, int64_t count) {
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t at = bytes_.size();
    bytes_.resize(at + static_cast<size_t>(padded(static_cast<int64_t>(bytes))));
    if (bytes > 0) std::memcpy(bytes_.data() + at, values, bytes);
  }

  /// The section, header included.
  const std::vector<std::byte>& finish() {
    header_.bytes = static_cast<int64_t>(bytes_.size()) - kAlign;
    header_.checksum = checksum(bytes_.data() + kAlign, header_.bytes);
    header_.header_checksum = checksum(&header_, static_cast<int64_t>(offsetof(SectionHeader, header_checksum)));
    std::memcpy(bytes_.data(), &header_, sizeof(header_));
    return bytes_;
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
  Writer writer(Kind::parameters);
  const ParametersHeader header{p.d, p.M, p.K, p.K_ivf, p.model, {}};
  writer.put(&header, 1);
  writer.put(p.codebooks.data<float>(), p.codebooks.numel());
  writer.put(p.levels.data(), static_cast<int64_t>(p.levels.size()));
  return writer.finish();
}

std::vector<std::byte> graph_section(std::span<const std::byte> graph) {
  Writer writer(Kind::graph);
  const GraphHeader header{static_cast<int64_t>(graph.size()), {}};
  writer.put(&header, 1);
  writer.put(graph.data(), header.bytes);
  return writer.finish();
}

/// Entries in the order of lists and ids, cut into the pieces of lists.
std::vector<std::byte> segment_section(int64_t width, const IvfEntries& entries) {
  const auto n = static_cast<int64_t>(entries.ids.size());
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return entries.lists[a] != entries.lists[b] ? entries.lists[a] < entries.lists[b] : entries.ids[a] < entries.ids[b];
  });
  std::vector<uint32_t> lists, counts, ids;
  std::vector<uint8_t> codes;
  for (const int64_t i : order) {
    if (lists.empty() || lists.back() != entries.lists[i]) {
      lists.push_back(entries.lists[i]);
      counts.push_back(0);
    }
    const auto lane = static_cast<size_t>(counts.back()++ % kScanBlock);
    if (lane == 0) {
      ids.resize(ids.size() + kScanBlock, ~uint32_t{0});
      codes.resize(codes.size() + static_cast<size_t>(width * kScanBlock));
    }
    ids[ids.size() - kScanBlock + lane] = entries.ids[i];
    uint8_t* const block = codes.data() + codes.size() - static_cast<size_t>(width * kScanBlock);
    for (int64_t m = 0; m < width; ++m)
      block[static_cast<size_t>(m * kScanBlock) + lane] = entries.bytes[i * width + m];
  }
  std::vector<int64_t> ranges;
  for (const auto& [begin, end] : entries.ranges) ranges.insert(ranges.end(), {begin, end});
  Writer writer(Kind::segment);
  const auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  const SegmentHeader header{n, size(lists), size(ids) / kScanBlock, size(entries.ranges), {}};
  writer.put(&header, 1);
  writer.put(ranges.data(), size(ranges));
  writer.put(lists.data(), size(lists));
  writer.put(counts.data(), size(counts));
  writer.put(ids.data(), size(ids));
  writer.put(codes.data(), size(codes));
  return writer.finish();
}

/// A file open for adding, locked against others who would.
class Appender {
 public:
  explicit Appender(const std::string& path) : path_(path), lock_(path, true, "add"), fd_(lock_.descriptor()) {}

  void truncate(int64_t end) { check_call(::ftruncate(fd_, end) == 0, path_, "write"); }

  void write(const void* data, int64_t bytes, int64_t at) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t n = ::pwrite(fd_, from, static_cast<size_t>(bytes), at);
      if (n < 0 && errno == EINTR) continue;
      check_call(n >= 0, path_, "write");
      check(n > 0, "{}: cannot write: nothing was accepted", path_);
      from += n, at += n, bytes -= n;
    }
  }

  void sync() { check_call(::fdatasync(fd_) == 0, path_, "write"); }

 private:
  const std::string& path_;
  IvfLock lock_;
  int fd_;
};

}  // namespace

void IvfFile::create(const std::string& path, const IvfParameters& parameters, const IvfEntries& entries) {
  std::vector<std::vector<std::byte>> sections = {parameters_section(parameters), graph_section(parameters.graph)};
  if (!entries.ids.empty()) sections.push_back(segment_section(parameters.width(), entries));
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

void IvfFile::append(const std::string& path, const IvfParameters& built, const IvfEntries& entries) {
  Appender out(path);
  const IvfFile index = open(path);
  check(same_build(index.parameters(), built), "{}: cannot add: an index of another build has taken its place", path);
  for (const IvfSegment& segment : index.segments()) check_disjoint(path, segment.ranges, entries.ranges);
  const std::vector<std::byte> section = segment_section(built.width(), entries);
  const auto bytes = static_cast<int64_t>(section.size()), sections = static_cast<int64_t>(index.segments().size()) + 2;
  out.truncate(index.end_);  // drops what a crash left behind it
  int slot = index.slot_;
  uint64_t generation = index.generation_;
  const auto write_slot = [&](int64_t end, int64_t count) {
    slot = 1 - slot;
    const Slot next = make_slot(++generation, end, count);
    out.write(&next, sizeof(next), slot * kSlotStride);
    out.sync();
  };
  if (index.damaged_slot_) write_slot(index.end_, sections);  // one whole slot is needed while the other is written
  out.write(section.data(), bytes, index.end_);
  out.sync();
  write_slot(index.end_ + bytes, sections + 1);
}

}  // namespace qinco
