// parallel_for: chunks that depend on the sizes alone, worker numbers, exceptions, nesting.
#include "kernels/parallel.h"

#include <atomic>
#include <doctest/doctest.h>
#include <stdexcept>
#include <string>
#include <thread>

#include "kernels/check.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

TEST_CASE("parallel_for: every index once, in chunks of the grain, at any thread count") {
  for (const int threads : {1, 2, 3, 8})
    for (const int64_t n : {0, 1, 2, 7, 100, 101})
      for (const int64_t grain : {-1, 0, 1, 3, 100, 1000}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        std::atomic<bool> chunks_hold{true}, workers_hold{true};
        const int64_t step = std::max<int64_t>(grain, 1);
        parallel_for(TestContext(threads), n, grain, [&](int64_t begin, int64_t end, int worker) {
          if (begin % step != 0 || end != std::min(n, begin + step)) chunks_hold = false;
          if (worker < 0 || worker >= threads) workers_hold = false;
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        CHECK(chunks_hold);
        CHECK(workers_hold);
        for (const auto& count : seen) REQUIRE(count == 1);
      }
}

TEST_CASE("parallel_for: no two threads are the same worker at the same time") {
  std::atomic<int> busy[4] = {};
  std::atomic<bool> alone{true};
  parallel_for(TestContext(4), 1000, 1, [&](int64_t, int64_t, int worker) {
    if (++busy[worker] != 1) alone = false;
    std::this_thread::yield();
    --busy[worker];
  });
  CHECK(alone);
}

TEST_CASE("parallel_for: an exception comes home, whole, and the next call works") {
  for (const int threads : {1, 2, 3}) {
    const auto run = [&] {
      parallel_for(TestContext(threads), 100, 1, [](int64_t begin, int64_t, int) {
        if (begin == 63) fail("row {}: not a number", begin);
      });
    };
    CHECK_THROWS_WITH_AS(run(), "row 63: not a number", Error);
    const auto all_throw = [&] {
      parallel_for(TestContext(threads), 100, 1, [](int64_t, int64_t, int) { throw std::runtime_error("all"); });
    };
    CHECK_THROWS_WITH_AS(all_throw(), "all", std::runtime_error);
    std::atomic<int> count{0};
    parallel_for(TestContext(threads), 100, 1, [&](int64_t, int64_t, int) { ++count; });
    CHECK(count == 100);
  }
}

TEST_CASE("parallel_for: from inside a body that threads share, it stays in the thread as worker 0") {
  const TestContext context(3);
  std::atomic<int> inner{0};
  std::atomic<bool> stays{true};
  parallel_for(context, 20, 1, [&](int64_t, int64_t, int) {
    const auto self = std::this_thread::get_id();
    parallel_for(context, 10, 1, [&](int64_t, int64_t, int worker) {
      if (worker != 0 || std::this_thread::get_id() != self) stays = false;
      ++inner;
    });
  });
  CHECK(inner == 200);
  CHECK(stays);
}

TEST_CASE("parallel_for: after a nested exception the thread may share work again") {
  const TestContext context(2);
  const auto nested = [&] {
    parallel_for(context, 4, 1, [&](int64_t, int64_t, int) {
      parallel_for(context, 4, 1, [](int64_t, int64_t, int) { fail("inner"); });
    });
  };
  CHECK_THROWS_AS(nested(), Error);
  std::atomic<int> workers{0};  // two workers can meet only if the flag of the thread was cleared
  parallel_for(context, 2, 1, [&](int64_t, int64_t, int) {
    ++workers;
    while (workers < 2) std::this_thread::yield();
  });
  CHECK(workers == 2);
}

TEST_CASE("row_grain: at least one row, fewer the wider they are") {
  CHECK(row_grain(0) == kElementGrain);
  CHECK(row_grain(1) == kElementGrain);
  CHECK(row_grain(kElementGrain) == 1);
  CHECK(row_grain(std::numeric_limits<int64_t>::max()) == 1);
}

}  // namespace qinco::kernels::tests
