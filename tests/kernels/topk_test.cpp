// topk and topk_merge: exact, ties by the lowest index, NaN last.
#include <doctest/doctest.h>
#include <numeric>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(topk);
QINCO_COVERS(topk_merge);

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
    // CUDA holds up to 7168 in shared memory.
    for (const int64_t k : {1l, 2l, 7l, 100l, 3072l, 7168l, 7169l, cols - 1, cols}) {
      if (k < 0 || k > cols) continue;
      CHECK_MESSAGE(run(t, TestContext(), rows, cols, k, x) == sorted(rows, cols, k, x),
                    fmt::format("{} {} cols={} k={}", version.name, kind, cols, k));
    }
  });
}

struct Best {
  std::vector<int32_t> ids;
  std::vector<float> values;
};

// The k best of rows that come in pieces, the ends of which `ends` are; rows of k.
Best merged(const Table<float>& t, const Context& context, int64_t rows, int64_t k, const std::vector<int64_t>& ends,
            const std::vector<float>& x) {
  Buffer<float> values(rows * k, 3);
  Buffer<int32_t> ids(rows * k, 2);
  int64_t begin = 0;
  for (const int64_t end : ends) {
    std::vector<float> piece;
    for (int64_t i = 0; i < rows; ++i)
      piece.insert(piece.end(), &x[i * ends.back()] + begin, &x[i * ends.back()] + end);
    Buffer<float> in(piece);
    t.topk_merge(context, rows, end - begin, k, std::min(k, begin), in.data(), static_cast<int32_t>(begin), ids.data(),
                 values.data());
    begin = end;
  }
  CHECK((ids.guards_hold() && values.guards_hold()));
  return {ids.values(), values.values()};
}

void check_pieces(int64_t rows, const std::vector<int64_t>& ends, const std::vector<float>& x,
                  const std::string& kind) {
  const int64_t cols = ends.back();
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const int64_t k : {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{100}, cols}) {
      if (k > cols) continue;
      const Best found = merged(t, TestContext(), rows, k, ends, x);
      const std::vector<int32_t> expected = sorted(rows, cols, k, x);
      CHECK_MESSAGE(found.ids == expected, fmt::format("{} {} cols={} k={}", version.name, kind, cols, k));
      std::vector<float> values;
      for (int64_t e = 0; e < rows * k; ++e) {
        const float value = x[e / k * cols + expected[e]];
        values.push_back(std::isnan(value) ? kInf : value + 0.0f);
      }
      CHECK(same_bits(found.values, values));
    }
  });
}

// Calls check(values [n], their kind) for the kinds of values that order differently.
template <class Check>
void for_each_kind(int64_t n, const Check& check) {
  check(Data(1).normal(n), "random");
  std::vector<float> x = Data(2).integers(n, 2);
  check(x, "tied");
  for (size_t i = 0; i < x.size(); i += 3) x[i] = kNan;
  for (size_t i = 1; i < x.size(); i += 5) x[i] = kInf;
  for (size_t i = 2; i < x.size(); i += 7) x[i] = -0.0f;
  for (size_t i = 3; i < x.size(); i += 13) x[i] = -kInf;
  check(x, "special");
  std::iota(x.begin(), x.end(), -5.0f);
  check(x, "ascending");
  std::reverse(x.begin(), x.end());
  check(x, "descending");
  check(std::vector<float>(x.size(), kNan), "all NaN");
}

}  // namespace

TEST_CASE("topk: random, tied, ordered and special rows of tail sizes") {
  for (const int64_t cols : kTailSizes) {
    const int64_t rows = 4;
    for_each_kind(rows * cols, [&](const std::vector<float>& x, const char* kind) { check_rows(rows, cols, x, kind); });
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

TEST_CASE("topk_merge: rows in pieces have the best of the whole") {
  for (const std::vector<int64_t>& ends : {std::vector<int64_t>{1}, {3, 3, 4}, {100, 117, 118, 400}, {0, 5, 500}}) {
    const int64_t rows = 5;
    for_each_kind(rows * ends.back(),
                  [&](const std::vector<float>& x, const char* kind) { check_pieces(rows, ends, x, kind); });
  }
}

TEST_CASE("topk_merge: more asked for than there are, k = 0, and the same at any thread count") {
  const std::vector<float> few = {3, 1, 2, 6, 5, 4};  // 2 rows
  const std::vector<float> x = Data(7).normal(211 * 900);
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const Best found = merged(t, TestContext(), 2, 4, {1, 3}, few);
    const auto first_three = [](const auto& of_four, int row) {
      return std::vector(of_four.begin() + row * 4, of_four.begin() + row * 4 + 3);
    };
    CHECK(first_three(found.ids, 0) == std::vector<int32_t>{1, 2, 0});
    CHECK(first_three(found.ids, 1) == std::vector<int32_t>{2, 1, 0});
    CHECK(first_three(found.values, 0) == std::vector<float>{1, 2, 3});
    CHECK(first_three(found.values, 1) == std::vector<float>{4, 5, 6});
    for (const size_t unused : {3, 7})
      CHECK((found.ids[unused] == poison<int32_t>() && std::isnan(found.values[unused])));
    CHECK(merged(t, TestContext(), 2, 0, {1, 3}, few).ids.empty());
    Buffer<int32_t> ids(2);
    Buffer<float> values(2), in(std::vector<float>{5, 7, 6});
    t.topk_merge(TestContext(), 1, 3, 2, 0, in.data(), INT32_MAX - 2, ids.data(), values.data());
    CHECK(ids.values() == std::vector<int32_t>{INT32_MAX - 2, INT32_MAX});
    check_any_thread_count([&](const Context& c) { return merged(t, c, 211, 20, {400, 900}, x).ids; }, version.name);
  });
}

}  // namespace qinco::kernels::tests
