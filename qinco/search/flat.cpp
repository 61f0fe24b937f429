#include "qinco/search/flat.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "tensor/host_rows.h"

namespace qinco {
namespace {

constexpr int64_t kQueryBlock = 256, kDeviceQueryBlock = 2048;
// Base vectors of a tile of distances: 16 MB, or 256 MB on a GPU.
constexpr int64_t kBaseBlock = 16384, kDeviceBaseBlock = 32768;

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
  tile_ = Tensor::empty({query_block_, base_block_}, DType::f32, context.device);
  values_ = Tensor::empty({nq_, k}, DType::f32, context.device);
  ids_ = Tensor::empty({nq_, k}, DType::i32, context.device);
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
  // ||q - y||^2 - ||q||^2 = ||y||^2 + (-2q) . y: the same order for each query.
  kernels::Gemm<float> product;
  product.m = count, product.n = n, product.k = d_;
  product.a = queries_.data<float>() + first_query * d_, product.lda = d_;
  product.b = x, product.ldb = d_, product.trans_b = true;
  product.c = tile_.data<float>(), product.ldc = n, product.bias = norms;
  kernel.gemm(context_, product);
  kernel.topk_merge(context_, count, n, k_, std::min(k_, held_), tile_.data<float>(), static_cast<int32_t>(held_),
                    ids_.data<int32_t>() + first_query * k_, values_.data<float>() + first_query * k_);
}

Tensor FlatSearch::ids() const {
  return ids_.slice(1, 0, std::min(k_, held_)).clone(Device{});
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
