// The IVF-QINCo index: its search against plain loops, merging, and many threads at once. Its file: ivf_file_test.cpp.
#include "qinco/search/ivf_index.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "qinco/search/flat.h"
#include "qinco/search/hnsw.h"
#include "qinco/search/ivf_limits.h"
#include "tests/kernels/harness.h"
#include "tests/qinco/ivf_fixtures.h"

namespace qinco {
namespace {

using namespace testing;
using kernels::Context;
using tests::contains;
using tests::error_of;

TEST_CASE("IVF index: visiting and re-ranking all is the exhaustive search of the decoded vectors") {
  const World world;
  const IvfIndex index = world.full();
  CHECK(index.size() == kN);
  CHECK(index.file().next_id() == kN);
  CHECK(index.file().segments().size() == 3);
  const Tensor queries = random_vectors(ivf_config(), 40, 3);
  const IvfResult result = index.search(span_of(queries), {10, 20, kN});
  const Tensor exact = flat_search(Context::cpu(), world.decoded, queries, 10);
  for (int64_t i = 0; i < 400; ++i) CHECK(result.ids[static_cast<size_t>(i)] == exact.data<int32_t>()[i]);
  for (int64_t q = 0; q < 40; ++q) {
    const float* const found = world.decoded.data<float>() + result.ids[static_cast<size_t>(q * 10)] * kD;
    double sum = 0;
    for (int64_t j = 0; j < kD; ++j)
      sum += std::pow(static_cast<double>(found[j] - queries.data<float>()[q * kD + j]), 2);
    CHECK(result.distances[static_cast<size_t>(q * 10)] == doctest::Approx(sum).epsilon(1e-4));
  }
}

TEST_CASE("IVF index: nprobe lists are visited and no others, the short-list is that of the fixed codebooks") {
  const World world;
  const IvfIndex index = world.full();
  const Tensor queries = random_vectors(ivf_config(), 30, 4);
  const IvfParameters& p = index.file().parameters();
  for (const int64_t nprobe : {1, 3}) {
    const IvfResult result = index.search(span_of(queries), {50, nprobe, 50});
    for (int64_t q = 0; q < 30; ++q) {
      const float* const query = queries.data<float>() + q * kD;
      std::vector<std::pair<double, int64_t>> lists;
      for (int64_t c = 0; c < p.K_ivf; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < kD; ++j)
          sum += std::pow(static_cast<double>(world.coder->centroids().data<float>()[c * kD + j] - query[j]), 2);
        lists.emplace_back(sum, c);
      }
      std::sort(lists.begin(), lists.end());
      std::set<int64_t> near;
      for (int64_t i = 0; i < nprobe; ++i) near.insert(lists[static_cast<size_t>(i)].second);
      int64_t expected = 0;
      for (int64_t i = 0; i < kN; ++i) expected += static_cast<int64_t>(near.count(world.codes[i * 4]));
      int64_t found = 0;
      double last = -1;
      for (int64_t i = 0; i < 50; ++i) {
        const int64_t id = result.short_list[static_cast<size_t>(q * 50 + i)];
        if (id < 0) continue;
        ++found;
        CHECK(near.count(world.codes[static_cast<size_t>(id * 4)]) == 1);
        // ||q - (c + r)||^2 falls in the order of the short-list, up to the 8 bits of its norm.
        double sum = 0;
        for (int64_t j = 0; j < kD; ++j) {
          double value = static_cast<double>(
              world.coder->centroids().data<float>()[world.codes[static_cast<size_t>(id * 4)] * kD + j]);
          for (int64_t m = 0; m < p.M; ++m)
            value += static_cast<double>(
                p.codebooks.data<float>()[(m * p.K + world.codes[static_cast<size_t>(id * 4 + 1 + m)]) * kD + j]);
          sum += std::pow(value - static_cast<double>(query[j]), 2);
        }
        CHECK(sum > last - 1.0);
        last = std::max(last, sum);
      }
      CHECK(found == std::min<int64_t>(expected, 50));
    }
  }
}

TEST_CASE("IVF index: many queries at once find what each finds alone, on any number of threads") {
  const World world;
  const IvfIndex index = world.full();
  const int64_t nq = 400, k = 5;
  const Tensor queries = random_vectors(ivf_config(), nq, 6);
  const IvfSearchOptions options{k, 3, 20};
  const int threads = kernels::default_threads();
  for (const int count : {1, 3}) {
    kernels::set_default_threads(count);
    const IvfResult all = index.search(span_of(queries), options);
    for (int64_t q = 0; q < nq; ++q) {
      const IvfResult one = index.search({queries.data<float>() + q * kD, static_cast<size_t>(kD)}, options);
      CHECK(std::equal(one.ids.begin(), one.ids.end(), all.ids.begin() + q * k));
      CHECK(std::equal(one.short_list.begin(), one.short_list.end(), all.short_list.begin() + q * k));
    }
  }
  kernels::set_default_threads(threads);
}

TEST_CASE("IVF index: the lists are the same where few distances to centroids are held together") {
  const World world;
  const IvfIndex index = world.full();
  const Tensor queries = random_vectors(ivf_config(), 23, 14);
  const IvfSearchOptions options{5, 2, 20};
  const IvfResult expected = index.search(span_of(queries), options);
  const kernels::tests::Restore restore(ivf_limits::coarse_floats);
  for (const int64_t queries_together : {0, 1, 5}) {
    ivf_limits::coarse_floats = queries_together * ivf_config().K_ivf;
    const IvfResult result = index.search(span_of(queries), options);
    CHECK(result.ids == expected.ids);
    CHECK(result.short_list == expected.short_list);
    CHECK(result.distances == expected.distances);
  }
}

TEST_CASE("IVF index: batches, given codes and merged shards hold the same entries") {
  const World world;
  const IvfIndex batches = world.full();
  const std::string whole = world.directory.file("whole.index"), first = world.directory.file("0.index"),
                    second = world.directory.file("1.index"), merged = world.directory.file("merged.index");
  IvfBuilder builder(world.coder);
  builder.add(kN, world.x.data<float>(), world.codes.data());
  for (const std::string& path : {whole, first, second}) builder.write(path);
  IvfIndex(whole, world.coder).add_codes(world.codes, 0);
  IvfIndex(second, world.coder).add(world.rows(400, kN), 400);
  IvfIndex(first, world.coder).add(world.rows(0, 400), 0);
  merge_indexes({second, first}, merged);
  CHECK(read_bytes(merged) == read_bytes([&] {
          merge_indexes({world.path()}, whole);  // sorted by list and id, whatever the batches
          return whole;
        }()));
  const IvfIndex index(merged, world.coder);
  CHECK(index.file().segments().size() == 1);
  CHECK(index.file().segments()[0].ranges == std::vector<IdRange>{{0, kN}});
  const Tensor queries = random_vectors(ivf_config(), 25, 5);
  const IvfSearchOptions options{5, 4, 30};
  CHECK(index.search(span_of(queries), options).ids == batches.search(span_of(queries), options).ids);
  CHECK(contains(error_of([&] { merge_indexes({merged, first}, whole); }), "ids 0 to 399 are in the index already"));
  const std::string other = world.directory.file("other.index");
  IvfBuilder apart(world.coder);
  apart.add(500, world.x.data<float>());
  apart.write(other);
  CHECK(contains(error_of([&] { merge_indexes({first, other}, whole); }), "built apart"));
}

/// The vectors that the lists and the first M_used codes after them decode to.
Tensor decoded_prefix(const World& world, int64_t M_used) {
  const Tensor x = Tensor::empty({kN, kD});
  world.coder->codec().decode(kN, world.codes.data(), 4, 1 + M_used, x.data<float>());
  return x;
}

TEST_CASE("IVF index: fewer codes kept, or decoded, give the search of what the prefix decodes to") {
  const World world;
  const IvfIndex full = world.full();
  const Tensor queries = random_vectors(ivf_config(), 30, 13);
  for (const int64_t M_used : {1, 2}) {
    const Tensor exact = flat_search(Context::cpu(), decoded_prefix(world, M_used), queries, 5);
    const std::string path = world.directory.file(fmt::format("{}.index", M_used));
    IvfBuilder builder(world.coder, M_used);
    builder.add(kN, world.x.data<float>(), world.codes.data());
    builder.write(path);
    IvfIndex kept(path, world.coder);
    kept.add(world.rows(0, 500), 0);
    kept.add_codes(std::span(world.codes).subspan(500 * 4), 500);
    const auto entries_error = [&](int64_t entries) { return error_of([&] { kept.add_codes({}, kN, entries); }); };
    CHECK(entries_error(M_used) == fmt::format("index: codes of {} entries, expected {} to 4", M_used, M_used + 1));
    CHECK(contains(entries_error(5), "index: codes of 5 entries"));
    CHECK(kept.file().parameters().width() == M_used + 1);
    const std::vector<int64_t> of_kept = kept.search(span_of(queries), {5, 20, kN}).ids;
    const std::vector<int64_t> of_full = full.search(span_of(queries), {5, 20, kN, 64, M_used}).ids;
    for (size_t i = 0; i < of_kept.size(); ++i) {
      CHECK(of_kept[i] == exact.data<int32_t>()[i]);
      CHECK(of_full[i] == exact.data<int32_t>()[i]);
    }
    CHECK(contains(error_of([&] {
                     kept.search(span_of(queries), {5, 20, 9, 64, M_used + 1});
                   }),
                   fmt::format("{} codes to decode, the index keeps {}", M_used + 1, M_used)));
    CHECK(contains(error_of([&] { merge_indexes({path, world.path()}, path); }), "built apart"));
    const auto coder = std::make_shared<IvfCoder>(random_model(ivf_config(), 1));
    int64_t polls = 0;
    coder->set_poll([&] { ++polls; }, kN);
    IvfIndex(path, coder).add(world.rows(0, 50), kN);
    CHECK(polls == 1 + M_used);  // before the vectors, and before each step that is searched
    polls = 0;
    IvfBuilder(coder, M_used).add(50, world.x.data<float>());
    CHECK(polls == 1 + M_used);
  }
  CHECK(contains(error_of([&] { IvfBuilder(world.coder, 5000); }), "5000 codes a vector, the model has 3"));
}

TEST_CASE("IVF index: what a poll throws ends building and adding, and nothing is written") {
  const World world;
  const std::string path = world.directory.file("stopped.index");
  const auto filled = [&world] {
    IvfBuilder builder(world.coder);
    builder.add(kN, world.x.data<float>(), world.codes.data());
    return builder;
  };
  int64_t polls = 0;
  const auto stop_at = [&](int64_t last) {
    polls = 0;
    return [&polls, last] { check(++polls < last, "stopped"); };
  };
  constexpr int64_t kSolving = 2;
  for (int64_t last = 1; last <= kSolving; ++last) {
    IvfBuilder ended = filled();
    CHECK(error_of([&] { ended.write(path, 0, 20, stop_at(last)); }) == "stopped");
    CHECK(contains(error_of([&] { ended.write(path); }), "no vectors"));
    CHECK(contains(error_of([&] { ended.add(1, world.x.data<float>()); }), "come before"));
  }
  IvfBuilder builder = filled();
  CHECK(error_of([&] { builder.write(path, 0, 20, stop_at(kSolving + 1)); }) == "stopped");
  for (const int64_t links : {0, 8}) {
    const int64_t expected = 2 + (links > 0 ? ivf_config().K_ivf : 0);
    for (const int64_t last : {int64_t{1}, expected})
      CHECK(error_of([&] { builder.write(path, links, 20, stop_at(last)); }) == "stopped");
    CHECK(polls == expected);
    CHECK_FALSE(std::filesystem::exists(path));
  }
  builder.write(path);
  CHECK(read_bytes(path) == read_bytes(world.path()));
  CHECK(contains(error_of([&] { builder.add(1, world.x.data<float>()); }), "come before"));
  const auto coder = std::make_shared<IvfCoder>(random_model(ivf_config(), 1));
  IvfIndex index(path, coder);
  coder->set_poll([] { fail("stopped"); });
  CHECK(error_of([&] { index.add(world.rows(0, 10), 0); }) == "stopped");
  CHECK(read_bytes(path) == read_bytes(world.path()));
  coder->set_poll({});
  index.add(world.rows(0, 10), 0);
  CHECK(IvfFile::open(path).size() == 10);
}

TEST_CASE("HNSW: nearly the nearest, the same graph again, and from its bytes") {
  const int64_t n = 2000, d = 8, k = 10;
  const Tensor x = Tensor::empty({n, d}), queries = Tensor::empty({50, d});
  Random(1).normal(x);
  Random(2).normal(queries);
  const Hnsw built = Hnsw::build(n, d, x.data<float>(), 16, 100);
  const std::vector<std::byte> bytes = built.bytes();
  CHECK(Hnsw::build(n, d, x.data<float>(), 16, 100).bytes() == bytes);
  const Hnsw graph = Hnsw::from_bytes(d, bytes);
  CHECK(graph.size() == n);
  const Tensor exact = flat_search(Context::cpu(), x, queries, k);
  int64_t hits = 0;
  std::vector<int32_t> ids(k), same(k);
  for (int64_t q = 0; q < 50; ++q) {
    graph.search(queries.data<float>() + q * d, k, 100, ids.data());
    built.search(queries.data<float>() + q * d, k, 100, same.data());
    CHECK(ids == same);
    for (int64_t i = 0; i < k; ++i) hits += ids[static_cast<size_t>(i)] == exact.data<int32_t>()[q * k + i];
  }
  CHECK(hits > 490);
  std::vector<int32_t> many(3000);
  graph.search(queries.data<float>(), 3000, 1, many.data());
  CHECK(std::count(many.begin(), many.end(), -1) >= 1000);
  CHECK(contains(error_of([&] { Hnsw::from_bytes(d, std::span(bytes).first(bytes.size() - 1)); }), "HNSW"));
  CHECK(contains(error_of([&] { Hnsw::build(n, d, x.data<float>(), 1, 100); }), "1 links, expected 2 to 1000"));
}

TEST_CASE("IVF index: with a graph over few centroids, the lists and results of the flat coarse quantizer") {
  const World world;
  const IvfIndex flat = world.full();
  const std::string path = world.directory.file("graph.index"), merged = world.directory.file("merged.index");
  IvfBuilder builder(world.coder);
  builder.add(kN, world.x.data<float>());
  builder.write(path, 8, 50);
  IvfIndex index(path, world.coder);
  CHECK(index.has_graph());
  CHECK_FALSE(flat.has_graph());
  index.add(world.rows(0, kN), 0);
  const Tensor queries = random_vectors(ivf_config(), 40, 12);
  const IvfSearchOptions options{5, 4, 30, 20};
  const std::vector<int64_t> expected = flat.search(span_of(queries), options).ids;
  CHECK(index.search(span_of(queries), options).ids == expected);
  merge_indexes({path}, merged);
  CHECK(IvfIndex(merged, world.coder).search(span_of(queries), options).ids == expected);
  CHECK(contains(error_of([&] { merge_indexes({path, world.path()}, merged); }), "built apart"));
  queries.data<float>()[0] = NAN;
  CHECK(index.search(span_of(queries), options).ids[0] == -1);
  CHECK(contains(error_of([&] { index.search(span_of(queries), {1, 1, 1, 0}); }), "efSearch 0"));
}

TEST_CASE("IVF index: hostile queries, too few entries, empty lists and bad sizes") {
  const World world;
  IvfIndex index(world.path(), world.coder);
  const Tensor queries = random_vectors(ivf_config(), 3, 6);
  CHECK(index.search(span_of(queries), {2, 5, 9}).ids == std::vector<int64_t>(6, -1));  // nothing in it
  index.add(world.rows(0, 4), 7);
  queries.data<float>()[kD] = NAN;
  queries.data<float>()[2 * kD] = INFINITY;
  const IvfResult result = index.search(span_of(queries), {6, 1000, 9});
  CHECK(std::count(result.ids.begin(), result.ids.begin() + 6, -1) == 2);
  for (int64_t i = 0; i < 4; ++i)
    CHECK((result.ids[static_cast<size_t>(i)] >= 7 && result.ids[static_cast<size_t>(i)] < 11));
  CHECK(std::all_of(result.ids.begin() + 6, result.ids.end(), [](int64_t id) { return id == -1; }));
  CHECK(std::all_of(result.distances.begin() + 6, result.distances.end(), [](float v) { return v == INFINITY; }));
  CHECK(contains(error_of([&] {
                   index.search({queries.data<float>(), 7});
                 }),
                 "7 values are not queries of dimension 6"));
  CHECK(contains(error_of([&] { index.search(span_of(queries), {10, 1, 5}); }), "10 neighbours asked for of 5"));
  CHECK(contains(error_of([&] {
                   index.search(span_of(queries), {int64_t{1} << 60, 1, int64_t{1} << 61});
                 }),
                 "2305843009213693952 candidates, expected at most 4294967294"));
  CHECK(contains(error_of([&] { IvfIndex(world.path(), nullptr); }), "no coder given"));
  CHECK(contains(error_of([] { IvfBuilder{nullptr}; }), "no coder given"));
  CHECK(contains(error_of([&] { index.search(span_of(queries), {1, 0, 5}); }), "nprobe 0"));
  CHECK(contains(error_of([&] { index.add(world.rows(0, 4), 10); }), "ids 10 to 10 are in the index already"));
  CHECK(contains(error_of([&] { index.add(world.rows(0, 1), -1); }), "1 ids from -1 on"));
  CHECK(contains(error_of([&] { index.add({queries.data<float>(), 7}, 50); }), "7 values are not vectors"));
  CHECK(contains(error_of([&] { index.add(span_of(queries), 50); }), "index: row 1 holds nan, expected finite"));
  IvfBuilder builder(world.coder);
  CHECK(contains(error_of([&] { builder.add(3, queries.data<float>()); }), "index: row 1 holds nan, expected finite"));
  std::vector<int32_t> codes = {20, 0, 0, 0};
  CHECK(contains(error_of([&] { index.add_codes(codes, 50); }), "row 0: expected codes in [0,20), found 20"));
  codes.pop_back();
  CHECK(contains(error_of([&] { index.add_codes(codes, 50); }), "3 entries are not codes of 4 entries"));
  CHECK(index.size() == 4);
  const auto other = std::make_shared<IvfCoder>(random_model(ivf_config(), 9));
  CHECK(contains(error_of([&] { IvfIndex(world.path(), other); }), "another model"));
  QincoConfig plain = ivf_config();
  plain.K_ivf = 0;
  CHECK(contains(error_of([&] { IvfCoder{random_model(plain, 1)}; }), "variant qinco, expected ivf-qinco"));
}

TEST_CASE("IVF index: a code out of range names its row of all that are given, none of which are fitted to") {
  const World world;
  const int64_t n = 5000;  // more than are worked on together
  const Tensor x = random_vectors(ivf_config(), n, 3);
  std::vector<int32_t> codes(static_cast<size_t>(n * 4));
  world.coder->codec().encode(n, x.data<float>(), codes.data());
  IvfBuilder builder(world.coder, 2);
  const auto add = [&] { builder.add(n, x.data<float>(), codes.data()); };
  codes[4 * 4500 + 3] = 16;  // a code that is not kept
  CHECK(contains(error_of(add), "index: row 4500: expected codes in [0,16), found 16"));
  codes[4 * 4500] = -1;
  CHECK(contains(error_of(add), "index: row 4500: expected codes in [0,20), found -1"));
  CHECK(contains(error_of([&] { builder.write(world.directory.file("none.index")); }), "no vectors"));
}

TEST_CASE("IVF index: searches from many threads at once give what one gives") {
  const World world;
  const IvfIndex index = world.full();
  const Tensor queries = random_vectors(ivf_config(), 50, 8);
  const IvfSearchOptions options{10, 5, 40};
  const std::vector<int64_t> expected = index.search(span_of(queries), options).ids;
  std::vector<std::vector<int64_t>> found(4);
  std::vector<std::thread> threads;
  for (auto& ids : found)
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) ids = index.search(span_of(queries), options).ids;
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& ids : found) CHECK(ids == expected);
}

}  // namespace
}  // namespace qinco
