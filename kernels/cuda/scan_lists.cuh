// The lists of a scan on the device, and the scores of their vectors in float.
#pragma once

#include <cstring>
#include <new>
#include <vector>

#include "kernels/cuda/block_select.cuh"
#include "kernels/cuda/upload.h"
#include "kernels/kernels.h"

namespace qinco::kernels::cuda {

/// A list of a query; `begin`: the blocks of 32 in the query's lists before, of which there are fewer than 2^31. As ids
/// are, n is below 2^32.
struct Segment {
  const uint8_t* codes;
  const float* norms;
  uint32_t n, first;
  int begin;
  float bias;
};

/// The last of the lists that begins at `place` or before; the first begins at 0.
template <class List>
__device__ const List& list_at(const List* lists, int64_t count, int64_t place) {
  int64_t low = 0, high = count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (lists[middle].begin <= place)
      low = middle;
    else
      high = middle - 1;
  }
  return lists[low];
}

/// A query's lists; empty ones are left out.
struct Segments {
  const Segment* list;
  int count;
  int blocks;
};

/// A list while a thread is at it. Vectors are named by their block among all of the query's, and their place in it.
class CurrentList {
 public:
  /// Goes on to the list of a block that is not before the last call's.
  __device__ void move_to(int block, const Segments& segments, int M) {
    if (block < end_) return;
    const Segment& list = list_at(segments.list, segments.count, block);
    const int64_t n = list.n, blocks = (n + kScanBlock - 1) / kScanBlock;
    codes_ = list.codes - int64_t{list.begin} * M * kScanBlock;
    norms_ = list.norms ? list.norms - int64_t{list.begin} * kScanBlock : nullptr;
    end_ = list.begin + static_cast<int>(blocks);
    tail_ = static_cast<int>(n - (blocks - 1) * kScanBlock);
    first_ = list.first - static_cast<uint32_t>(list.begin) * static_cast<uint32_t>(kScanBlock);
    bias_ = list.bias;
  }

  __device__ bool has_block(int block) const { return block < end_; }
  __device__ bool has(int block, int at) const { return block + 1 < end_ || at < tail_; }
  __device__ uint32_t id(int block, int at) const {
    return first_ + static_cast<uint32_t>(block) * static_cast<uint32_t>(kScanBlock) + static_cast<uint32_t>(at);
  }
  /// What every score of a vector begins with.
  __device__ float offset(int block, int at) const {
    return norms_ && has(block, at) ? bias_ + __ldg(norms_ + int64_t{block} * kScanBlock + at) : bias_;
  }
  /// Those of 4 vectors.
  template <bool words>
  __device__ void offsets(int block, int at, float (&four)[4]) const {
    if (words && has(block, at + 3)) return offsets_of_all(block, at, four);
#pragma unroll
    for (int v = 0; v < 4; ++v) four[v] = offset(block, at + v);
  }
  /// Where all 4 are there, and lie at a multiple of 16 bytes.
  __device__ void offsets_of_all(int block, int at, float (&four)[4]) const {
    four[0] = four[1] = four[2] = four[3] = bias_;
    if (!norms_) return;
    const float4 norms = __ldg(reinterpret_cast<const float4*>(norms_ + int64_t{block} * kScanBlock + at));
    four[0] += norms.x, four[1] += norms.y, four[2] += norms.z, four[3] += norms.w;
  }
  /// The first code; the others follow kScanBlock apart.
  __device__ const uint8_t* codes(int block, int at, int M) const {
    return codes_ + int64_t{block} * M * kScanBlock + at;
  }

 private:
  const uint8_t* codes_ = nullptr;  // of block 0, as if all blocks were this list's; so norms_ and first_
  const float* norms_ = nullptr;
  int end_ = 0, tail_ = 0;  // the block behind the last, and what the last holds
  uint32_t first_ = 0;
  float bias_ = 0;
};

inline int blocks_of(const ScanList<float>& list) {
  return static_cast<int>((list.n + kScanBlock - 1) / kScanBlock);
}
inline int64_t blocks_of(const ScanQuery<float>& query) {
  int64_t blocks = 0;
  for (int64_t l = 0; l < query.lists; ++l) blocks += blocks_of(query.list[l]);
  return blocks;
}

/// A query of a batch, whose lists are among the batch's segments.
struct BatchQuery {
  const float* tables;  // [M,256]
  int64_t first;        // of its segments
  int count;
  int blocks;   // of 32 vectors
  int samples;  // blocks in its sample, if there is one

  __device__ Segments lists(const Segment* segments) const { return {segments + first, count, blocks}; }
};

/// The host's: queries and their lists, for the device.
class Batch {
 public:
  struct OnDevice {
    const BatchQuery* queries;
    const Segment* segments;
  };

