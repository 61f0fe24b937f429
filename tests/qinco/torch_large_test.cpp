// A PyTorch file beyond 4 GB, mostly a hole on disk: sizes and offsets that need zip64.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "kernels/sanitizer.h"
#include "qinco/io/product_file.h"
#include "qinco/io/torch_file.h"
#include "tests/qinco/torch_archive.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

constexpr uint64_t kRows = 1 << 16, kDim = 20480, kBytes = kRows * kDim * sizeof(float);  // 5 GB
constexpr uint32_t kIn64 = 0xffffffff;

/// The zip64 extra field with these values.
std::string extra(const std::vector<uint64_t>& values) {
  std::string field;
  append(field, uint16_t{1}), append(field, static_cast<uint16_t>(8 * values.size()));
  for (const uint64_t value : values) append(field, value);
  return field;
}

std::string local_header(const std::string& name, uint64_t size) {
  std::string header("PK\3\4\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
  append(header, kIn64), append(header, kIn64);
  append(header, static_cast<uint16_t>(name.size())), append(header, uint16_t{20});
  return header + name + extra({size, size});
}

std::string listed(const std::string& name, uint64_t size, uint64_t offset) {
  std::string entry("PK\1\2\x2d\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  append(entry, kIn64), append(entry, kIn64);
  append(entry, static_cast<uint16_t>(name.size())), append(entry, uint16_t{28});
  entry += std::string(10, '\0');
  append(entry, kIn64);
  return entry + name + extra({size, size, offset});
}

std::string end_records(uint64_t directory, uint64_t size, uint64_t entries) {
  std::string end("PK\6\6", 4);
  append(end, uint64_t{44}), append(end, uint32_t{0x2d002d}), append(end, uint64_t{0});
  append(end, entries), append(end, entries), append(end, size), append(end, directory);
  end += std::string("PK\6\7\0\0\0\0", 8);
  append(end, directory + size), append(end, uint32_t{1});
  end += std::string("PK\5\6\0\0\0\0", 8);
  append(end, uint32_t{0xffffffff}), append(end, kIn64), append(end, kIn64), append(end, uint16_t{0});
  return end;
}

}  // namespace

TEST_CASE("torch files: storages and archives beyond 4 GB") {
  const tests::TemporaryDirectory directory;
  const std::string path = directory.file("large.pt");
  const std::string shape = integer(kRows) + integer(kDim), strides = integer(kDim) + integer(1);
  const std::string content =
      pickle(dict(text("codebook0.weight") + tensor(shape, strides, 0, static_cast<int64_t>(kRows * kDim))));
  // 30 + 10 + 20 bytes: the storage is aligned to its elements
  const std::string first = local_header("mod/data/0", kBytes), second = local_header("mod/data.pkl", content.size());
  const uint64_t after = first.size() + kBytes;
  std::string tail = second + content;
  const uint64_t begin = after + tail.size();
  const std::string entries = listed("mod/data/0", kBytes, 0) + listed("mod/data.pkl", content.size(), after);
  tail += entries + end_records(begin, entries.size(), 2);
  const float last = 7;

  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT, 0600);
  REQUIRE(fd >= 0);
  const auto write_at = [fd](const void* data, size_t size, uint64_t at) {
    return ::pwrite(fd, data, size, static_cast<off_t>(at)) == static_cast<ssize_t>(size);
  };
  const bool written = write_at(first.data(), first.size(), 0) && write_at(&last, sizeof last, after - sizeof last) &&
                       write_at(tail.data(), tail.size(), after);
  ::close(fd);
  if (!written) {
    MESSAGE("skipped: no file of 5 GB can be made in " << directory.path().string());
    return;
  }
  reset_memory_peak();
  const ModelContents contents = read_torch_file(MappedFile::open(path));
  CHECK(memory_stats().peak < 1 << 20);  // mapped, not copied
  CHECK(contents.metadata.at("d") == "20480");
  const Tensor& codebook = contents.tensors.at("codebook0.weight");
  REQUIRE(codebook.shape() == Shape{kRows, kDim});
  CHECK(codebook.slice(0, kRows - 1, kRows).slice(1, kDim - 1, kDim).item<float>() == 7);
  CHECK(codebook.slice(0, 0, 1).slice(1, 0, 1).item<float>() == 0);

  if (std::filesystem::space(directory.path()).available < uintmax_t{12} << 30) {  // a tmpfs keeps the holes in memory
    MESSAGE("values not looked at: less than 12 GB free in " << directory.path().string());
    return;
  }
  if (kAddressSanitizer) {
    MESSAGE("values not looked at: half a minute under AddressSanitizer");
    return;
  }
  ModelContents model = contents;
  model.metadata["db_scale"] = "1";
  check_model(path, model);
  CHECK(memory_stats().peak < 16 << 20);
}
