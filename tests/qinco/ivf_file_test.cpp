// The file of an IVF-QINCo index: damage, crashes, hostile bytes, and what others do to it meanwhile.
#include "qinco/search/ivf_file.h"

#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <limits>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

#include "qinco/search/hnsw.h"
#include "qinco/search/ivf_layout.h"
#include "qinco/search/ivf_limits.h"
#include "qinco/search/ivf_lock.h"
#include "tests/kernels/harness.h"
#include "tests/qinco/ivf_fixtures.h"

namespace qinco {
namespace {

using namespace testing;
using namespace ivf_layout;
using tests::contains;
using tests::error_of;

template <class T>
T get(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <class T>
void put(std::string& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

/// Changes the payload of a file's section 0, 1, ... by `edit`, and its checksums with it.
std::string with_section(std::string bytes, int index, const std::function<void(std::string& payload)>& edit) {
  size_t at = kFirstSection;
  for (; index > 0; --index) at += sizeof(SectionHeader) + static_cast<size_t>(get<SectionHeader>(bytes, at).bytes);
  auto header = get<SectionHeader>(bytes, at);
  std::string payload = bytes.substr(at + sizeof(header), static_cast<size_t>(header.bytes));
  edit(payload);
  header.checksum = checksum(payload.data(), header.bytes);
  header.header_checksum = checksum(&header, static_cast<int64_t>(offsetof(SectionHeader, header_checksum)));
  put(bytes, at, header);
  return bytes.replace(at + sizeof(header), payload.size(), payload);
}

TEST_CASE("IVF file: no flipped bit is overlooked, no truncation either") {
  const World world;
  world.full();
  const std::string good = read_bytes(world.path()), broken = world.directory.file("broken.index");
  const Tensor queries = random_vectors(ivf_config(), 5, 7);
  const std::vector<int64_t> expected = IvfIndex(world.path(), world.coder).search(span_of(queries)).ids;
  int64_t errors = 0, flips = 0;
  std::vector<size_t> places;
  for (const size_t slot : {size_t{0}, size_t{4096}})
    for (size_t at = slot; at < slot + 60; ++at) places.push_back(at);
  for (size_t at = 60; at < good.size(); at += 397) places.push_back(at);
  for (const size_t at : places) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    write_bytes(broken, bytes);
    flips += at >= kFirstSection;
    try {
      const std::vector<int64_t> found = IvfIndex(broken, world.coder).search(span_of(queries)).ids;
      CHECK(found == expected);
    } catch (const Error& error) {
      ++errors;
      CHECK(contains(error.what(), broken + ":"));
    }
  }
  CHECK(flips > 20);
  CHECK(errors > flips * 9 / 10);  // a header slot has another beside it, and section headers have bytes to spare
  for (const size_t size : {size_t{0}, size_t{100}, size_t{8191}, size_t{8192}, good.size() / 2, good.size() - 1}) {
    write_bytes(broken, good.substr(0, size));
    CHECK(contains(error_of([&] { IvfIndex(broken, world.coder); }), broken));
  }
  write_bytes(broken, std::string(20000, 'x'));
  CHECK(contains(error_of([&] { IvfIndex(broken, world.coder); }), "not an index file"));
}

TEST_CASE("IVF file: what a crash left behind the end is ignored, and dropped by the next addition") {
  const World world;
  IvfIndex(world.path(), world.coder).add(world.rows(0, 100), 0);
  const std::string before = read_bytes(world.path());
  IvfIndex(world.path(), world.coder).add(world.rows(100, 200), 100);
  const std::string after = read_bytes(world.path());
  // The entries are written, whole or in part, but no header says so yet.
  for (const size_t written : {before.size() + 1, after.size() - 1, after.size()}) {
    write_bytes(world.path(), before + after.substr(before.size(), written - before.size()));
    IvfIndex index(world.path(), world.coder);
    CHECK(index.size() == 100);
    index.add(world.rows(100, 200), 100);
    CHECK(index.size() == 200);
    CHECK(read_bytes(world.path()) == after);
  }
}

TEST_CASE("IVF file: a header slot that was half written costs nothing") {
  const World world;
  IvfIndex(world.path(), world.coder).add(world.rows(0, 100), 0);
  IvfIndex(world.path(), world.coder).add(world.rows(100, 200), 100);
  const std::string good = read_bytes(world.path()), copy = world.directory.file("copy.index");
  std::filesystem::copy_file(world.path(), copy);
  IvfIndex(copy, world.coder).add(world.rows(200, 300), 200);
  const IvfIndex expected(copy, world.coder);
  const Tensor queries = random_vectors(ivf_config(), 5, 9);
  for (const size_t slot : {size_t{0}, size_t{kSlotStride}}) {
    std::string torn = good;
    torn.replace(slot + 20, 20, 20, '\xff');  // a generation above all others among it
    write_bytes(world.path(), torn);
    IvfIndex index(world.path(), world.coder);
    CHECK(index.size() == 200);
    index.add(world.rows(200, 300), 200);
    CHECK(index.size() == 300);
    CHECK(index.search(span_of(queries)).ids == expected.search(span_of(queries)).ids);
    // Both slots are whole again, and what is behind the end is ignored again.
    write_bytes(world.path(), read_bytes(world.path()) + "rest");
    CHECK(IvfFile::open(world.path()).size() == 300);
    torn.replace(kSlotStride - slot + 20, 20, 20, '\xff');
    write_bytes(world.path(), torn);
    CHECK(contains(error_of([&] { IvfFile::open(world.path()); }), "damaged index: both header slots"));
  }
}

TEST_CASE("IVF file: hostile sizes with sound checksums are refused") {
  const World world;
  IvfIndex(world.path(), world.coder).add(world.rows(0, 100), 0);
  const std::string good = read_bytes(world.path()), hostile = world.directory.file("hostile.index");
  const auto refused = [&](int section, size_t at, auto value) {
    write_bytes(hostile, with_section(good, section, [&](std::string& payload) { put(payload, at, value); }));
    return contains(error_of([&] { IvfFile::open(hostile); }), hostile + ": damaged index: ");
  };
  constexpr int64_t kLarge = (int64_t{1} << 61) - 1;  // whose bytes, once padded, are more than an int64 holds
  for (const int64_t value : {int64_t{-1}, kLarge, std::numeric_limits<int64_t>::max()}) {
    CAPTURE(value);
    for (size_t at = 0; at < 4 * sizeof(int64_t); at += sizeof(int64_t)) {
      CHECK(refused(0, at, value));  // d, M, K, K_ivf
      CHECK(refused(2, at, value));  // n, pieces, blocks, ranges
    }
    CHECK(refused(1, 0, value));
  }
  CHECK(refused(2, 2 * kAlign, uint32_t{20}));  // a list that is not there
  CHECK(refused(2, 2 * kAlign, uint32_t{0xffffffff}));
  IvfBuilder builder(world.coder);
  builder.add(kN, world.x.data<float>());
  std::filesystem::remove(world.path());
  builder.write(world.path(), 8, 50);
  write_bytes(hostile, with_section(read_bytes(world.path()), 1, [](std::string& payload) {
                put(payload, kAlign + 52, uint32_t{1000});  // where searches start
              }));
  CHECK(contains(error_of([&] { IvfIndex(hostile, world.coder); }), "hostile.index: HNSW: damaged graph"));
}

TEST_CASE("IVF file: an index of another build in its place, or a lock on it, and nothing is added") {
  const World world;
  IvfIndex index(world.path(), world.coder);
  index.add(world.rows(0, 100), 0);
  const int lock = ::open(world.path().c_str(), O_RDONLY);
  REQUIRE(::flock(lock, LOCK_SH) == 0);
  CHECK(contains(error_of([&] { index.add(world.rows(100, 200), 100); }), "cannot add: another process"));
  CHECK(contains(error_of([&] { merge_indexes({world.path()}, world.path()); }), "cannot merge: another process"));
  const std::string merged = world.directory.file("merged.index");
  merge_indexes({world.path()}, merged);  // only reads
  CHECK(IvfFile::open(merged).size() == 100);
  REQUIRE(::flock(lock, LOCK_EX) == 0);
  CHECK(contains(error_of([&] { merge_indexes({world.path()}, merged); }), "cannot merge: another process"));
  ::close(lock);
  IvfBuilder builder(world.coder);
  builder.add(500, world.x.data<float>());
  std::filesystem::remove(world.path());
  builder.write(world.path());
  CHECK(contains(error_of([&] { index.add(world.rows(100, 200), 100); }), "another build"));
  CHECK(IvfFile::open(world.path()).size() == 0);
  CHECK(index.size() == 100);
}

TEST_CASE("IVF file: one that cannot be written is refused before anything is encoded") {
  const World world;
  const auto coder = std::make_shared<IvfCoder>(random_model(ivf_config(), 1));
  int encodings = 0;
  coder->set_poll([&] { ++encodings; }, 64);
  IvfIndex index(world.path(), coder);
  index.file().check_writable();
  std::filesystem::permissions(world.path(), std::filesystem::perms::owner_read);
  std::filesystem::permissions(world.directory.path(), std::filesystem::perms::all);
  const uid_t user = ::geteuid();
  if (user == 0) REQUIRE(::seteuid(65534) == 0);  // permissions do not bind root
  const std::string refused = error_of([&] { index.add(world.rows(0, 100), 0); });
  const std::string checked = error_of([&] { index.file().check_writable(); });
  REQUIRE(::seteuid(user) == 0);
  CHECK(refused == world.path() + ": cannot write: Permission denied");
  CHECK(checked == refused);
  CHECK(encodings == 0);
  std::filesystem::permissions(world.path(), std::filesystem::perms::owner_all);
  index.add(world.rows(0, 100), 0);
  CHECK(encodings > 0);
}

TEST_CASE("IVF file: a merge of more indexes than may be open says what to do") {
  const World world;
  const std::vector<std::string> paths(20, world.path());
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit lower{std::min<rlim_t>(limit.rlim_cur, 27), limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &lower) == 0);
  const std::string error = error_of([&] { merge_indexes(paths, world.directory.file("merged.index")); });
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(contains(error, "merge: 20 indexes, ulimit -n allows 27 open files: raise it to 28, or merge some"));
}

TEST_CASE("IVF file: neither a merge nor a build takes an index away from those who add to it") {
  const World world;
  const std::string part = world.directory.file("part.index");
  std::filesystem::copy_file(world.path(), part);
  IvfIndex(part, world.coder).add(world.rows(100, 200), 100);
  IvfIndex index(world.path(), world.coder);
  index.add(world.rows(0, 100), 0);
  const std::string before = read_bytes(world.path());
  IvfBuilder builder(world.coder);
  builder.add(kN, world.x.data<float>());
  {
    const IvfLock lock(world.path(), true, "add");
    CHECK(contains(error_of([&] { merge_indexes({part}, world.path()); }), "cannot merge: another process is adding"));
    CHECK(contains(error_of([&] { builder.write(world.path()); }), "cannot build: another process is adding"));
  }
  CHECK(contains(error_of([&] { builder.write(world.path()); }), "cannot build: an index of 100 vectors is there"));
  CHECK(contains(error_of([&] { IvfBuilder::check_output(world.path()); }), "remove it first"));
  CHECK(read_bytes(world.path()) == before);
  merge_indexes({part}, world.path());  // between two additions
  CHECK(contains(error_of([&] { index.add(world.rows(200, 300), 200); }), "without vectors that were in it"));
  CHECK(index.size() == 100);
  CHECK(IvfFile::open(world.path()).size() == 100);
  std::filesystem::remove(world.path());
  builder.write(world.path());
  builder.write(world.path());  // an empty one may go
  CHECK(IvfFile::open(world.path()).size() == 0);
  CHECK(contains(error_of([&] { index.add(world.rows(200, 300), 200); }), "without vectors that were in it"));
  write_bytes(world.path(), "no index");
  builder.write(world.path());
  IvfIndex(world.path(), world.coder).add(world.rows(0, 100), 0);
}

TEST_CASE("IVF file: an open index stays what it was while others add and merge") {
  const World world;
  IvfIndex first(world.path(), world.coder);
  first.add(world.rows(0, 300), 0);
  const Tensor queries = random_vectors(ivf_config(), 20, 10);
  const std::vector<int64_t> before = first.search(span_of(queries)).ids;
  IvfIndex second(world.path(), world.coder);
  second.add(world.rows(300, 600), 300);
  CHECK(first.search(span_of(queries)).ids == before);
  CHECK(contains(error_of([&] { first.add(world.rows(0, 10), 590); }), "ids 590 to 599 are in the index already"));
  merge_indexes({world.path()}, world.path());
  CHECK(first.search(span_of(queries)).ids == before);
  first.add(world.rows(600, kN), 600);  // into the merged file
  CHECK(first.size() == kN);
  CHECK(second.size() == 600);
  const IvfIndex all(world.path(), world.coder);
  CHECK(all.search(span_of(queries)).ids == first.search(span_of(queries)).ids);
}

TEST_CASE("IVF file: adding reads nothing again of what was verified when it was opened") {
  const World world;
  IvfIndex index(world.path(), world.coder);
  index.add(world.rows(0, 300), 0);
  std::string bytes = read_bytes(world.path());
  const size_t at = bytes.size() - 64;  // a code, which its lists and sizes do not tell of
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  std::fstream(world.path(), std::ios::binary | std::ios::in | std::ios::out).write(bytes.data(), std::ssize(bytes));
  index.add(world.rows(300, 600), 300);
  CHECK(index.size() == 600);
  CHECK(contains(error_of([&] { IvfIndex(world.path(), world.coder); }), "damaged index: checksum"));
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  std::fstream(world.path(), std::ios::binary | std::ios::in | std::ios::out).seekp(at).put(bytes[at]);
  const Tensor queries = random_vectors(ivf_config(), 20, 15);
  const IvfIndex again(world.path(), world.coder);
  CHECK(again.size() == 600);
  CHECK(again.search(span_of(queries)).ids == index.search(span_of(queries)).ids);
}

TEST_CASE("IVF file: more blocks than can be searched are refused before anything is written") {
  const World world;
  IvfIndex index(world.path(), world.coder);
  index.add(world.rows(0, 100), 0);
  index.add(world.rows(100, 200), 100);
  const std::string before = read_bytes(world.path());
  const Tensor queries = random_vectors(ivf_config(), 20, 16);
  const std::vector<int64_t> ids = index.search(span_of(queries)).ids;
  const kernels::tests::Restore restore(ivf_limits::most_blocks);
  ivf_limits::most_blocks = index.file().blocks();
  CHECK(contains(error_of([&] { index.add(world.rows(200, 300), 200); }), "merging needs fewer"));
  CHECK(read_bytes(world.path()) == before);
  CHECK(index.size() == 200);
  CHECK(index.search(span_of(queries)).ids == ids);
  merge_indexes({world.path()}, world.path());
  const int64_t merged = IvfFile::open(world.path()).blocks();
  REQUIRE(merged < index.file().blocks());
  CHECK(IvfIndex(world.path(), world.coder).search(span_of(queries)).ids == ids);
  ivf_limits::most_blocks = merged - 1;
  CHECK(contains(error_of([&] { IvfIndex(world.path(), world.coder); }), world.path() + ": "));
  const std::string other = world.directory.file("other.index");
  CHECK(contains(error_of([&] { merge_indexes({world.path()}, other); }), other + ": "));
  CHECK_FALSE(std::filesystem::exists(other));
}

TEST_CASE("HNSW: no changed word of a graph leads out of it") {
  const int64_t n = 200, d = 3;
  const Tensor x = Tensor::empty({n, d});
  Random(1).normal(x);
  const std::vector<std::byte> good = Hnsw::build(n, d, x.data<float>(), 3, 20).bytes();
  const size_t head = 96, element = 7 * 4 + d * 4 + 8, tail = head + n * element;
  REQUIRE(good.size() > tail + n * 4);  // some vectors are in upper layers
  std::vector<size_t> places;
  for (size_t at = 0; at < head + element; at += 4) places.push_back(at);
  for (size_t at = tail; at < good.size(); at += 4) places.push_back(at);
  int64_t refused = 0;
  for (const size_t at : places)
    for (const uint32_t word : {uint32_t{200}, uint32_t{7}, uint32_t{0x10007}, uint32_t{0xffffffff}}) {
      std::vector<std::byte> bytes = good;
      std::memcpy(bytes.data() + at, &word, sizeof(word));
      try {
        const Hnsw graph = Hnsw::from_bytes(d, bytes);
        int32_t ids[10];
        graph.search(x.data<float>(), 10, 200, ids);
        for (const int32_t id : ids) CHECK((id >= -1 && id < n));
      } catch (const Error& error) {
        ++refused;
        CHECK(contains(error.what(), "HNSW"));
      }
    }
  CHECK(refused > static_cast<int64_t>(places.size()) * 2);  // links not in use may hold anything
}

}  // namespace
}  // namespace qinco
