#include "qinco/search/flat.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

namespace qinco {
namespace {

constexpr int64_t kQueryBlock = 256;
constexpr int64_t kBaseBlock = 4096;  // with kQueryBlock: 4 MB of distances per tile

/// Merges the ascending candidates (values, ids)[count] of one query into the `held` best of its list; on a tie what
/// was found before (a lower id) stays ahead.
void merge(int64_t k, int64_t held, int64_t count, const float* values, const int32_t* ids, int64_t first_id,
           float* best_values, int32_t* best_ids) {
  std::vector<float> old_values(best_values, best_values + held);
  std::vector<int32_t> old_ids(best_ids, best_ids + held);
  int64_t a = 0, b = 0;
  for (int64_t i = 0; i < std::min(k, held + count); ++i) {
    const bool old = b == count || (a < held && old_values[a] <= values[b]);
    best_values[i] = old ? old_values[a] : values[b];
    best_ids[i] = old ? old_ids[a] : static_cast<int32_t>(first_id + ids[b]);
    old ? ++a : ++b;
  }
}

}  // namespace

Tensor flat_search(const kernels::Context& context, const Tensor& base, const Tensor& queries, int64_t k) {
  const int64_t n = base.size(0), d = base.size(1), nq = queries.size(0);
  check(queries.size(1) == d, "search: queries have dimension {}, the base {}", queries.size(1), d);
  check(1 <= k && k <= n, "search: {} neighbours asked for in a base of {}", k, n);
  check(n <= std::numeric_limits<int32_t>::max(), "search: {} base vectors are more than 2^31 - 1", n);
  const kernels::Table<float>& kernel = kernels::table<float>();
  const Tensor rows = base.contiguous(), asked = queries.contiguous();

  // ||q - y||^2 - ||q||^2 = ||y||^2 + (-2q) . y: the same order for each query.
  std::vector<float> norms(static_cast<size_t>(n)), scaled(static_cast<size_t>(nq * d));
  kernel.row_squared_norm(context, n, d, rows.data<float>(), norms.data());
  kernel.axpby(context, nq * d, -2.0f, asked.data<float>(), 0.0f, scaled.data());

  Tensor ids = Tensor::empty({nq, k}, DType::i32);
  const int64_t tile_k = std::min(k, kBaseBlock);
  std::vector<float> distances(kQueryBlock * kBaseBlock), tile_values(kQueryBlock * tile_k);
  std::vector<float> values(static_cast<size_t>(kQueryBlock * k));
  std::vector<int32_t> tile_ids(kQueryBlock * tile_k);
  for (int64_t q = 0; q < nq; q += kQueryBlock) {
    const int64_t count = std::min(kQueryBlock, nq - q);
    for (int64_t b = 0; b < n; b += kBaseBlock) {
      const int64_t width = std::min(kBaseBlock, n - b), tile = std::min(k, width);
      kernels::Gemm<float> product;
      product.m = count, product.n = width, product.k = d;
      product.a = scaled.data() + q * d, product.lda = d;
      product.b = rows.data<float>() + b * d, product.ldb = d, product.trans_b = true;
      product.c = distances.data(), product.ldc = width, product.bias = norms.data() + b;
      kernel.gemm(context, product);
      kernel.topk(context, count, width, tile, distances.data(), tile_ids.data(), tile_values.data());
      const int64_t held = std::min(k, b);
      kernels::parallel_for(context, count, 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
          merge(k, held, tile, tile_values.data() + i * tile, tile_ids.data() + i * tile, b, values.data() + i * k,
                ids.data<int32_t>() + (q + i) * k);
      });
    }
  }
  return ids;
}

}  // namespace qinco