  /// The query is read once more by to_device. `like`: one of the batch that has the same lists, or -1.
  void add(const ScanQuery<float>* query, int64_t like = -1) {
    BatchQuery own{query->tables, segments_, 0, 0, 0};
    if (like >= 0) {
      own = queries[static_cast<size_t>(like)];
      own.tables = query->tables;
    } else {
      bool aligned = words;
      for (int64_t l = 0; l < query->lists; ++l) {
        const ScanList<float>& list = query->list[l];
        if (list.n == 0) continue;
        aligned &=
            ((reinterpret_cast<uintptr_t>(list.codes) & 3) | (reinterpret_cast<uintptr_t>(list.norms) & 15)) == 0;
        own.blocks += blocks_of(list);
        ++own.count;
      }
      words = aligned;
      segments_ += own.count;
      sources_.push_back(query);
    }
    queries.push_back(own);
  }

  /// In one copy.
  OnDevice to_device(const Context& context, ScratchFrame& frame) const {
    const auto of_queries = static_cast<int64_t>(queries.size()) * kRecord, all = of_queries + segments_ * kRecord;
    auto* const device = frame.get<unsigned char>(all);
    Written written;
    copy_written(context.device.index, device, static_cast<size_t>(all), kRecord, [&](void* to, size_t bytes) {
      auto* const at = static_cast<unsigned char*>(to);
      write(written, at, at + bytes);
    });
    return {reinterpret_cast<const BatchQuery*>(device), reinterpret_cast<const Segment*>(device + of_queries)};
  }

  std::vector<BatchQuery> queries;
  bool words = true;  // whether all codes lie at multiples of 4 bytes, and norms of 16

 private:
  static constexpr int64_t kRecord = 32;
  static_assert(sizeof(BatchQuery) == kRecord && sizeof(Segment) == kRecord);

  // How far `write` has come: queries, then the lists of sources.
  struct Written {
    size_t queries = 0, sources = 0;
    int64_t list = 0;  // of the source
    int begin = 0;     // of that list
  };

  // The next records.
  void write(Written& w, unsigned char* to, const unsigned char* end) const {
    for (; to < end && w.queries < queries.size(); to += kRecord) std::memcpy(to, &queries[w.queries++], kRecord);
    while (to < end) {
      const ScanQuery<float>& query = *sources_[w.sources];
      int64_t l = w.list;
      int begin = w.begin;
      for (; to < end && l < query.lists; ++l) {
        const ScanList<float>& list = query.list[l];
        if (list.n == 0) continue;
        // In place: what is put together elsewhere and copied from there waits for its parts.
        new (to) Segment{list.codes, list.norms, static_cast<uint32_t>(list.n), static_cast<uint32_t>(list.first),
                         begin,      list.bias};
        to += kRecord;
        begin += blocks_of(list);
      }
      const bool done = l == query.lists;
      w.sources += done, w.list = done ? 0 : l, w.begin = done ? 0 : begin;
    }
  }

  std::vector<const ScanQuery<float>*> sources_;
  int64_t segments_ = 0;
};

template <class T>
T* to_device(const Context& context, ScratchFrame& frame, const std::vector<T>& host) {
  T* const device = frame.get<T>(static_cast<int64_t>(host.size()));
  copy_bytes(context.device, device, {}, host.data(), host.size() * sizeof(T));
  return device;
}

template <bool words>
__device__ uint32_t load_codes(const uint8_t* from) {
  if constexpr (words) return __ldg(reinterpret_cast<const uint32_t*>(from));
  return from[0] | from[1] << 8 | from[2] << 16 | static_cast<uint32_t>(from[3]) << 24;
}

/// Offers a block's share of the vectors in blocks [begin, end) of a query: 4 vectors a thread and round, whose codes
/// come 4 by a load. As everywhere scores are summed in order: bias, norm, codes. words: Batch's.
template <bool words>
__device__ void offer_vectors(BlockSelect<>& best, int M, const Segments& segments, const float* tables, int begin,
                              int end) {
  const int at = threadIdx.x % 8 * 4;
  CurrentList list;
  for (int round = begin; round < end; round += kRound / static_cast<int>(kScanBlock)) {
    const int block = round + static_cast<int>(threadIdx.x) / 8;
    float scores[4] = {};
    if (block < end) {
      list.move_to(block, segments, M);
      list.offsets<words>(block, at, scores);
      const uint8_t* codes = list.codes(block, at, M);
      const float* table = tables;
#pragma unroll 8
      for (int m = 0; m < M; ++m, codes += kScanBlock, table += kScanEntries) {
        const uint32_t four = load_codes<words>(codes);
#pragma unroll
        for (int v = 0; v < 4; ++v) scores[v] += table[four >> 8 * v & 255];
      }
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) best.offer(block < end && list.has(block, at + v), scores[v], list.id(block, at + v));
    best.end_round();
  }
}

}  // namespace qinco::kernels::cuda
