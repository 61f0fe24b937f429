// scan: scores by look-up tables, exact on integers; ties by the lowest id, NaN never, -1 where there are too few.
#include <algorithm>
#include <cmath>
#include <deque>
#include <doctest/doctest.h>
#include <functional>
#include <limits>
#include <tuple>

#include "kernels/cuda/float_kernels.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(scan);

struct Result {
  std::vector<int64_t> ids;
  std::vector<float> scores;
};

struct ListRange {
  int64_t begin, end;
};

/// Lists of the given lengths over random codes, and the queries' tables.
struct Problem {
  Problem(int64_t number, int64_t codes, std::vector<int64_t> list_lengths, bool with_norms, std::vector<float> values)
      : nq(number), M(codes), lengths(std::move(list_lengths)), tables(std::move(values)) {
    Data data(7);
    int64_t first = 5;
    for (const int64_t n : lengths) {
      const int64_t blocks = (n + kScanBlock - 1) / kScanBlock;
      const std::vector<int32_t> drawn = data.ids(blocks * M * kScanBlock, 256);
      packed.emplace_back(drawn.begin(), drawn.end());
      norms.push_back(with_norms ? data.integers(n, 20) : std::vector<float>());
      firsts.push_back(first);
      first += n + 3;
    }
  }

  /// All queries visit all lists where they `share`; else the lists that `own` says for each, and where it is empty,
  /// every second query leaves out the first. offset: of codes and norms from a multiple of 64 bytes.
  Result run(const Table<float>& t, const Context& context, int64_t k, bool share = false, int64_t offset = 1) const {
    std::vector<ScanList<float>> lists;
    std::deque<Buffer<uint8_t>> own_codes;
    std::deque<Buffer<float>> own_norms;
    for (size_t l = 0; l < lengths.size(); ++l) {
      const float* const of_list = norms[l].empty() ? nullptr : own_norms.emplace_back(norms[l], offset).data();
      lists.push_back({lengths[l], own_codes.emplace_back(packed[l], offset).data(), of_list, static_cast<float>(l % 3),
                       firsts[l]});
    }
    Buffer<float> all_tables(tables);
    std::vector<ScanQuery<float>> queries;
    for (int64_t q = 0; q < nq; ++q) {
      ListRange range{share || !own.empty() ? 0 : q % 2, static_cast<int64_t>(lists.size())};
      if (!share && !own.empty()) range = own[static_cast<size_t>(q)];
      const float* const of_query = range.begin < range.end ? all_tables.data() + q * M * 256 : nullptr;
      queries.push_back({of_query, range.end - range.begin, lists.data() + range.begin});
    }
    Buffer<int64_t> ids(nq * k, 1);
    Buffer<float> scores(nq * k, 1);
    t.scan(context, {nq, M, k, queries.data(), ids.data(), scores.data()});
    CHECK((ids.guards_hold() && scores.guards_hold()));
    return {ids.values(), scores.values()};
  }

  int64_t nq, M;
  std::vector<int64_t> lengths;
  std::vector<float> tables;  // [nq,M,256]
  std::vector<std::vector<uint8_t>> packed;
  std::vector<std::vector<float>> norms;
  std::vector<int64_t> firsts;
  std::vector<ListRange> own;  // [nq] or empty
};

void check_against_reference(const Problem& problem, int64_t k, const std::string& what) {
  for (const bool share : {false, true}) {
    if (share && (problem.nq == 1 || !problem.own.empty())) continue;
    const Result expected = problem.run(table<float>(Isa::reference), TestContext(), k, share);
    for_each_version([&](const Table<float>& t, const Version& version) {
      for (const int64_t offset : {1, 0}) {
        if (offset == 0 && !share && problem.own.empty()) continue;
        const Result result = problem.run(t, TestContext(), k, share, offset);
        CHECK_MESSAGE(result.ids == expected.ids,
                      fmt::format("{} {} k={} share={} offset={}", version.name, what, k, share, offset));
        check_equal(result.scores, expected.scores, what);
      }
    });
  }
}

}  // namespace

