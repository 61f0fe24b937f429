// strided_write: every view a tensor can have, element by element. gather_sum: exact, in the order of the tables.
// extend_beams: every pick.
#include <doctest/doctest.h>

#include "kernels/half.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(strided_write);
QINCO_COVERS(gather_sum);
QINCO_COVERS(extend_beams);

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
      float sum = g.base ? g.base[(g.base_ids ? g.base_ids[i] : i / g.base_times) * g.d + j] : 0.0f;
      for (int64_t m = 0; m < g.M; ++m) {
        const int64_t at = (m * g.K + g.codes[i * g.codes_ld + m]) * g.d + j;
        const float value = g.tables ? g.tables[at] : bf16_value(g.rounded_tables[at]);
        sum = g.subtract ? sum - value : sum + value;
      }
      out.push_back(sum);
    }
  return out;
}

void check_sum(GatherSum<float> g, const std::string& what) {
  constexpr int64_t kBaseRows = 11;
  if (g.K == 0) g.K = 7;
  g.codes_ld = g.M + 2;
  const std::vector<float> tables = Data(3).normal(g.M * g.K * g.d),
                           base = Data(5).normal(std::max(g.n, kBaseRows) * g.d);
  std::vector<uint16_t> rounded;
  for (const float value : tables) rounded.push_back(bf16_bits(value));
  const std::vector<int32_t> codes = Data(4).ids(g.n * g.codes_ld, g.K), ids = Data(6).ids(g.n, kBaseRows);
  for (const int setting : {0, 1, 2, 3, 4, 5, 6, 7}) {  // tables in float, and in bfloat16
    const int kind = setting % 4;  // no base, its rows in order, each of them five times, its rows by id
    g.tables = setting < 4 ? tables.data() : nullptr, g.rounded_tables = setting < 4 ? nullptr : rounded.data();
    g.codes = codes.data();
    g.base = kind > 0 ? base.data() : nullptr, g.base_ids = kind > 2 ? ids.data() : nullptr;
    g.base_times = kind == 2 ? 5 : 1;
    const std::vector<float> expected = expected_sum(g);
    for_each_version_and_reference([&](const Table<float>& t, const Version&) {
      const auto run = [&](const Context& context) {
        Buffer<float> from(tables), start(base), out(g.n * g.d, 3);
        Buffer<uint16_t> from_rounded(rounded);
        Buffer<int32_t> index(codes), rows(ids);
        GatherSum<float> own = g;
        if (g.tables) own.tables = from.data();
        if (g.rounded_tables) own.rounded_tables = from_rounded.data();
        own.codes = index.data(), own.out = out.data();
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

TEST_CASE("gather_sum: of tables that no cache holds, whose rows are fetched ahead") {
  for (const bool subtract : {false, true})
    check_sum({.n = 70, .M = 8, .K = 512, .d = 129, .subtract = subtract}, "large");
}

namespace {

struct Extended {
  std::vector<int32_t> pairs, longer;
};

// The definition.
Extended expected_beams(const BeamPicks& b) {
  Extended out;
  for (int64_t m = 0; m <= b.steps; ++m)
    for (int64_t i = 0; i < b.n; ++i)
      for (int64_t k = 0; k < b.kept; ++k) {
        const int64_t pick = b.picks[i * b.kept + k], beam = i * b.width + pick / b.candidates;
        const int64_t pair = beam * b.candidates + pick % b.candidates;
        if (m == 0) out.pairs.push_back(static_cast<int32_t>(pair));
        out.longer.push_back(m < b.steps ? b.codes[m * b.n * b.width + beam] : b.tried[pair]);
      }
  return out;
}

void check_beams(BeamPicks b, const std::string& what) {
  const std::vector<int32_t> codes = Data(1).ids(b.steps * b.n * b.width, 1 << 20),
                             tried = Data(2).ids(b.n * b.width * b.candidates, 1 << 20),
                             picks = Data(3).ids(b.n * b.kept, b.width * b.candidates);
  b.codes = codes.data(), b.tried = tried.data(), b.picks = picks.data();
  const Extended expected = expected_beams(b);
  for_each_version_and_reference([&](const Table<float>& t, const Version&) {
    const auto run = [&](const Context& context) {
      Buffer<int32_t> before(codes), candidates(tried), chosen(picks);
      Buffer<int32_t> pairs(b.n * b.kept, 3), longer((b.steps + 1) * b.n * b.kept, 5);
      BeamPicks own = b;
      own.codes = before.data(), own.tried = candidates.data(), own.picks = chosen.data();
      own.pairs = pairs.data(), own.longer = longer.data();
      t.extend_beams(context, own);
      CHECK(pairs.guards_hold());
      CHECK(longer.guards_hold());
      CHECK_MESSAGE(pairs.values() == expected.pairs, what);
      return longer.values();
    };
    CHECK_MESSAGE(run(TestContext()) == expected.longer, what);
    check_any_thread_count(run, what);
  });
}

}  // namespace

TEST_CASE("extend_beams: codes grow by the codewords that were picked") {
  for (const int64_t n : {0, 1, 300})
    for (const int64_t width : {1, 3})
      for (const int64_t candidates : {1, 5})
        for (const int64_t kept : {1, 4})
          for (const int64_t steps : {1, 4})
            check_beams({.n = n, .width = width, .candidates = candidates, .kept = kept, .steps = steps},
                        fmt::format("n={} width={} candidates={} kept={} steps={}", n, width, candidates, kept, steps));
}

}  // namespace qinco::kernels::tests
