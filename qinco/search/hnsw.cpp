#include "qinco/search/hnsw.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <hnswlib/hnswlib.h>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

#include "kernels/check.h"
#include "tensor/file.h"

namespace qinco {
namespace {

constexpr size_t kSeed = 100;
constexpr size_t kMinLinks = 2, kMaxLinks = 1000;  // a vector, in all layers but the lowest
constexpr size_t kIdBytes = sizeof(hnswlib::tableint);

/// A file in memory with a path, since hnswlib reads and writes by path only.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("qinco-hnsw", MFD_CLOEXEC)) {
    check(fd_ >= 0, "HNSW: cannot make a file in memory: {}", std::generic_category().message(errno));
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }

  void write(std::span<const std::byte> bytes) const {
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
      check(n > 0, "HNSW: no memory for {} bytes", bytes.size());
      done += static_cast<size_t>(n);
    }
  }
  std::vector<std::byte> read() const {
    std::vector<std::byte> bytes(static_cast<size_t>(::lseek(fd_, 0, SEEK_END)));
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::pread(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
      check(n > 0, "HNSW: the graph cannot be read back");
      done += static_cast<size_t>(n);
    }
    return bytes;
  }

 private:
  int fd_;
};

/// What hnswlib writes first. Then n elements (links of the lowest layer, vector, label), and for each of them the
/// bytes of its links in the layers above, and these.
struct Head {
  size_t first_at, capacity, n, element_bytes, label_at, vector_at;
  int32_t top_layer;
  uint32_t entry;  // the vector where searches start, in the top layer
  size_t links, lowest_links, M;
  double level_factor;
  size_t ef_construction;
};
static_assert(sizeof(Head) == 96);

/// A list of links: its length, then room for `room` ids of vectors that reach up to its layer. layers [n]: how many
/// each vector is in, besides the lowest.
void check_links(const std::byte* list, size_t room, size_t layer, const std::vector<size_t>& layers) {
  const auto count = load_as<uint32_t>(list);  // the upper half would mark a deleted vector
  bool sound = count <= room;
  for (size_t i = 0; sound && i < count; ++i) {
    const auto id = load_as<uint32_t>(list + (i + 1) * kIdBytes);
    sound = id < layers.size() && layers[id] >= layer;
  }
  check(sound, "HNSW: damaged graph: links in layer {}", layer);
}

/// hnswlib follows whatever it reads: checks that the graph is one as build() makes them, within its bytes.
void check_graph(size_t d, std::span<const std::byte> bytes) {
  Head head{};
  check(bytes.size() > sizeof(head), "HNSW: {} bytes are no graph", bytes.size());
  std::memcpy(&head, bytes.data(), sizeof(head));
  const std::byte *const elements = bytes.data() + sizeof(head), *const end = bytes.data() + bytes.size();
  const auto left = [end](const std::byte* at) { return static_cast<size_t>(end - at); };
  const bool sizes = head.links >= kMinLinks && head.links <= kMaxLinks && head.M == head.links &&
                     head.lowest_links == 2 * head.links && head.first_at == 0 &&
                     head.vector_at == (head.lowest_links + 1) * kIdBytes &&
                     head.label_at == head.vector_at + d * sizeof(float) &&
                     head.element_bytes == head.label_at + sizeof(hnswlib::labeltype) && head.capacity == head.n &&
                     head.n <= left(elements) / head.element_bytes && head.entry < head.n;
  check(sizes, "HNSW: damaged graph: {} vectors of dimension {}, {} links", head.n, d, head.links);
  const size_t list_bytes = (head.links + 1) * kIdBytes;
  const std::byte* at = elements + head.n * head.element_bytes;
  std::vector<const std::byte*> lists(head.n);
  std::vector<size_t> layers(head.n);
  for (size_t i = 0; i < head.n; ++i) {
    check(left(at) >= sizeof(uint32_t), "HNSW: damaged graph: it ends early");
    const size_t size = load_as<uint32_t>(at);
    lists[i] = at + sizeof(uint32_t);
    check(size % list_bytes == 0 && size <= left(lists[i]), "HNSW: damaged graph: it ends early");
    layers[i] = size / list_bytes;
    at = lists[i] + size;
  }
  check(at == end && head.top_layer >= 0 && layers[head.entry] == static_cast<size_t>(head.top_layer),
        "HNSW: damaged graph: layers");
  for (size_t i = 0; i < head.n; ++i) {
    const std::byte* const element = elements + i * head.element_bytes;
    check(load_as<hnswlib::labeltype>(element + head.label_at) == i, "HNSW: damaged graph: label of vector {}", i);
    check_links(element, head.lowest_links, 0, layers);
    for (size_t layer = 1; layer <= layers[i]; ++layer)
      check_links(lists[i] + (layer - 1) * list_bytes, head.links, layer, layers);
  }
}

}  // namespace

struct Hnsw::Graph {
  explicit Graph(int64_t d) : space(static_cast<size_t>(d)) {}
  hnswlib::L2Space space;
  std::unique_ptr<hnswlib::HierarchicalNSW<float>> graph;
};

Hnsw Hnsw::build(int64_t n, int64_t d, const float* x, int64_t links, int64_t ef_construction,
                 const std::function<void()>& poll) {
  check(n >= 1 && d >= 1, "HNSW: n = {} and d = {} must be at least 1", n, d);
  check(links >= int64_t{kMinLinks} && links <= int64_t{kMaxLinks}, "HNSW: {} links, expected {} to {}", links,
        kMinLinks, kMaxLinks);
  check(ef_construction >= 1 && ef_construction <= (1 << 20), "HNSW: efConstruction {}, expected 1 to {}",
        ef_construction, 1 << 20);
  auto built = std::make_shared<Graph>(d);
  built->graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(
      &built->space, static_cast<size_t>(n), static_cast<size_t>(links), static_cast<size_t>(ef_construction), kSeed);
  for (int64_t i = 0; i < n; ++i) {
    if (poll) poll();
    built->graph->addPoint(x + i * d, static_cast<size_t>(i));
  }
  return Hnsw(std::move(built));
}

Hnsw Hnsw::from_bytes(int64_t d, std::span<const std::byte> bytes) {
  check_graph(static_cast<size_t>(d), bytes);
  const MemoryFile file;
  file.write(bytes);
  auto loaded = std::make_shared<Graph>(d);
  try {
    loaded->graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(&loaded->space, file.path());
  } catch (const std::runtime_error& error) {
    fail("HNSW: {}", error.what());
  }
  loaded->graph->num_deleted_ = 0;  // hnswlib 0.6 counts from whatever is there
  return Hnsw(std::move(loaded));
}

std::vector<std::byte> Hnsw::bytes() const {
  const MemoryFile file;
  graph_->graph->saveIndex(file.path());
  return file.read();
}

int64_t Hnsw::size() const {
  return static_cast<int64_t>(graph_->graph->cur_element_count);
}

void Hnsw::search(const float* query, int64_t k, int64_t ef, int32_t* ids) const {
  // All candidates are asked for, as the graph's own setting of ef would be shared by the threads.
  auto found = graph_->graph->searchKnn(query, static_cast<size_t>(std::max(ef, k)));
  while (static_cast<int64_t>(found.size()) > k) found.pop();
  std::fill_n(ids, k, -1);
  for (auto i = static_cast<int64_t>(found.size()); i > 0; found.pop())
    ids[--i] = static_cast<int32_t>(found.top().second);
}

}  // namespace qinco