TEST_CASE("scan: the reference on a case by hand") {
  // Two codes; table m maps code c to 10^m * c. Vectors (0,0), (1,0), (0,1), (1,1), of which the second has norm -5.
  std::vector<float> tables(512);
  for (int c = 0; c < 256; ++c) tables[c] = static_cast<float>(c), tables[256 + c] = static_cast<float>(10 * c);
  std::vector<uint8_t> codes(2 * kScanBlock, 200);
  codes[0] = 0, codes[1] = 1, codes[2] = 0, codes[3] = 1;
  codes[32] = 0, codes[33] = 0, codes[34] = 1, codes[35] = 1;
  const std::vector<float> norms = {0, -5, 0, 0};
  const ScanList<float> list{4, codes.data(), norms.data(), 0.5f, 100};
  const ScanQuery<float> query{tables.data(), 1, &list};
  for_each_version_and_reference([&](const Table<float>& t, const Version&) {
    std::vector<int64_t> ids(5);
    std::vector<float> scores(5);
    t.scan(TestContext(), {1, 2, 5, &query, ids.data(), scores.data()});
    CHECK(ids == std::vector<int64_t>{101, 100, 102, 103, -1});
    CHECK(scores == std::vector<float>{-3.5f, 0.5f, 10.5f, 11.5f, kInf});
  });
}

TEST_CASE("scan: integer tables give the reference's ids, at tail sizes of n, M and k") {
  for (const int64_t n : kTailSizes)
    for (const int64_t k : {1, 2, 10, 200})
      check_against_reference(Problem(2, 4, {n, 2 * n, 0, 1}, n % 2 == 1, Data(1).integers(2 * 4 * 256, 3)), k,
                              fmt::format("n={}", n));
  for (const int64_t M : {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 64, 65})
    check_against_reference(Problem(3, M, {100, 31}, true, Data(2).integers(3 * M * 256, 50)), 20,
                            fmt::format("M={}", M));
}

TEST_CASE("scan: real tables give the reference's bits: every version adds in the same order") {
  for (const int64_t k : {1, 50, 2000})
    for (const int64_t M : {4, 8, 64})
      check_against_reference(Problem(4, M, {1000, 333, 64}, true, Data(3).normal(4 * M * 256, 0, 10)), k,
                              fmt::format("real, M={}", M));
  for (const int64_t nq : {7, 8, 9, 16, 17, 33})
    check_against_reference(Problem(nq, 3, {100, 45}, true, Data(6).normal(nq * 3 * 256, 0, 10)), 20,
                            fmt::format("real, nq={}", nq));
}

TEST_CASE("scan: where gathering is slow, too, real tables give the reference's bits") {
  const ScopedWithout without(Feature::fast_gather);
  for (const int64_t M : {4, 9})
    check_against_reference(Problem(4, M, {1000, 333, 64}, true, Data(8).normal(4 * M * 256, 0, 10)), 20,
                            fmt::format("M={}", M));
}

TEST_CASE("scan: where there are no look-ups of bytes, real tables give the reference's bits") {
  const ScopedWithout without(Feature::avx512_vbmi);
  for (const int64_t M : {4, 9})
    check_against_reference(Problem(4, M, {1000, 333, 64}, true, Data(8).normal(4 * M * 256, 0, 10)), 20,
                            fmt::format("M={}", M));
}

TEST_CASE("scan: tables that bytes tell little about, or nothing, give the reference's bits") {
  constexpr int64_t M = 5;
  const std::vector<std::pair<std::string, std::function<void(std::vector<float>&)>>> cases = {
      {"one entry far above", [](std::vector<float>& t) { t[300] = 1e6f; }},
      {"one entry far below", [](std::vector<float>& t) { t[300] = -1e6f; }},
      {"an entry near the largest float", [](std::vector<float>& t) { t[40] = 3e38f; }},
      {"infinity", [](std::vector<float>& t) { t[40] = kInf, t[700] = -kInf; }},
      {"NaN", [](std::vector<float>& t) { t[0] = std::nanf(""), t[1] = -1000, t[17] = std::nanf(""); }},
      {"all the same", [](std::vector<float>& t) { t.assign(t.size(), 2.5f); }},
      {"steps near the smallest float",
       [](std::vector<float>& t) {
         for (float& x : t) x *= 1e-38f;
       }},
      {"one table alone", [](std::vector<float>& t) { std::fill(t.begin() + 256, t.end(), 0.1f); }},
      {"large, of little difference", [](std::vector<float>& t) {
         for (float& x : t) x = 1e4f + x * 1e-3f;
       }}};
  for (const auto& [what, change] : cases)
    for (const bool with_norms : {false, true}) {
      std::vector<float> tables = Data(9).normal(M * 256, 0, 10);
      change(tables);
      Problem problem(1, M, {1000, 333, 64, 31}, with_norms, tables);
      check_against_reference(problem, 10, what);
      if (!with_norms) continue;
      problem.norms[0][500] = kInf, problem.norms[1][300] = -kInf, problem.norms[1][301] = std::nanf("");
      problem.norms[0][37] = -1e30f, problem.norms[0][38] = 1e30f;
      check_against_reference(problem, 10, what + ", norms that are not finite");
    }
}

