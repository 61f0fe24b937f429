// strided_write: every view a tensor can have, element by element. gather_sum: exact, in the order of the tables.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(strided_write);
QINCO_COVERS(gather_sum);

struct View {
  std::vector<int64_t> shape, strides;
};

void check_write(const View& view, const std::string& what) {
  int64_t extent = 1, count = 1;
  for (size_t i = 0; i < view.shape.size(); ++i) {
    extent += std::max<int64_t>(view.shape[i] - 1, 0) * view.strides[i];
    count *= view.shape[i];
  }
  const std::vector<float> x = Data(1).normal(count), before = Data(2).normal(extent);
  // The definition: element number e goes where its digits say; what lies between keeps its value.
  std::vector<float> expected = before;
  for (int64_t e = 0; e < count; ++e) {
    int64_t offset = 0, rest = e;
    for (size_t i = view.shape.size(); i-- > 0; rest /= view.shape[i]) offset += rest % view.shape[i] * view.strides[i];
    expected[static_cast<size_t>(offset)] = x[static_cast<size_t>(e)];
  }
  for_each_version_and_reference([&](const Table<float>& t, const Version&) {
    const auto run = [&](const Context& context) {
      Buffer<float> in(x), out(before, 3);
      t.strided_write(context, static_cast<int>(view.shape.size()), view.shape.data(), view.strides.data(), in.data(),
                      out.data());
      CHECK(out.guards_hold());
      return out.values();
    };
    CHECK_MESSAGE(same_bits(run(TestContext()), expected), what);
    check_any_thread_count(run, what);
  });
}

}  // namespace

TEST_CASE("strided_write: contiguous, sliced, transposed, empty and scalar views") {
  check_write({{}, {}}, "scalar");
  check_write({{5}, {1}}, "contiguous");
  check_write({{5}, {3}}, "strided");
  check_write({{4, 0, 3}, {3, 3, 1}}, "empty");
  check_write({{7, 9}, {12, 1}}, "column slice");
  check_write({{7, 9}, {1, 7}}, "transpose");
  check_write({{1, 7, 1, 9, 1}, {63, 9, 9, 1, 1}}, "ones");
  check_write({{2, 3, 4, 5}, {60, 5, 15, 1}}, "middle swap");
  check_write({{5, 4, 3, 2}, {1, 5, 20, 60}}, "all reversed");
  check_write({{2, 2, 2, 2, 2, 2, 2, 2}, {1, 2, 4, 8, 16, 32, 64, 128}}, "eight dimensions");
  check_write({{333, 257}, {300, 1}}, "333x257 slice");
}

namespace {

// The definition.
std::vector<float> expected_sum(const GatherSum<float>& g) {
  std::vector<float> out;
  for (int64_t i = 0; i < g.n; ++i)
    for (int64_t j = 0; j < g.d; ++j) {
      float sum = g.base ? g.base[(g.base_ids ? g.base_ids[i] : i) * g.d + j] : 0.0f;
      for (int64_t m = 0; m < g.M; ++m) {
        const float value = g.tables[(m * g.K + g.codes[i * g.codes_ld + m]) * g.d + j];
        sum = g.subtract ? sum - value : sum + value;
      }
      out.push_back(sum);
    }
  return out;
}

void check_sum(GatherSum<float> g, const std::string& what) {
  constexpr int64_t kBaseRows = 11;
  g.K = 7, g.codes_ld = g.M + 2;
  const std::vector<float> tables = Data(3).normal(g.M * g.K * g.d),
                           base = Data(5).normal(std::max(g.n, kBaseRows) * g.d);
  const std::vector<int32_t> codes = Data(4).ids(g.n * g.codes_ld, g.K), ids = Data(6).ids(g.n, kBaseRows);
  for (const int kind : {0, 1, 2}) {  // no base, its rows in order, its rows by id
    g.tables = tables.data(), g.codes = codes.data();
    g.base = kind > 0 ? base.data() : nullptr, g.base_ids = kind > 1 ? ids.data() : nullptr;
    const std::vector<float> expected = expected_sum(g);
    for_each_version_and_reference([&](const Table<float>& t, const Version&) {
      const auto run = [&](const Context& context) {
        Buffer<float> from(tables), start(base), out(g.n * g.d, 3);
        Buffer<int32_t> index(codes), rows(ids);
        GatherSum<float> own = g;
        own.tables = from.data(), own.codes = index.data(), own.out = out.data();
        if (g.base) own.base = start.data();
        if (g.base_ids) own.base_ids = rows.data();
        t.gather_sum(context, own);
        CHECK(out.guards_hold());
        return out.values();
      };
      CHECK_MESSAGE(same_bits(run(TestContext()), expected), what);
      check_any_thread_count(run, what);
    });
  }
}

}  // namespace

TEST_CASE("gather_sum: sums and differences in the order of the tables") {
  for (const int64_t d : kTailSizes)
    for (const int64_t M : {0, 1, 3})
      for (const int64_t n : {0, 1, 300})
        for (const bool subtract : {false, true})
          check_sum({.n = n, .M = M, .d = d, .subtract = subtract}, fmt::format("n={} M={} d={}", n, M, d));
}

}  // namespace qinco::kernels::tests
