// topk: exact, ties by the lowest index, NaN last.
#include <doctest/doctest.h>
#include <numeric>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(topk);

std::vector<int32_t> run(const Table<float>& t, const Context& context, int64_t rows, int64_t cols, int64_t k,
                         const std::vector<float>& x) {
  Buffer<float> in(x), values(rows * k, 3);
  Buffer<int32_t> ids(rows * k, 2), ids_alone(rows * k);
  t.topk(context, rows, cols, k, in.data(), ids.data(), values.data());
  t.topk(context, rows, cols, k, in.data(), ids_alone.data(), nullptr);
  CHECK((ids.guards_hold() && values.guards_hold() && ids_alone.guards_hold()));
  CHECK(ids.values() == ids_alone.values());

  std::vector<float> expected;
  const std::vector<int32_t> found = ids.values();
  for (size_t i = 0; i < found.size(); ++i) {
    REQUIRE((found[i] >= 0 && found[i] < cols));
    expected.push_back(x[i / static_cast<size_t>(k) * static_cast<size_t>(cols) + static_cast<size_t>(found[i])]);
  }
  CHECK(same_bits(values.values(), expected));
  return found;
}

// The definition: a stable sort of the indices of each row.
std::vector<int32_t> sorted(int64_t rows, int64_t cols, int64_t k, const std::vector<float>& x) {
  std::vector<int32_t> result;
  for (int64_t i = 0; i < rows; ++i) {
    const float* const row = x.data() + i * cols;
    std::vector<int32_t> order(static_cast<size_t>(cols));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [row](int32_t a, int32_t b) {
      return (std::isnan(row[a]) ? kInf : row[a]) < (std::isnan(row[b]) ? kInf : row[b]);
    });
    result.insert(result.end(), order.begin(), order.begin() + k);
  }
  return result;
}

void check_rows(int64_t rows, int64_t cols, const std::vector<float>& x, const std::string& kind) {
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t k : {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{100}, cols - 1, cols}) {
      if (k < 0 || k > cols) continue;
      CHECK_MESSAGE(run(t, TestContext(), rows, cols, k, x) == sorted(rows, cols, k, x),
                    fmt::format("{} {} cols={} k={}", version.name, kind, cols, k));
    }
  });
}

}  // namespace

TEST_CASE("topk: random, tied, ordered and special rows of tail sizes") {
  for (const int64_t cols : kTailSizes) {
    const int64_t rows = 4;
    check_rows(rows, cols, Data(1).normal(rows * cols), "random");
    std::vector<float> x = Data(2).integers(rows * cols, 2);
    check_rows(rows, cols, x, "tied");
    for (size_t i = 0; i < x.size(); i += 3) x[i] = kNan;
    for (size_t i = 1; i < x.size(); i += 5) x[i] = kInf;
    for (size_t i = 2; i < x.size(); i += 7) x[i] = -0.0f;
    for (size_t i = 3; i < x.size(); i += 13) x[i] = -kInf;
    check_rows(rows, cols, x, "special");
    std::iota(x.begin(), x.end(), -5.0f);
    check_rows(rows, cols, x, "ascending");
    std::reverse(x.begin(), x.end());
    check_rows(rows, cols, x, "descending");
    check_rows(rows, cols, std::vector<float>(x.size(), kNan), "all NaN");
  }
}

TEST_CASE("topk: long rows, k = 0, and the same ids at any thread count") {
  check_rows(1, 20'011, Data(3).normal(20'011), "long");
  const std::vector<float> x = Data(4).normal(307 * 1001);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    check_any_thread_count([&](const Context& c) { return run(t, c, 307, 1001, 20, x); }, version.name);
    CHECK(run(t, TestContext(), 307, 1001, 0, x).empty());
  });
}

}  // namespace qinco::kernels::tests
