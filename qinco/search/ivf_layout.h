// The bytes of an index file. Two header slots and then sections, each padded to 64 bytes: parameters, graph, segments.
// A section is its header and its payload. The slot of the higher generation says where the file ends; adding writes
// behind that end, syncs, and then writes the other slot: what is behind the end is of an addition that a crash cut
// short, and is ignored. Where the slot itself was cut short, the other one counts, and the section behind its end,
// which was on the disk before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace qinco::ivf_layout {

inline constexpr char kMagic[8] = {'Q', 'I', 'N', 'C', 'O', 'I', 'V', 'F'};
inline constexpr uint32_t kVersion = 1;
inline constexpr int64_t kSlotStride = 4096;  // a slot in a page, hence in a disk sector, of its own
inline constexpr int64_t kFirstSection = 2 * kSlotStride;
inline constexpr int64_t kAlign = 64;

struct Slot {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t generation;
  int64_t end;        // bytes of the file that count
  int64_t sections;   // two, and one a segment
  uint64_t checksum;  // of the bytes before it
};

enum class Kind : uint64_t { parameters = 1, segment = 2, graph = 3 };

struct SectionHeader {
  Kind kind;
  int64_t bytes;               // of the payload, a multiple of kAlign
  uint64_t checksum;           // of the payload
  uint64_t header_checksum;    // of the bytes before it
  uint64_t reserved[4] = {0};  // to kAlign bytes
};
static_assert(sizeof(SectionHeader) == kAlign);

struct ParametersHeader {
  int64_t d, M, K, K_ivf;
  uint64_t model;
  int64_t reserved[3];
};
static_assert(sizeof(ParametersHeader) == kAlign);

struct GraphHeader {
  int64_t bytes;  // 0: none, the coarse quantizer is flat
  int64_t reserved[7];
};
static_assert(sizeof(GraphHeader) == kAlign);

struct SegmentHeader {
  int64_t n, pieces, blocks, ranges;
  int64_t reserved[4];
};
static_assert(sizeof(SegmentHeader) == kAlign);

inline int64_t padded(int64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

/// A 64-bit hash of bytes; any change within 8 aligned bytes changes it. Four lanes, for speed.
inline uint64_t checksum(const void* data, int64_t bytes) {
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;
  uint64_t lanes[4] = {1, 2, 3, 4};
  const auto* from = static_cast<const unsigned char*>(data);
  int64_t i = 0;
  for (int lane = 0; i < bytes; i += 8, lane = (lane + 1) % 4) {
    uint64_t word = 0;
    std::memcpy(&word, from + i, static_cast<size_t>(bytes - i < 8 ? bytes - i : 8));
    const uint64_t mixed = (lanes[lane] ^ word) * kPrime;
    lanes[lane] = mixed ^ mixed >> 29;
  }
  uint64_t all = static_cast<uint64_t>(bytes);
  for (const uint64_t lane : lanes) {
    all = (all ^ lane) * kPrime;
    all ^= all >> 29;
  }
  return all;
}

inline bool has_magic(const Slot& slot) {
  return std::memcmp(slot.magic, kMagic, sizeof(kMagic)) == 0;
}

inline bool is_whole(const Slot& slot) {
  return has_magic(slot) && slot.checksum == checksum(&slot, static_cast<int64_t>(offsetof(Slot, checksum)));
}

/// Which of the two slots counts, at least one being whole.
inline int newest(const Slot (&slots)[2]) {
  return is_whole(slots[0]) && (!is_whole(slots[1]) || slots[0].generation > slots[1].generation) ? 0 : 1;
}

}  // namespace qinco::ivf_layout
