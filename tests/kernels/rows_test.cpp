// gather_rows and scatter_add_rows: both exact, the additions of a row being made in the order of its ids.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(gather_rows);
QINCO_COVERS(scatter_add_rows);

std::vector<float> gather(const Table<float>& t, const Context& context, int64_t d, const std::vector<float>& x,
                          const std::vector<int32_t>& ids) {
  Buffer<float> from(x), out(static_cast<int64_t>(ids.size()) * d, 3);
  Buffer<int32_t> index(ids);
  t.gather_rows(context, index.size(), d, from.data(), index.data(), out.data());
  CHECK(out.guards_hold());
  return out.values();
}

std::vector<float> scatter(const Table<float>& t, const Context& context, int64_t d, const std::vector<float>& out,
                           const std::vector<int32_t>& ids, const std::vector<float>& x) {
  Buffer<float> from(x), to(out, 3);
  Buffer<int32_t> index(ids);
  t.scatter_add_rows(context, index.size(), d, to.size() / d, index.data(), from.data(), to.data());
  CHECK(to.guards_hold());
  return to.values();
}

// `count` ids below `rows`: random, all the same, or skewed to the first.
std::vector<int32_t> make_ids(int kind, int64_t count, int64_t rows) {
  if (kind == 0) return Data(1).ids(count, rows);
  std::vector<int32_t> ids(static_cast<size_t>(count), static_cast<int32_t>(rows - 1));
  if (kind == 2)
    for (size_t i = 0; i < ids.size(); i += 3) ids[i] = static_cast<int32_t>(i * i % static_cast<size_t>(rows));
  return ids;
}

}  // namespace

TEST_CASE("gather_rows: exact copies") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    for (const int64_t d : kTailSizes)
      for (const int64_t n : {0, 1, 5, 300}) {
        const std::vector<float> x = Data(2).normal(37 * d);
        const std::vector<int32_t> ids = make_ids(0, n, 37);
        std::vector<float> expected;
        for (const int32_t id : ids) expected.insert(expected.end(), x.begin() + id * d, x.begin() + (id + 1) * d);
        const auto run = [&](const Context& context) { return gather(t, context, d, x, ids); };
        CHECK_MESSAGE(same_bits(run(TestContext()), expected), version.name << " d=" << d << " n=" << n);
        check_any_thread_count(run, version.name);
      }
  });
}

TEST_CASE("scatter_add_rows: the bits of the plain loop, whatever the ids, table size and threads") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    for (const int64_t d : {1, 7, 8, 17, 33, 129})
      for (const int64_t rows : {1, 5, 256, 5000})
        for (const int64_t n : {1, 40, 1500})
          for (const int kind : {0, 1, 2}) {
            const std::vector<float> before = Data(3).normal(rows * d), x = Data(4).normal(n * d);
            const std::vector<int32_t> ids = make_ids(kind, n, rows);
            std::vector<float> expected = before;
            for (size_t i = 0; i < ids.size(); ++i)
              for (int64_t j = 0; j < d; ++j)
                expected[static_cast<size_t>(ids[i] * d + j)] += x[i * static_cast<size_t>(d) + static_cast<size_t>(j)];
            for (int threads = 1; threads <= (version.cuda ? 1 : 3); ++threads)
              CHECK_MESSAGE(
                  same_bits(scatter(t, TestContext(threads), d, before, ids, x), expected),
                  fmt::format("{} d={} rows={} n={} ids {} threads={}", version.name, d, rows, n, kind, threads));
          }
  });
}

TEST_CASE("scatter_add_rows: where NaN meets NaN, too, the same bits at any thread count") {
  const int64_t n = 3000, rows = 5;
  const std::vector<int32_t> ids = make_ids(0, n, rows);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t d : {8, 16, 17}) {
      const std::vector<float> before(static_cast<size_t>(rows * d));
      std::vector<float> x = Data(5).normal(n * d);
      for (size_t i = 0; i < x.size(); i += 7) x[i] = i / static_cast<size_t>(d) % 2 ? kNan : -kNan;
      check_any_thread_count([&](const Context& context) { return scatter(t, context, d, before, ids, x); },
                             fmt::format("{} d={}", version.name, d));
    }
  });
}

TEST_CASE("scatter_add_rows: keeps what rows without ids held") {
  for_each_version_and_reference([](const Table<float>& t, const Version&) {
    check_equal(scatter(t, TestContext(), 2, {1, 2, 3, 4, 5, 6}, {2, 0, 2}, {10, 20, 30, 40, 50, 60}),
                {31, 42, 3, 4, 65, 86}, "scatter_add_rows");
    check_equal(scatter(t, TestContext(), 2, {1, 2}, {}, {}), {1, 2}, "no ids");
  });
}

}  // namespace qinco::kernels::tests
