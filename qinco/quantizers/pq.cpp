#include "qinco/quantizers/pq.h"

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/quantizers/checks.h"
#include "qinco/quantizers/kmeans.h"
#include "qinco/quantizers/linear_algebra.h"
#include "tensor/host_rows.h"
#include "tensor/random.h"

namespace qinco {
namespace {

constexpr int64_t kBlock = 4096, kDeviceBlock = 65536;  // vectors encoded or decoded together
constexpr uint64_t kPqStream = 0x7071;

void check_sizes(int64_t n, int64_t d, int64_t M, int64_t K) {
  check(d >= 1 && M >= 1, "PQ: d = {} and M = {} must be at least 1", d, M);
  check(d % M == 0, "PQ: d = {} is not a multiple of M = {}", d, M);
  check(K >= 2 && K <= 65536 && (K & (K - 1)) == 0, "PQ: K = {}, expected a power of two from 2 to 65536", K);
  check(K <= n, "PQ: K = {} codewords need at least as many training vectors, found {}", K, n);
}

int64_t block_size(const kernels::Context& context) {
  return context.device.type == DeviceType::cpu ? kBlock : kDeviceBlock;
}

/// Block m of the rows of x [n,d], cut into blocks of `width`: out [n,width].
void copy_block(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t m, int64_t width,
                float* out) {
  const int64_t shape[] = {n, width}, strides[] = {d, 1};
  kernels::table<float>(context.device).strided_copy(context, 2, shape, strides, x + m * width, out);
}

/// Codes [n,M], the host's, of rows on the device that are rotated already; so are the codebooks.
void encode_rotated(const kernels::Context& context, const Tensor& codebooks, int64_t n, const float* x,
                    int32_t* codes) {
  const int64_t M = codebooks.size(0), K = codebooks.size(1), width = codebooks.size(2);
  std::vector<int32_t> by_block(static_cast<size_t>(M * n));
  kernels::ScratchFrame frame(context);
  float* const block = frame.get<float>(n * width);
  int32_t* const ids = result_of(context, frame, by_block.data(), M * n);
  for (int64_t m = 0; m < M; ++m) {
    copy_block(context, n, M * width, x, m, width, block);
    kernels::table<float>(context.device)
        .nearest(context, n, width, K, block, codebooks.data<float>() + m * K * width, ids + m * n, nullptr);
  }
  to_host(context, ids, by_block.data(), M * n);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t i = 0; i < n; ++i) codes[i * M + m] = by_block[m * n + i];
}

/// x [n,d] on the device: its blocks are rows of the codebooks, taken as one table [M*K,width].
void decode_rotated(const kernels::Context& context, const Tensor& codebooks, int64_t n, const int32_t* codes,
                    float* x) {
  const int64_t M = codebooks.size(0), K = codebooks.size(1), width = codebooks.size(2);
  std::vector<int32_t> rows(static_cast<size_t>(n * M));
  for (int64_t i = 0; i < n * M; ++i) rows[i] = static_cast<int32_t>(i % M * K) + codes[i];
  kernels::ScratchFrame frame(context);
  kernels::table<float>(context.device)
      .gather_rows(context, n * M, width, codebooks.data<float>(), to_device(context, frame, rows.data(), n * M), x);
}

/// The rows of x that training uses: all, or max_points_per_centroid * K drawn at random.
struct Sample {
  int64_t n;
  const float* x;
  Tensor rows;  // holds x where it is not the caller's
};

Sample draw_sample(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t K,
                   const PqOptions& options) {
  const int64_t limit = training_points(n, K, options.max_points_per_centroid);
  if (limit == n) return {n, x, {}};
  std::vector<int32_t> ids = Random(options.seed, kPqStream).permutation(n);
  Sample sample{limit, nullptr, Tensor::empty({limit, d}, DType::f32, context.device)};
  kernels::ScratchFrame frame(context);
  kernels::table<float>(context.device)
      .gather_rows(context, limit, d, x, to_device(context, frame, ids.data(), limit), sample.rows.data<float>());
  sample.x = sample.rows.data<float>();
  return sample;
}

/// One k-means a block of the rows x [n,d], from the codebooks given or, if undefined, from k-means++.
Tensor cluster_blocks(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                      int iterations, const Tensor& initial, const PqOptions& options) {
  const int64_t width = d / M;
  Tensor codebooks = Tensor::empty({M, K, width}, DType::f32, context.device);
  const Tensor block = Tensor::empty({n, width}, DType::f32, context.device);
  KmeansOptions clustering;
  clustering.iterations = iterations;
  clustering.max_points_per_centroid = 0;
  clustering.init = KmeansInit::plus_plus;
  clustering.measure = false;
  for (int64_t m = 0; m < M; ++m) {
    copy_block(context, n, d, x, m, width, block.data<float>());
    clustering.seed = options.seed + kPqStream + static_cast<uint64_t>(m);
    if (initial.defined()) clustering.initial = initial.row(m).contiguous();
    codebooks.row(m).copy_from(kmeans(context, n, width, block.data<float>(), K, clustering).centroids);
    if (options.on_step) options.on_step(m + 1, M);
  }
  return codebooks;
}

/// X^T Y [d,d] for X, Y [n,d].
Tensor cross_product(const kernels::Context& context, int64_t n, int64_t d, const float* x, const float* y) {
  Tensor cross = Tensor::empty({d, d}, DType::f32, context.device);
  kernels::Gemm<float> gemm;
  gemm.m = d, gemm.n = d, gemm.k = n;
  gemm.a = x, gemm.lda = d, gemm.trans_a = true;
  gemm.b = y, gemm.ldb = d;
  gemm.c = cross.data<float>(), gemm.ldc = d;
  kernels::table<float>(context.device).gemm(context, gemm);
  return cross;
}

}  // namespace