TEST_CASE("scan: bounds of scores allow for the rounding of both") {
  // All vectors have the same score, whose bound in bytes would be the score itself; the later list has the lower ids.
  constexpr int64_t n = 70;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    const int64_t M = seed % 2 == 0 ? 1 : 4;  // one table's largest entry, or the smallest of four
    std::vector<float> tables = Data(seed).normal(M * 256, 3, 10);
    if (seed >= 100)
      for (float& entry : tables) entry -= 1000;
    if (seed == 0) std::fill(tables.begin(), tables.end(), 0.0f);
    std::vector<uint8_t> codes;
    for (int64_t i = 0; i < 3 * M; ++i) {
      const auto table = tables.begin() + i % M * 256;
      const auto entry = M == 1 ? std::max_element(table, table + 256) : std::min_element(table, table + 256);
      codes.insert(codes.end(), kScanBlock, static_cast<uint8_t>(entry - table));
    }
    for (const float norm : {0.0f, 1234.5f, -1e6f}) {
      const std::vector<float> norms(n, norm + static_cast<float>(seed) * 0.37f);
      const float bias = M == 1 ? 0.0f : (norm == 0 ? 1e4f : 7.7f) * static_cast<float>(seed);
      const std::vector<ScanList<float>> lists = {{n, codes.data(), norm == 0 ? nullptr : norms.data(), bias, 500},
                                                  {n, codes.data(), norm == 0 ? nullptr : norms.data(), bias, 5}};
      const ScanQuery<float> query{tables.data(), 2, lists.data()};
      for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
        int64_t id = -1;
        float score = 0;
        t.scan(TestContext(), {1, M, 1, &query, &id, &score});
        CHECK_MESSAGE(id == 5, version.name);
      });
    }
  }
}

TEST_CASE("scan: a bound is finite where the score is") {
  constexpr int64_t M = 64, n = 64;
  const std::vector<float> tables(M * 256, 1e30f), norms(n, std::nextafter(std::numeric_limits<float>::max(), 0.0f));
  const std::vector<uint8_t> codes(2 * kScanBlock * M, 7);
  const std::vector<ScanList<float>> lists = {{n, codes.data(), norms.data(), 0, 500},
                                              {n, codes.data(), norms.data(), 0, 5}};
  const ScanQuery<float> query{tables.data(), 2, lists.data()};
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    int64_t id = -1;
    float score = 0;
    t.scan(TestContext(), {1, M, 1, &query, &id, &score});
    CHECK_MESSAGE(id == 5, version.name);  // each entry is lost in the norm's rounding
  });
}

TEST_CASE("scan: lists that end in blocks of all lengths, and norms of NaN at their ends") {
  for (int64_t n = 240; n < 270; ++n)
    for (const int64_t k : {1, 5, 700}) {
      const std::vector<float> tables = Data(static_cast<uint64_t>(n)).normal(5 * 256, 0, 10);
      check_against_reference(Problem(1, 5, {n, n + 8}, false, tables), k, fmt::format("n={}, no norms", n));
      Problem problem(1, 5, {n, n % 13, 300}, true, tables);
      check_against_reference(problem, k, fmt::format("n={}", n));
      for (std::vector<float>& norms : problem.norms)
        if (!norms.empty()) norms.back() = std::nanf("");
      check_against_reference(problem, k, fmt::format("n={}, NaN", n));
    }
}

TEST_CASE("scan: more tables than sums of bytes hold") {
  for (const int64_t M : {255, 256, 257, 300})
    check_against_reference(Problem(1, M, {100, 70}, true, Data(10).normal(M * 256, 0, 10)), 5, fmt::format("M={}", M));
}

