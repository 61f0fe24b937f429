#include "qinco/search/flat.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

namespace qinco {
namespace {

constexpr int64_t kQueryBlock = 256;
constexpr int64_t kBaseBlock = 4096;  // with kQueryBlock: 4 MB of distances per tile

/// Distances as they order: NaN last, as in topk.
float rank(float value) {
  return value == value ? value : std::numeric_limits<float>::infinity();
}

/// Merges the ascending candidates (values, ids)[count] of one query into the `held` best of its list; on a tie what
/// was found before (a lower id) stays ahead. `spare` is room for the list.
void merge(int64_t k, int64_t held, int64_t count, const float* values, const int32_t* ids, int64_t first_id,
           std::vector<std::pair<float, int32_t>>& spare, float* best_values, int32_t* best_ids) {
  spare.clear();
  for (int64_t i = 0; i < held; ++i) spare.emplace_back(best_values[i], best_ids[i]);
  int64_t a = 0, b = 0;
  for (int64_t i = 0; i < std::min(k, held + count); ++i) {
    const bool old = b == count || (a < held && rank(spare[a].first) <= rank(values[b]));
    best_values[i] = old ? spare[a].first : values[b];
    best_ids[i] = old ? spare[a].second : static_cast<int32_t>(first_id + ids[b]);
    ++(old ? a : b);
  }
}

}  // namespace

FlatSearch::FlatSearch(const kernels::Context& context, const Tensor& queries, int64_t k)
    : context_(context), nq_(queries.size(0)), d_(queries.size(1)), k_(k) {
  check(k >= 1, "search: {} neighbours asked for, expected at least 1", k);
  const Tensor rows = queries.contiguous();
  queries_.resize(static_cast<size_t>(nq_ * d_));
  kernels::table<float>().axpby(context, nq_ * d_, -2.0f, rows.data<float>(), 0.0f, queries_.data());
  const int64_t kept = checked_mul(nq_, k, "search results");
  values_.resize(static_cast<size_t>(kept));
  ids_.resize(static_cast<size_t>(kept));
  const int64_t block = std::min(nq_, kQueryBlock);
  tile_.resize(static_cast<size_t>(block * kBaseBlock));
  tile_values_.resize(static_cast<size_t>(block * std::min(k, kBaseBlock)));
  tile_ids_.resize(tile_values_.size());
}

void FlatSearch::add(int64_t n, const float* x) {
  check(held_ + n <= std::numeric_limits<int32_t>::max(), "search: a base of more than 2^31 - 1 vectors");
  std::vector<float> norms(static_cast<size_t>(std::min(n, kBaseBlock)));
  for (int64_t begin = 0; begin < n; begin += kBaseBlock) {
    const int64_t count = std::min(kBaseBlock, n - begin);
    const float* tile = x + begin * d_;
    kernels::table<float>().row_squared_norm(context_, count, d_, tile, norms.data());
    for (int64_t q = 0; q < nq_; q += kQueryBlock) add_tile(count, tile, norms.data(), q);
    held_ += count;
  }
}

void FlatSearch::add_tile(int64_t n, const float* x, const float* norms, int64_t first_query) {
  const kernels::Table<float>& kernel = kernels::table<float>();
  const int64_t count = std::min(kQueryBlock, nq_ - first_query);
  const int64_t kept = std::min(k_, n), held = std::min(k_, held_);
  // ||q - y||^2 - ||q||^2 = ||y||^2 + (-2q) . y: the same order for each query.
  kernels::Gemm<float> product;
  product.m = count, product.n = n, product.k = d_;
  product.a = queries_.data() + first_query * d_, product.lda = d_;
  product.b = x, product.ldb = d_, product.trans_b = true;
  product.c = tile_.data(), product.ldc = n, product.bias = norms;
  kernel.gemm(context_, product);
  kernel.topk(context_, count, n, kept, tile_.data(), tile_ids_.data(), tile_values_.data());
  kernels::parallel_for(context_, count, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<std::pair<float, int32_t>> spare;
    for (int64_t i = begin; i < end; ++i)
      merge(k_, held, kept, tile_values_.data() + i * kept, tile_ids_.data() + i * kept, held_, spare,
            values_.data() + (first_query + i) * k_, ids_.data() + (first_query + i) * k_);
  });
}

Tensor FlatSearch::ids() const {
  const int64_t found = std::min(k_, held_);
  Tensor out = Tensor::empty({nq_, found}, DType::i32);
  for (int64_t i = 0; i < nq_; ++i) std::copy_n(ids_.data() + i * k_, found, out.data<int32_t>() + i * found);
  return out;
}

Tensor flat_search(const kernels::Context& context, const Tensor& base, const Tensor& queries, int64_t k) {
  const int64_t n = base.size(0);
  check(queries.size(1) == base.size(1), "search: queries have dimension {}, the base {}", queries.size(1),
        base.size(1));
  check(1 <= k && k <= n, "search: {} neighbours asked for in a base of {}", k, n);
  const Tensor rows = base.contiguous();
  FlatSearch search(context, queries, k);
  search.add(n, rows.data<float>());
  return search.ids();
}

}  // namespace qinco
