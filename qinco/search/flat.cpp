#include "qinco/search/flat.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

constexpr int64_t kQueryBlock = 256, kDeviceQueryBlock = 2048;
// Distances per tile: 16 MB, or 256 MB on a GPU. The k best of each tile are found apart: fewer tiles, less work.
constexpr int64_t kBaseBlock = 16384, kDeviceBaseBlock = 32768;

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
  const bool cpu = context.device.type == DeviceType::cpu;
  query_block_ = std::min(nq_, cpu ? kQueryBlock : kDeviceQueryBlock);
  base_block_ = cpu ? kBaseBlock : kDeviceBaseBlock;
  const Tensor rows = queries.contiguous().to(context.device);
  queries_ = Tensor::empty({nq_, d_}, DType::f32, context.device);
  kernels::table<float>(context.device)
      .axpby(context, nq_ * d_, -2.0f, rows.data<float>(), 0.0f, queries_.data<float>());
  const int64_t kept = checked_mul(nq_, k, "search results");
  values_.resize(static_cast<size_t>(kept));
  ids_.resize(static_cast<size_t>(kept));
  tile_ = Tensor::empty({query_block_, base_block_}, DType::f32, context.device);
  tile_values_.resize(static_cast<size_t>(query_block_ * std::min(k, base_block_)));
  tile_ids_.resize(tile_values_.size());
}

void FlatSearch::add(int64_t n, const float* x) {
  check(held_ + n <= std::numeric_limits<int32_t>::max(), "search: a base of more than 2^31 - 1 vectors");
  for (int64_t begin = 0; begin < n; begin += base_block_) {
    const int64_t count = std::min(base_block_, n - begin);
    kernels::ScratchFrame frame(context_);
    const float* const tile = to_device(context_, frame, x + begin * d_, count * d_);
    float* const norms = frame.get<float>(count);
    kernels::table<float>(context_.device).row_squared_norm(context_, count, d_, tile, norms);
    for (int64_t q = 0; q < nq_; q += query_block_) add_tile(count, tile, norms, q);
    held_ += count;
  }
}

void FlatSearch::add_tile(int64_t n, const float* x, const float* norms, int64_t first_query) {
  const kernels::Table<float>& kernel = kernels::table<float>(context_.device);
  const int64_t count = std::min(query_block_, nq_ - first_query);
  const int64_t kept = std::min(k_, n), held = std::min(k_, held_);
  // ||q - y||^2 - ||q||^2 = ||y||^2 + (-2q) . y: the same order for each query.
  kernels::Gemm<float> product;
  product.m = count, product.n = n, product.k = d_;
  product.a = queries_.data<float>() + first_query * d_, product.lda = d_;
  product.b = x, product.ldb = d_, product.trans_b = true;
  product.c = tile_.data<float>(), product.ldc = n, product.bias = norms;
  kernel.gemm(context_, product);
  kernels::ScratchFrame frame(context_);
  float* const values = result_of(context_, frame, tile_values_.data(), count * kept);
  int32_t* const ids = result_of(context_, frame, tile_ids_.data(), count * kept);
  kernel.topk(context_, count, n, kept, tile_.data<float>(), ids, values);
  to_host(context_, values, tile_values_.data(), count * kept);
  to_host(context_, ids, tile_ids_.data(), count * kept);
  kernels::parallel_for(host_context(context_), count, 16, [&](int64_t begin, int64_t end, int) {
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
  const Tensor rows = base.contiguous().to(Device{});
  FlatSearch search(context, queries, k);
  search.add(n, rows.data<float>());
  return search.ids();
}

}  // namespace qinco
