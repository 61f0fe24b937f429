// Where float has a version of its own beside the plain one: members of Table<float> by other names (kernels.h), and
// for what sizes they are. fill_candidate, fill_linear, fill_nearest, fill_scan and fill_topk choose; gemm asks
// tiled_gemm.
#pragma once

#include "kernels/cuda/candidate_layout.h"
#include "kernels/kernels.h"

namespace qinco::kernels::cuda {

/// The candidate search on tensor cores, for steps whose CandidateLayout says fused(): screened in bfloat16, decided in
/// float. Packs have CandidateLayout::size() floats.
void fused_candidate_pack(const Context& context, const CandidateStep<float>& step, float* packed);
void fused_candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                            const CandidateSearch<float>& search);

/// C = act(own C + op(A) op(B) + bias + residual) on tensor cores, each product right to 2^-21; or false, and nothing
/// is done: of large products and of operands that do not lie in fours of floats. C is not read where own is 0.
bool tiled_gemm(const Context& context, const Gemm<float>& g, float own);

/// For all sizes: on tensor cores, each product right to 2^-21.
int64_t tiled_linear_packed_size(int64_t n, int64_t k, Precision);
void tiled_linear_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, Precision,
                       float* packed);
void tiled_linear(const Context& context, const Linear<float>& linear);

/// For all sizes.
void tiled_nearest(const Context& context, int64_t n, int64_t d, int64_t K, const float* x, const float* c,
                   int32_t* ids, float* distances);

/// For k <= kLargestBlockK.
constexpr int64_t kLargestBlockK = 7168;
void block_scan(const Context& context, const Scan<float>& scan);
/// Vectors of a query from which lower bounds may pay, whatever k is; tests lower it.
inline int64_t fewest_screened_vectors = int64_t{1} << 15;
/// The same by lower bounds first, of queries with many vectors each; or false, and nothing is done.
bool screened_scan(const Context& context, const Scan<float>& scan);
void block_topk(const Context& context, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids,
                float* values);
void block_topk_merge(const Context& context, int64_t rows, int64_t cols, int64_t k, int64_t held, const float* x,
                      int32_t first_id, int32_t* ids, float* values);

}  // namespace qinco::kernels::cuda
