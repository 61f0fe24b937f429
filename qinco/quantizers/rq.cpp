#include "qinco/quantizers/rq.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "qinco/quantizers/additive.h"
#include "qinco/quantizers/kmeans.h"
#include "tensor/create.h"
#include "tensor/random.h"

namespace qinco {
namespace {

constexpr int64_t kBlockFloats = 1 << 19;  // distances of one block: 2 MB, so that they stay in L2
constexpr int64_t kMaxBlock = 4096;        // vectors
constexpr int64_t kMaxBeam = 1024;
constexpr uint64_t kSampleStream = 0x7271;

/// Vectors per block: a multiple of what one GEMM call likes, bounded by the size of the distances [block, beam*K].
int64_t block_size(int64_t beam, int64_t K) {
  return std::clamp<int64_t>(kBlockFloats / (beam * K), 16, kMaxBlock);
}

/// One codebook, ready for the beam search: ||r - c||^2 = ||r||^2 + (||c||^2 + r . (-2c)).
struct StepTable {
  int64_t K;
  const float* codebook;      // [K,d]
  std::vector<float> scaled;  // [K,d]  -2 c
  std::vector<float> norms;   // [K]    ||c||^2
};

StepTable make_table(const kernels::Context& context, int64_t K, int64_t d, const float* codebook) {
  const kernels::Table<float>& kernel = kernels::table<float>();
  StepTable table{K, codebook, {}, {}};
  table.scaled.resize(static_cast<size_t>(K * d));
  table.norms.resize(static_cast<size_t>(K));
  kernel.axpby(context, K * d, -2.0f, codebook, 0.0f, table.scaled.data());
  kernel.row_squared_norm(context, K, d, codebook, table.norms.data());
  return table;
}

/// The beams of a block of n vectors: width beams each, ordered from the best.
struct Beams {
  int64_t width = 1;
  int64_t steps = 0;
  std::vector<float> residuals;  // [n,width,d]  x - what the codes so far decode to
  std::vector<int32_t> codes;    // [n,width,steps]
};

/// Extends every beam by one code: `wanted` best of the width*K candidates of each vector, fewer if there are fewer.
void extend(const kernels::Context& context, int64_t n, int64_t d, const StepTable& table, int64_t wanted,
            Beams& beams) {
  const kernels::Table<float>& kernel = kernels::table<float>();
  const int64_t K = table.K, width = beams.width, rows = n * width;
  const int64_t kept = std::min(wanted, width * K);
  std::vector<int32_t> picks(static_cast<size_t>(n * kept));
  if (width == 1 && kept == 1) {
    kernel.nearest(context, n, d, K, beams.residuals.data(), table.codebook, picks.data(), nullptr);
  } else {
    kernels::ScratchFrame frame(context);
    float* distances = frame.get<float>(rows * K);
    float* norms = frame.get<float>(rows);
    kernels::Gemm<float> product;
    product.m = rows, product.n = K, product.k = d;
    product.a = beams.residuals.data(), product.lda = d;
    product.b = table.scaled.data(), product.ldb = d, product.trans_b = true;
    product.c = distances, product.ldc = K, product.bias = table.norms.data();
    kernel.gemm(context, product);
    kernel.row_squared_norm(context, rows, d, beams.residuals.data(), norms);
    kernel.binary(context, kernels::BinaryOp::add, rows, K, {distances, K, 1}, {norms, 1, 0}, distances);
    kernel.topk(context, n, width * K, kept, distances, picks.data(), nullptr);
  }

  Beams next{kept, beams.steps + 1, {}, {}};
  next.residuals.resize(static_cast<size_t>(n * kept * d));
  next.codes.resize(static_cast<size_t>(n * kept * next.steps));
  kernels::parallel_for(context, n * kept, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t parent = i / kept * width + picks[i] / K;
      const int64_t code = picks[i] % K;
      const float* from = beams.residuals.data() + parent * d;
      const float* codeword = table.codebook + code * d;
      float* to = next.residuals.data() + i * d;
      for (int64_t j = 0; j < d; ++j) to[j] = from[j] - codeword[j];
      std::copy_n(beams.codes.data() + parent * beams.steps, beams.steps, next.codes.data() + i * next.steps);
      next.codes[i * next.steps + beams.steps] = static_cast<int32_t>(code);
    }
  });
  beams = std::move(next);
}

/// What training keeps of every vector between steps: the codes of its beams. Residuals are made again from them, which
/// costs little beside the search and keeps memory far below n * beams * d.
struct TrainingState {
  int64_t width = 1;
  int64_t steps = 0;
  std::vector<int32_t> codes;  // [n,width,steps]
};

/// The residual of beam `row` (of n*width) of the training set, into out [d].
void residual(const TrainingState& state, int64_t d, int64_t K, const float* x, const float* codebooks, int64_t row,
              float* out) {
  std::copy_n(x + row / state.width * d, d, out);
  const int32_t* codes = state.codes.data() + row * state.steps;
  for (int64_t m = 0; m < state.steps; ++m) {
    const float* codeword = codebooks + (m * K + codes[m]) * d;
    for (int64_t j = 0; j < d; ++j) out[j] -= codeword[j];
  }
}