TEST_CASE("scan: among equals a later list's lower ids come first, and queries may stop at different lists") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    constexpr int64_t kQueries = 9, kBest = 3;
    const std::vector<float> tables(256, 2);
    const std::vector<uint8_t> codes(kScanBlock, 7);
    const std::vector<ScanList<float>> lists = {{20, codes.data(), nullptr, 1, 100}, {20, codes.data(), nullptr, 1, 5}};
    for (const bool all_of_both : {true, false}) {
      std::vector<ScanQuery<float>> queries;
      std::vector<int64_t> expected;
      for (int64_t q = 0; q < kQueries; ++q) {
        queries.push_back({tables.data(), all_of_both ? 2 : q % 3, lists.data()});
        for (int64_t i = 0; i < kBest; ++i)
          expected.push_back(queries.back().lists == 2 ? 5 + i : queries.back().lists == 1 ? 100 + i : -1);
      }
      std::vector<int64_t> ids(expected.size());
      std::vector<float> scores(expected.size());
      t.scan(TestContext(), {kQueries, 1, kBest, queries.data(), ids.data(), scores.data()});
      CHECK_MESSAGE(ids == expected, version.name << " both=" << all_of_both);
    }
  });
}

TEST_CASE("scan: NaN never enters, infinities order, and nothing to scan gives nothing") {
  std::vector<float> tables = Data(4).integers(2 * 256, 5);
  for (size_t i = 0; i < 512; i += 7) tables[i] = kNan;
  for (size_t i = 3; i < 512; i += 11) tables[i] = kInf;
  for (size_t i = 5; i < 512; i += 64) tables[i] = -kInf;
  std::vector<float> twice = tables;
  twice.insert(twice.end(), tables.rbegin(), tables.rend());
  Problem norms(2, 2, {203}, true, twice);
  norms.norms[0][201] = kNan, norms.norms[0][202] = -kInf, norms.norms[0][7] = kInf, norms.norms[0][8] = -0.0F;
  for (const int64_t k : {1, 5, 300}) {
    check_against_reference(Problem(1, 2, {200}, false, tables), k, "special");
    check_against_reference(Problem(2, 2, {200}, false, twice), k, "special, two queries");
    check_against_reference(norms, k, "special norms");
  }
  for_each_version_and_reference([&](const Table<float>& t, const Version&) {
    const Result all_nan = Problem(1, 1, {40}, false, std::vector<float>(256, kNan)).run(t, TestContext(), 3);
    CHECK(all_nan.ids == std::vector<int64_t>{-1, -1, -1});
    CHECK(all_nan.scores == std::vector<float>{kInf, kInf, kInf});
    for (const bool share : {false, true}) {
      CHECK(Problem(2, 1, {0}, false, std::vector<float>(512, 1)).run(t, TestContext(), 1, share).ids ==
            std::vector<int64_t>{-1, -1});
      CHECK(Problem(2, 1, {40}, false, std::vector<float>(512, kNan)).run(t, TestContext(), 1, share).ids ==
            std::vector<int64_t>{-1, -1});
      CHECK(Problem(2, 1, {40}, false, std::vector<float>(512, 1)).run(t, TestContext(), 0, share).ids.empty());
    }
    CHECK(Problem(0, 1, {40}, false, {}).run(t, TestContext(), 3).ids.empty());
  });
}

TEST_CASE("scan: many queries of long lists") {  // where CUDA bounds the scores first
  const auto table = [](int64_t nq, int64_t M) { return Data(8).normal(nq * M * 256, 0, 10); };
  for (const auto& [nq, M, k] :
       {std::tuple<int64_t, int64_t, int64_t>{8, 3, 500}, {17, 8, 20}, {33, 5, 1}, {8, 40, 10}})
    check_against_reference(Problem(nq, M, {32000, 1, 803}, true, table(nq, M)), k, fmt::format("long, nq={}", nq));
  check_against_reference(Problem(8, 2, {32768}, false, Data(9).integers(8 * 2 * 256, 9)), 30, "long, many ties");

  Problem equal(9, 4, {32768}, false, table(9, 4));
  for (uint8_t& code : equal.packed[0]) code = 7;
  check_against_reference(equal, 10, "long, all the same");

  std::vector<float> tables = table(34, 2);
  tables[17 * 512 + 3] = kNan, tables[17 * 512 + 300] = -kInf;          // a group of its own
  std::fill(tables.begin() + 2 * 512, tables.begin() + 3 * 512, 4.0F);  // all of one query's scores are its norms'
  Problem special(34, 2, {32768, 900}, true, tables);
  for (size_t i = 0; i < 900; i += 9) special.norms[1][i] = i % 2 ? kNan : kInf;
  special.norms[0][77] = -kInf, special.norms[0][78] = 3e38F, special.norms[0][79] = -3e38F;
  check_against_reference(special, 15, "long, special values");
  for (float& norm : special.norms[0]) norm += 1e7F;  // units as coarse as a float
  check_against_reference(special, 15, "long, large norms");
}

