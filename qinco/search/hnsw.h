// A graph over vectors for approximate nearest-neighbour search: HNSW (Malkov & Yashunin, PAMI 2018), by hnswlib. As a
// coarse quantizer it finds the nearest of many centroids without comparing with all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace qinco {

/// A value, on the CPU; copies share the graph. Searches may run in many threads at once.
class Hnsw {
 public:
  /// The graph of x [n,d]: `links` per vector (2 to 1000; twice as many in the lowest layer), candidates considered
  /// while building ef_construction >= 1. In one thread: the same graph every time. Throws Error for sizes out of
  /// range. `poll`, if set, is called before each vector: it may throw, which ends the building.
  static Hnsw build(int64_t n, int64_t d, const float* x, int64_t links, int64_t ef_construction,
                    const std::function<void()>& poll = {});

  /// What bytes() gave, for vectors of dimension d. Throws Error when it is not that.
  static Hnsw from_bytes(int64_t d, std::span<const std::byte> bytes);
  /// The graph, vectors included.
  std::vector<std::byte> bytes() const;

  int64_t size() const;
  /// About the k nearest to query [d]: ids [k] nearest first, -1 where fewer were found; max(ef, k) candidates are kept
  /// on the way.
  void search(const float* query, int64_t k, int64_t ef, int32_t* ids) const;

 private:
  struct Graph;
  explicit Hnsw(std::shared_ptr<Graph> graph) : graph_(std::move(graph)) {}
  std::shared_ptr<Graph> graph_;
};

}  // namespace qinco
