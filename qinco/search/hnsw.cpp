#include "qinco/search/hnsw.h"

#include <algorithm>
#include <cerrno>
#include <hnswlib/hnswlib.h>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

#include "kernels/check.h"

namespace qinco {
namespace {

constexpr size_t kSeed = 100;

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

}  // namespace

struct Hnsw::Graph {
  explicit Graph(int64_t d) : space(static_cast<size_t>(d)) {}
  hnswlib::L2Space space;
  std::unique_ptr<hnswlib::HierarchicalNSW<float>> graph;
};

Hnsw Hnsw::build(int64_t n, int64_t d, const float* x, int64_t links, int64_t ef_construction) {
  check(n >= 1 && d >= 1, "HNSW: n = {} and d = {} must be at least 1", n, d);
  check(links >= 2 && links <= 1000, "HNSW: {} links, expected 2 to 1000", links);
  check(ef_construction >= 1 && ef_construction <= (1 << 20), "HNSW: efConstruction {}, expected 1 to {}",
        ef_construction, 1 << 20);
  auto built = std::make_shared<Graph>(d);
  built->graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(
      &built->space, static_cast<size_t>(n), static_cast<size_t>(links), static_cast<size_t>(ef_construction), kSeed);
  for (int64_t i = 0; i < n; ++i) built->graph->addPoint(x + i * d, static_cast<size_t>(i));
  return Hnsw(std::move(built));
}

Hnsw Hnsw::from_bytes(int64_t d, std::span<const std::byte> bytes) {
  const MemoryFile file;
  file.write(bytes);
  auto loaded = std::make_shared<Graph>(d);
  try {
    loaded->graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(&loaded->space, file.path());
  } catch (const std::runtime_error& error) {
    fail("HNSW: {}", error.what());
  }
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