/// k-means on the residuals of all beams, or of a random part of them.
Tensor train_codebook(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t K,
                      const float* codebooks, const RqOptions& options, const TrainingState& state) {
  const int64_t rows = n * state.width;
  const int64_t limit = options.max_points_per_centroid > 0 ? options.max_points_per_centroid * K : rows;
  const uint64_t stream = kSampleStream + static_cast<uint64_t>(state.steps);
  std::vector<int32_t> sample = Random(options.seed, stream).permutation(rows);
  if (limit < rows) sample.resize(static_cast<size_t>(limit));

  const auto used = static_cast<int64_t>(sample.size());
  Tensor points = Tensor::empty({used, d});
  kernels::parallel_for(context, used, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) residual(state, d, K, x, codebooks, sample[i], points.data<float>() + i * d);
  });
  KmeansOptions clustering;
  clustering.iterations = options.iterations;
  clustering.seed = options.seed + stream;
  clustering.max_points_per_centroid = 0;
  return kmeans(context, used, d, points.data<float>(), K, clustering).centroids;
}

/// Beam search by one step over the whole training set.
void advance(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t K, const float* codebooks,
             int64_t beam, TrainingState& state) {
  const StepTable table = make_table(context, K, d, codebooks + state.steps * K * d);
  TrainingState next{std::min(beam, state.width * K), state.steps + 1, {}};
  next.codes.resize(static_cast<size_t>(n * next.width * next.steps));
  const int64_t block = block_size(state.width, K);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin), rows = count * state.width;
    Beams beams{state.width, state.steps, {}, {}};
    beams.residuals.resize(static_cast<size_t>(rows * d));
    kernels::parallel_for(context, rows, 64, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i)
        residual(state, d, K, x, codebooks, begin * state.width + i, beams.residuals.data() + i * d);
    });
    const int32_t* codes = state.codes.data() + begin * state.width * state.steps;
    beams.codes.assign(codes, codes + rows * state.steps);
    extend(context, count, d, table, beam, beams);
    std::copy(beams.codes.begin(), beams.codes.end(), next.codes.begin() + begin * next.width * next.steps);
  }
  state = std::move(next);
}

void check_beam(int64_t beam) {
  check(1 <= beam && beam <= kMaxBeam, "RQ: beam size {}, expected 1 to {}", beam, kMaxBeam);
}

void check_sizes(int64_t n, int64_t d, int64_t M, int64_t K, int64_t beam) {
  check(d >= 1 && M >= 1, "RQ: d = {} and M = {} must be at least 1", d, M);
  check(K >= 2 && K <= 65536 && (K & (K - 1)) == 0, "RQ: K = {}, expected a power of two from 2 to 65536", K);
  check(K <= n, "RQ: K = {} codewords need at least as many training vectors, found {}", K, n);
  check_beam(beam);
  check(checked_mul(n, beam, "RQ training set x beams") <= std::numeric_limits<int32_t>::max(),
        "RQ: {} training vectors x {} beams are more than 2^31 - 1", n, beam);
  checked_mul(checked_mul(M, K, "RQ codebooks"), d, "RQ codebooks");
}

}  // namespace

void ResidualQuantizer::encode(const kernels::Context& context, int64_t n, const float* x, int64_t beam,
                               int32_t* codes) const {
  check_beam(beam);
  const int64_t steps = M(), width = d();
  std::vector<StepTable> tables;
  for (int64_t m = 0; m < steps; ++m)
    tables.push_back(make_table(context, K(), width, codebooks.data<float>() + m * K() * width));
  const int64_t block = block_size(beam, K());
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    Beams beams;
    beams.residuals.assign(x + begin * width, x + (begin + count) * width);
    for (const StepTable& table : tables) extend(context, count, width, table, beam, beams);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(beams.codes.data() + i * beams.width * steps, steps, codes + (begin + i) * steps);
  }
}

void ResidualQuantizer::decode(const kernels::Context& context, int64_t n, const int32_t* codes, int64_t codes_ld,
                               int64_t M_used, float* x) const {
  additive_decode(context, codebooks, n, codes, codes_ld, M_used, x);
}

ResidualQuantizer train_rq(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t M, int64_t K,
                           const RqOptions& options) {
  check_sizes(n, d, M, K, options.beam_size);
  ResidualQuantizer rq;
  rq.codebooks = Tensor::empty({M, K, d});
  float* codebooks = rq.codebooks.data<float>();
  TrainingState state;
  for (int64_t m = 0; m < M; ++m) {
    const Tensor codebook = train_codebook(context, n, d, x, K, codebooks, options, state);
    std::copy_n(codebook.data<float>(), K * d, codebooks + m * K * d);
    if (m + 1 < M) advance(context, n, d, x, K, codebooks, options.beam_size, state);
    if (options.on_step) options.on_step(m + 1, M);
  }
  return rq;
}

}  // namespace qinco
