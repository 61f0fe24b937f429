// Exact search against a sort in double, and recall against counts by hand.
#include "qinco/search/flat.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "qinco/io/vectors.h"
#include "qinco/search/recall.h"
#include "tensor/create.h"
#include "tensor/random.h"
#include "tests/support.h"

namespace qinco {
namespace {

using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::same_bits;

/// Integer-valued vectors: distances are exact, so even ties must come out in the same order.
Tensor small_integers(int64_t n, int64_t d, uint64_t range, uint64_t seed) {
  Random random(seed);
  const Tensor x = Tensor::empty({n, d});
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = static_cast<float>(random.below(range));
  return x;
}

Tensor sorted_by_distance(const Tensor& base, const Tensor& queries, int64_t k) {
  const int64_t n = base.size(0), d = base.size(1);
  const Tensor ids = Tensor::empty({queries.size(0), k}, DType::i32);
  for (int64_t q = 0; q < queries.size(0); ++q) {
    std::vector<double> distance(static_cast<size_t>(n), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < d; ++j) {
        const double difference =
            static_cast<double>(base.data<float>()[i * d + j]) - static_cast<double>(queries.data<float>()[q * d + j]);
        distance[i] += difference * difference;
      }
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return distance[a] < distance[b]; });
    std::copy_n(order.begin(), k, ids.data<int32_t>() + q * k);
  }
  return ids;
}

TEST_CASE("flat search: equals a sort in double, many ties included, across tiles") {
  struct Sizes {
    int64_t n, d, nq, k;
  };
  for (const Sizes& s : {Sizes{1, 1, 1, 1}, Sizes{50, 3, 7, 50}, Sizes{4097, 5, 3, 100}, Sizes{9000, 2, 257, 10},
                         Sizes{300, 17, 20, 1}}) {
    CAPTURE(s.n);
    const Tensor base = small_integers(s.n, s.d, 4, 1), queries = small_integers(s.nq, s.d, 4, 2);
    CHECK(same_bits(flat_search(Context::cpu(), base, queries, s.k), sorted_by_distance(base, queries, s.k)));
  }
}

TEST_CASE("flat search: a base that comes in blocks gives the same ids") {
  const Tensor base = small_integers(1000, 4, 3, 3), queries = small_integers(11, 4, 3, 4);
  FlatSearch search(Context::cpu(), queries, 20);
  for (const auto& [begin, end] : {std::pair{0, 5}, {5, 6}, {6, 700}, {700, 1000}})
    search.add(end - begin, base.data<float>() + begin * 4);
  CHECK(same_bits(search.ids(), flat_search(Context::cpu(), base, queries, 20)));
}

TEST_CASE("flat search: fewer vectors than neighbours asked for are all returned by FlatSearch") {
  const Tensor base = small_integers(3, 2, 5, 5), queries = small_integers(2, 2, 5, 6);
  FlatSearch search(Context::cpu(), queries, 10);
  search.add(3, base.data<float>());
  CHECK(same_bits(search.ids(), sorted_by_distance(base, queries, 3)));
}

TEST_CASE("flat search: ids that were given stay when more vectors are added") {
  const Tensor base = small_integers(40, 2, 9, 5), queries = small_integers(5, 2, 9, 6);
  FlatSearch search(Context::cpu(), queries, 4);
  search.add(20, base.data<float>());
  const Tensor before = search.ids();
  search.add(20, base.data<float>() + 20 * 2);
  CHECK(same_bits(before, sorted_by_distance(base.slice(0, 0, 20), queries, 4)));
  CHECK(same_bits(search.ids(), sorted_by_distance(base, queries, 4)));
}

TEST_CASE("flat search: vectors that hold NaN come last, whichever block they are in") {
  const Tensor base = small_integers(9, 2, 50, 7), queries = small_integers(4, 2, 50, 8);
  const Tensor expected = sorted_by_distance(base, queries, 9);
  const Tensor hole = full({1, 2}, NAN);
  for (const int64_t before : {0, 4, 9}) {
    FlatSearch search(Context::cpu(), queries, 9);
    search.add(before, base.data<float>());
    search.add(1, hole.data<float>());
    search.add(9 - before, base.data<float>() + before * 2);
    const Tensor ids = search.ids();
    for (int64_t i = 0; i < ids.numel(); ++i) {
      const int32_t wanted = expected.data<int32_t>()[i];
      CHECK(ids.data<int32_t>()[i] == wanted + (wanted >= before ? 1 : 0));
    }
  }
}

TEST_CASE("flat search: bad sizes are refused") {
  const Tensor base = small_integers(3, 2, 5, 5);
  CHECK(contains(error_of([&] { flat_search(Context::cpu(), base, zeros({1, 3}), 1); }), "dimension 3, the base 2"));
  CHECK(contains(error_of([&] { flat_search(Context::cpu(), base, base, 4); }), "4 neighbours asked for"));
  CHECK(contains(error_of([&] { flat_search(Context::cpu(), base, base, 0); }), "0 neighbours asked for"));
}

TEST_CASE("flat search: the shipped ground truth") {
  const std::string folder = QINCO_SOURCE_DIR "/data/sift-sample/";
  const Tensor base = read_all(folder + "base.bvecs"), queries = read_rows(folder + "query.bvecs", 0, 50);
  const Tensor truth = read_ids(folder + "groundtruth.ivecs", 20000).slice(0, 0, 50);
  CHECK(same_bits(flat_search(Context::cpu(), base, queries, 100), truth));
}

TEST_CASE("recall: counts by hand") {
  const Tensor found = from_vector<int32_t>({4, 2, 9, 7, 1, 0, 3, 3, 3, 8, 5, 6}, {4, 3});
  const Tensor truth = from_vector<int32_t>({4, 0, 1, 0, 9, 0, 6, 0}, {4, 2});  // first column: 4 1 9 6
  CHECK(recall_at(found, truth, 1) == 0.25);
  CHECK(recall_at(found, truth, 2) == 0.5);
  CHECK(recall_at(found, truth, 3) == 0.75);
  CHECK(recall_at(found, truth, 100) == 0.75);
  CHECK(contains(error_of([&] { recall_at(found, truth.slice(0, 0, 3), 1); }), "4 queries, ground truth for 3"));
  CHECK(contains(error_of([&] { recall_at(found, truth.slice(1, 0, 0), 1); }), "without neighbours"));
  CHECK(recall_at(found.slice(1, 0, 1), truth.slice(1, 0, 1), 1) == 0.25);  // rows with gaps between them
}

}  // namespace
}  // namespace qinco