void rotate(const kernels::Context& context, const Tensor& A, int64_t n, const float* x, float* out) {
  assert(A.device() == context.device);
  const Tensor rows = A.contiguous();
  kernels::Gemm<float> gemm;
  gemm.m = n, gemm.n = A.size(0), gemm.k = A.size(1);
  gemm.a = x, gemm.lda = gemm.k;
  gemm.b = rows.data<float>(), gemm.ldb = gemm.k, gemm.trans_b = true;
  gemm.c = out, gemm.ldc = gemm.n;
  kernels::table<float>(context.device).gemm(context, gemm);
}

void rotate_back(const kernels::Context& context, const Tensor& A, int64_t n, const float* x, float* out) {
  rotate(context, A.transpose(0, 1), n, x, out);  // so that a row's bits do not depend on n
}

void ProductQuantizer::encode(const kernels::Context& context, int64_t n, const float* x, int32_t* codes) const {
  const Tensor tables = codebooks.to(context.device).contiguous();
  const Tensor turn = rotation.defined() ? rotation.to(context.device) : rotation;
  const int64_t width = d(), block = block_size(context);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    kernels::ScratchFrame frame(context);
    const float* rows = to_device(context, frame, x + begin * width, count * width);
    if (turn.defined()) {
      float* const rotated = frame.get<float>(count * width);
      rotate(context, turn, count, rows, rotated);
      rows = rotated;
    }
    encode_rotated(context, tables, count, rows, codes + begin * M());
  }
}

void ProductQuantizer::decode(const kernels::Context& context, int64_t n, const int32_t* codes, float* x) const {
  check_codes("decode", n, M(), K(), codes, M());
  const Tensor tables = codebooks.to(context.device).contiguous();
  const Tensor turn = rotation.defined() ? rotation.to(context.device) : rotation;
  const int64_t width = d(), block = block_size(context);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    kernels::ScratchFrame frame(context);
    float* const out = result_of(context, frame, x + begin * width, count * width);
    float* const rotated = turn.defined() ? frame.get<float>(count * width) : out;
    decode_rotated(context, tables, count, codes + begin * M(), rotated);
    if (turn.defined()) rotate_back(context, turn, count, rotated, out);
    to_host(context, out, x + begin * width, count * width);
  }
}

ProductQuantizer train_pq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                          const PqOptions& options) {
  check_sizes(n, d, M, K);
  const Sample sample = draw_sample(context, n, d, x, K, options);
  return {cluster_blocks(context, sample.n, d, sample.x, M, K, options.iterations, {}, options).to(Device{}), {}};
}

Tensor train_opq_rotation(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                          const PqOptions& options) {
  check_sizes(n, d, M, K);
  check(options.opq_iterations >= 1, "OPQ: {} iterations, expected at least 1", options.opq_iterations);
  const Sample sample = draw_sample(context, n, d, x, K, options);
  PqOptions quiet = options;
  quiet.on_step = nullptr;
  const Tensor rotated = Tensor::empty({sample.n, d}, DType::f32, context.device);
  const Tensor decoded = Tensor::empty({sample.n, d}, DType::f32, context.device);
  Tensor rotation, codebooks;
  std::vector<int32_t> codes(static_cast<size_t>(sample.n * M));
  for (int i = 0; i < options.opq_iterations; ++i) {
    const float* rows = sample.x;
    if (rotation.defined()) {
      rotate(context, rotation.to(context.device), sample.n, sample.x, rotated.data<float>());
      rows = rotated.data<float>();
    }
    const int iterations = i == 0 ? options.iterations : 1;
    codebooks = cluster_blocks(context, sample.n, d, rows, M, K, iterations, codebooks, quiet);
    encode_rotated(context, codebooks, sample.n, rows, codes.data());
    decode_rotated(context, codebooks, sample.n, codes.data(), decoded.data<float>());
    rotation = procrustes(cross_product(context, sample.n, d, sample.x, decoded.data<float>()).to(Device{}));
    if (options.on_step) options.on_step(i + 1, options.opq_iterations);
  }
  return rotation;
}

ProductQuantizer train_opq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                           const PqOptions& options) {
  const int64_t rotations = options.opq_iterations, total = rotations + M;
  PqOptions part = options;
  if (options.on_step) part.on_step = [&](int64_t done, int64_t) { options.on_step(done, total); };
  const Tensor rotation = train_opq_rotation(context, n, d, x, M, K, part);
  const Sample sample = draw_sample(context, n, d, x, K, options);
  const Tensor rotated = Tensor::empty({sample.n, d}, DType::f32, context.device);
  rotate(context, rotation.to(context.device), sample.n, sample.x, rotated.data<float>());
  if (options.on_step) part.on_step = [&](int64_t done, int64_t) { options.on_step(rotations + done, total); };
  ProductQuantizer pq = train_pq(context, sample.n, d, rotated.data<float>(), M, K, part);
  pq.rotation = rotation;
  return pq;
}

}  // namespace qinco