// CUDA bounds the scores of queries with lists of their own first where these have 256 k vectors on average.
TEST_CASE("scan: many vectors in lists of their own") {
  const Restore restore(cuda::fewest_screened_vectors);
  cuda::fewest_screened_vectors = 1;
  Problem problem(4, 4, {33, 130000, 2000, 0}, true, Data(10).normal(4 * 4 * 256, 0, 10));
  problem.own = {{0, 3}, {4, 4}, {2, 4}, {3, 4}};  // of these no list, a short one, and an empty one
  check_against_reference(problem, 20, "own lists");
}

TEST_CASE("scan: more lists than go to a device in one part") {  // parts of a MiB, 32 bytes a list
  std::vector<int64_t> lengths;
  for (int64_t l = 0; l < 200; ++l) lengths.push_back(l % 4);
  Problem problem(250, 2, lengths, true, Data(13).normal(250 * 2 * 256, 0, 10));
  for (int64_t q = 0; q < problem.nq; ++q) problem.own.push_back({q % 7, 200 - q % 3});
  problem.own[100] = {4, 4};
  check_against_reference(problem, 5, "many lists");
}

TEST_CASE("scan: long lists of their own") {
  const Restore restore(cuda::fewest_screened_vectors);
  cuda::fewest_screened_vectors = 1;
  const auto table = [](int64_t nq, int64_t M) { return Data(11).normal(nq * M * 256, 0, 10); };
  for (const auto& [M, k] : {std::pair<int64_t, int64_t>{1, 128}, {8, 1}, {9, 20}, {16, 30}, {64, 10}}) {
    Problem one(1, M, {32000, 1, 803}, M % 2 == 0, table(1, M));
    one.own = {{0, 3}};
    check_against_reference(one, k, fmt::format("one query, M={}", M));
  }
  Problem ties(2, 2, {33000, 33000}, false, Data(12).integers(2 * 2 * 256, 9));
  ties.own = {{0, 1}, {1, 2}};
  check_against_reference(ties, 30, "own lists, many ties");

  Problem equal(1, 4, {40000}, false, table(1, 4));
  for (uint8_t& code : equal.packed[0]) code = 7;  // more than there is room to list
  check_against_reference(equal, 10, "own lists, all the same");

  std::vector<float> tables = table(6, 2);
  tables[3] = kNan, tables[300] = -kInf;                         // the first query's
  std::fill(tables.begin() + 512, tables.begin() + 1024, 4.0F);  // all of the second's scores are its norms'
  Problem special(6, 2, {5, 40000, 900, 7}, true, tables);
  special.own = {{1, 3}, {0, 3}, {1, 4}, {0, 2}, {1, 2}, {3, 4}};  // the last has fewer vectors than k
  for (size_t i = 0; i < 900; i += 9) special.norms[2][i] = i % 2 ? kNan : kInf;
  special.norms[1][77] = -kInf, special.norms[1][78] = 3e38F, special.norms[1][79] = -3e38F;
  special.norms[1][80] = -0.0F;
  check_against_reference(special, 15, "own lists, special values");
  for (float& norm : special.norms[1]) norm += 1e7F;  // units as coarse as a float
  check_against_reference(special, 15, "own lists, large norms");
}

TEST_CASE("scan: the same results at any thread count") {
  for (const int64_t nq : {2, 5, 10, 37}) {  // groups of 1, 2, 4 and 8 on three threads, where a vector has eight lanes
    const Problem problem(nq, 5, {500, 100}, true, Data(5).normal(nq * 5 * 256));
    for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
      for (const bool share : {false, true}) {
        check_any_thread_count([&](const Context& c) { return problem.run(t, c, 30, share).ids; }, version.name);
        check_any_thread_count([&](const Context& c) { return problem.run(t, c, 30, share).scores; }, version.name);
      }
    });
  }
}

}  // namespace qinco::kernels::tests
