// Devices: what they say of themselves, and their memory.
#include "kernels/device.h"

#include <algorithm>
#include <cstring>
#include <doctest/doctest.h>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/block_cache.h"
#include "kernels/check.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

std::string error_of(Device device) {
  try {
    check_device(device);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("Device: parses what it prints, and nothing else") {
  CHECK(Device::parse("cpu") == Device{});
  CHECK(Device::parse("cuda") == Device{DeviceType::cuda, 0});
  CHECK(Device::parse("cuda:12") == Device{DeviceType::cuda, 12});
  for (const char* text : {"cpu", "cuda:0", "cuda:3"}) CHECK(Device::parse(text).name() == text);
  for (const char* text : {"", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:1x", "cuda: 1", "cuda:99999999999"})
    CHECK_THROWS_AS(Device::parse(text), Error);
  CHECK_THROWS_WITH(Device::parse("gpu"), "device: expected cpu, cuda or cuda:i, found 'gpu'");
}

TEST_CASE("Device: one that is not there is refused by name") {
  CHECK(device_count(DeviceType::cpu) == 1);
  CHECK(error_of({}) == "");
  const int count = device_count(DeviceType::cuda);
  const Device beyond{DeviceType::cuda, count};
  const std::string error = error_of(beyond);
  CHECK(error.rfind(fmt::format("device cuda:{}: this ", count), 0) == 0);
  CHECK_THROWS_WITH_AS(allocate(beyond, 1), error.c_str(), Error);
  CHECK_THROWS_WITH_AS(Context::of(beyond), error.c_str(), Error);
  CHECK_THROWS_WITH_AS(table<float>(beyond), error.c_str(), Error);
  CHECK_THROWS_WITH_AS(synchronize(beyond), error.c_str(), Error);
}

TEST_CASE("Device: every one describes itself, and copies what it is given there and back") {
  std::vector<int> values(100'001);
  std::iota(values.begin(), values.end(), -7);
  const size_t bytes = values.size() * sizeof(int);
  for (const Device device : all_devices()) {
    CHECK(!device_description(device).empty());
    const MemoryInfo memory = memory_info(device);
    CHECK(memory.total > 0);
    CHECK(memory.free <= memory.total);
    void* const first = allocate(device, bytes);
    void* const second = allocate(device, bytes);
    CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
    copy_bytes(device, first, {}, values.data(), bytes);
    copy_bytes(device, second, device, first, bytes);
    std::vector<int> back(values.size());
    copy_bytes({}, back.data(), device, second, bytes);
    CHECK(back == values);
    release(device, first, bytes);
    release(device, second, bytes);
    synchronize(device);
  }
}

TEST_CASE("Device: a copy takes what is there when it is asked for, however far the device is behind") {
  // Far more than any buffer between the two, in pieces of all sizes.
  std::vector<unsigned char> source(3'000'001), expected, back;
  for (const Device device : all_devices()) {
    constexpr size_t kAll = 60'000'000;
    expected.assign(kAll, 0);
    auto* const there = static_cast<unsigned char*>(allocate(device, kAll));
    size_t end = 0;
    for (size_t i = 0; end < kAll; ++i) {
      const size_t count = std::min(i % 7 == 6 ? source.size() : i * 7919 % 1'200'000 + 1, kAll - end);
      std::fill_n(source.begin(), count, static_cast<unsigned char>(i * 31 + 1));
      copy_bytes(device, there + end, {}, source.data(), count);
      std::fill_n(expected.begin() + static_cast<ptrdiff_t>(end), count, source[0]);
      end += count;
    }
    back.assign(kAll, 0);
    copy_bytes({}, back.data(), device, there, kAll);
    CHECK((back == expected));
    release(device, there, kAll);
  }
}

TEST_CASE("Context::of: one per thread and device") {
  CHECK(&Context::of(Device{}) == &Context::cpu());
  for (const Device device : all_devices()) {
    const Context& context = Context::of(device);
    CHECK(context.device == device);
    CHECK(&Context::of(device) == &context);
    std::thread([&] { CHECK(Context::of(device).scratch != context.scratch); }).join();
  }
}

TEST_CASE("Scratch: memory of its device") {
  std::vector<int> values(3000);
  for (const Device device : all_devices()) {
    std::iota(values.begin(), values.end(), 0);
    ScratchFrame outer(Context::of(device));
    int* const kept = outer.get<int>(3000);
    copy_bytes(device, kept, {}, values.data(), 12'000);
    {
      ScratchFrame inner(Context::of(device));
      const std::vector<int> others(1 << 20, -1);
      copy_bytes(device, inner.get<int>(1 << 20), {}, others.data(), others.size() * 4);
    }
    std::vector<int> back(3000);
    copy_bytes({}, back.data(), device, kept, 12'000);
    CHECK(back == values);
  }
}

TEST_CASE("device: scratch memory that does not fit with room to spare is as small as was asked for") {
  for (const Device device : all_devices()) {
    if (device.type == DeviceType::cpu) continue;
    const size_t half = memory_info(device).free / 512 * 256, quarter = half / 512 * 256;
    const Context& context = Context::of(device);
    Scratch scratch(device);
    const Context own{device, context.threads, context.stream, &scratch};
    ScratchFrame outer(own);
    outer.get<char>(static_cast<int64_t>(half));
    ScratchFrame inner(own);
    CHECK(inner.get<char>(static_cast<int64_t>(quarter)) != nullptr);  // three quarters are kept for, if there are
    CHECK_THROWS_WITH_AS(inner.get<char>(static_cast<int64_t>(half)),
                         doctest::Contains(fmt::format("{} bytes", half).c_str()), OutOfMemory);
  }
}

TEST_CASE("allocate: more than the device has is an error that says how much") {
  for (const Device device : all_devices()) {
    if (device.type == DeviceType::cpu) continue;
    const size_t wanted = 2 * memory_info(device).total;
    CHECK_THROWS_WITH_AS(allocate(device, wanted), doctest::Contains(fmt::format("{} bytes", wanted).c_str()), Error);
    release(device, allocate(device, 100), 100);  // and it goes on working
  }
}

TEST_CASE("BlockCache: sizes that lose a quarter at most, and blocks by size within the limit") {
  size_t last = 0;
  for (size_t bytes = 5; bytes < 5000; ++bytes) {
    const size_t size = BlockCache::rounded(bytes);
    CHECK(size >= std::max<size_t>(bytes, last));
    CHECK(size <= bytes + bytes / 4 + 1);
    CHECK(BlockCache::rounded(size) == size);
    last = size;
  }
  CHECK(BlockCache::rounded(size_t{1} << 33) == size_t{1} << 33);
  constexpr size_t kLargest = size_t{64} << 20;
  BlockCache small(size_t{1} << 40, kLargest);
  for (size_t bytes = 0; bytes <= 256; ++bytes) CHECK(small.block_size(bytes) == 256);
  CHECK(small.block_size(257) == 320);
  CHECK(small.block_size(kLargest) == kLargest);
  CHECK(small.block_size(kLargest + 1) == kLargest + 1);

  int blocks[4];
  BlockCache cache;
  CHECK_FALSE(cache.keep(blocks, 256));  // without a limit nothing is kept
  cache.set_limit(1024);
  CHECK(cache.keep(blocks, 256));
  CHECK(cache.keep(blocks + 1, 512));
  CHECK_FALSE(cache.keep(blocks + 2, 512));
  CHECK(cache.keep(blocks + 3, 256));
  CHECK(cache.bytes() == 1024);
  CHECK(cache.take(320) == nullptr);
  CHECK(cache.take(512) == blocks + 1);
  CHECK(cache.take(512) == nullptr);
  CHECK(cache.bytes() == 512);
  CHECK(cache.clear() == BlockCache::Blocks{{256, {blocks, blocks + 3}}, {512, {}}});
  CHECK(cache.bytes() == 0);
  CHECK(cache.take(256) == nullptr);
  CHECK_FALSE(small.keep(blocks, kLargest + 1));
  CHECK(small.keep(blocks, kLargest));
  CHECK_FALSE(BlockCache().keep(blocks, 1));
  CHECK(BlockCache(1).keep(blocks, 1));
}

}  // namespace qinco::kernels::tests
