// The thread setting, and scratch memory.
#include "kernels/context.h"

#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <thread>

#include "kernels/check.h"
#include "kernels/sanitizer.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

TEST_CASE("default_threads: set for all, and checked") {
  const int before = default_threads();
  CHECK(before >= 1);
  set_default_threads(3);
  CHECK(default_threads() == 3);
  CHECK(Context::cpu().threads == 3);
  std::thread([] { CHECK(Context::cpu().threads == 3); }).join();
  CHECK_THROWS_AS(set_default_threads(0), Error);
  CHECK_THROWS_AS(set_default_threads(-2), Error);
  CHECK(default_threads() == 3);
  set_default_threads(before);
}

TEST_CASE("Context::cpu: one per thread") {
  const Context* other = nullptr;
  const Scratch* other_scratch = nullptr;
  std::thread([&] {
    other = &Context::cpu();
    other_scratch = other->scratch;
  }).join();
  CHECK(other_scratch != nullptr);
  CHECK(other_scratch != Context::cpu().scratch);
  CHECK(Context::cpu().scratch == Context::cpu().scratch);
}

TEST_CASE("Scratch: aligned, apart, and all of it can be written") {
  const TestContext context;
  const ScratchFrame outer(context);
  ScratchFrame frame(context);
  std::vector<unsigned char*> blocks;
  const std::vector<int64_t> sizes = {0, 1, 63, 64, 65, 1000, 3 << 20, 5, 9 << 20, 1};
  for (size_t b = 0; b < sizes.size(); ++b) {
    blocks.push_back(frame.get<unsigned char>(sizes[b]));
    CHECK(reinterpret_cast<uintptr_t>(blocks[b]) % 64 == 0);
    std::memset(blocks[b], static_cast<int>(b + 1), static_cast<size_t>(sizes[b]));
  }
  for (size_t b = 0; b < sizes.size(); ++b)
    for (int64_t i = 0; i < sizes[b]; i += 61) REQUIRE(blocks[b][i] == b + 1);
}

TEST_CASE("Scratch: the same memory again, from the second call on") {
  const TestContext context;
  const auto use = [&] {
    ScratchFrame frame(context);
    float* const a = frame.get<float>(1 << 20);
    frame.get<double>(1 << 19);
    return a;
  };
  use();  // needs two chunks
  float* const second = use();
  CHECK(use() == second);
  CHECK(use() == second);
}

TEST_CASE("Scratch: an inner frame gives back its own memory and leaves the outer's alone") {
  const TestContext context;
  ScratchFrame outer(context);
  int* const kept = outer.get<int>(100);
  std::fill_n(kept, 100, 7);
  const void* inner_memory = nullptr;
  for (int round = 0; round < 4; ++round) {
    ScratchFrame inner(context);
    int* const mine = inner.get<int>(4 << 20);   // more than the outer's chunk has left
    if (round > 1) CHECK(mine == inner_memory);  // not allocated anew once the peak is known
    inner_memory = mine;
    std::fill_n(mine, 4 << 20, -1);
    {
      ScratchFrame innermost(context);
      std::fill_n(innermost.get<int>(1000), 1000, -2);
    }
    CHECK(mine[(4 << 20) - 1] == -1);
  }
  int* const more = outer.get<int>(100);
  std::fill_n(more, 100, 8);
  CHECK(std::count(kept, kept + 100, 7) == 100);
  CHECK(std::count(more, more + 100, 8) == 100);
}

#if defined(QINCO_ADDRESS_SANITIZER)
TEST_CASE("Scratch: AddressSanitizer watches what no frame has") {
  const TestContext context;
  const unsigned char* inner_block = nullptr;
  ScratchFrame frame(context);
  const unsigned char* const block = frame.get<unsigned char>(100);
  CHECK(__asan_region_is_poisoned(const_cast<unsigned char*>(block), 100) == nullptr);
  CHECK(__asan_address_is_poisoned(block + 100) != 0);
  {
    ScratchFrame inner(context);
    inner_block = inner.get<unsigned char>(1);
    CHECK(__asan_address_is_poisoned(inner_block) == 0);
    CHECK(__asan_address_is_poisoned(inner_block + 1) != 0);
  }
  CHECK(__asan_address_is_poisoned(inner_block) != 0);
  {
    ScratchFrame inner(context);
    inner_block = inner.get<unsigned char>(1);
    CHECK(inner.get<unsigned char>(int64_t{1} << 24) != nullptr);  // another chunk
    CHECK(__asan_address_is_poisoned(inner_block) == 0);
  }
  CHECK(__asan_address_is_poisoned(inner_block) != 0);
  CHECK(__asan_address_is_poisoned(block) == 0);
}
#endif

// The address sanitizer stops the program at such a request.
TEST_CASE("Scratch: a size that no machine has is bad_alloc, and the frame goes on working" *
          doctest::skip(kAddressSanitizer)) {
  const TestContext context;
  ScratchFrame frame(context);
  CHECK_THROWS_AS(frame.get<char>(int64_t{1} << 60), std::bad_alloc);
  frame.get<char>(100)[99] = 1;
}

}  // namespace qinco::kernels::tests
