#include "qinco/quantizers/rq.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/quantizers/additive.h"
#include "qinco/quantizers/kmeans.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"
#include "tensor/random.h"

namespace qinco {
namespace {

// Distances and vectors of one block: on the CPU 2 MB, so that they stay in L2; else what keeps a GPU busy.
constexpr int64_t kBlockFloats = 1 << 19, kDeviceBlockFloats = 1 << 26;
constexpr int64_t kMaxBlock = 4096, kDeviceMaxBlock = 65536;
constexpr int64_t kMaxBeam = 1024;
constexpr uint64_t kRqStream = 0x7271;

/// Vectors per block: a multiple of what one GEMM call likes, bounded by the size of the distances [block, beam*K].
int64_t block_size(const kernels::Context& context, int64_t beam, int64_t K) {
  const bool cpu = context.device.type == DeviceType::cpu;
  return std::clamp<int64_t>((cpu ? kBlockFloats : kDeviceBlockFloats) / (beam * K), 16,
                             cpu ? kMaxBlock : kDeviceMaxBlock);
}

/// One codebook, ready for the beam search: ||r - c||^2 = ||r||^2 + (||c||^2 + r . (-2c)). All on the device.
struct StepTable {
  Tensor codebook;  // [K,d]
  Tensor scaled;    // [K,d]  -2 c
  Tensor norms;     // [K]    ||c||^2
};

StepTable make_table(const kernels::Context& context, const Tensor& codebook) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  const int64_t K = codebook.size(0), d = codebook.size(1);
  const StepTable table{codebook, Tensor::empty({K, d}, DType::f32, context.device),
                        Tensor::empty({K}, DType::f32, context.device)};
  kernel.axpby(context, K * d, -2.0f, codebook.data<float>(), 0.0f, table.scaled.data<float>());
  kernel.row_squared_norm(context, K, d, codebook.data<float>(), table.norms.data<float>());
  return table;
}

/// out [n,d] = x - its codewords: x's rows by x_ids [n], the codes [n,steps] of row i in codebooks [steps,K,d]. x,
/// codebooks and out are on the device, x_ids and codes the host's.
void subtract_codewords(const kernels::Context& context, int64_t n, int64_t d, int64_t K, int64_t steps,
                        const float* codebooks, const std::vector<int32_t>& codes, const float* x,
                        const std::vector<int32_t>& x_ids, float* out) {
  kernels::ScratchFrame frame(context);
  kernels::GatherSum<float> g;
  g.n = n, g.M = steps, g.K = K, g.d = d;
  g.tables = codebooks;
  g.codes = to_device(context, frame, codes.data(), n * steps), g.codes_ld = steps;
  g.base = x, g.base_ids = to_device(context, frame, x_ids.data(), n);
  g.subtract = true, g.out = out;
  kernels::table<float>(context.device).gather_sum(context, g);
}

/// The beams of a block of n vectors: width beams each, ordered from the best.
struct Beams {
  int64_t width = 1;
  int64_t steps = 0;
  Tensor residuals;            // on the device: [n*width,d]  x - what the codes so far decode to
  std::vector<int32_t> codes;  // [n,width,steps]
};

/// The `kept` best candidates of each of n vectors: beam * K + code, [n,kept].
std::vector<int32_t> pick(const kernels::Context& context, int64_t n, int64_t d, const StepTable& table, int64_t kept,
                          const Beams& beams) {
  const kernels::Table<float>& kernel = kernels::table<float>(context.device);
  const int64_t K = table.codebook.size(0), width = beams.width, rows = n * width;
  const float* const residuals = beams.residuals.data<float>();
  std::vector<int32_t> picks(static_cast<size_t>(n * kept));
  kernels::ScratchFrame frame(context);
  int32_t* const found = result_of(context, frame, picks.data(), n * kept);
  if (width == 1 && kept == 1) {
    kernel.nearest(context, n, d, K, residuals, table.codebook.data<float>(), found, nullptr);
  } else {
    float* distances = frame.get<float>(rows * K);
    float* norms = frame.get<float>(rows);
    kernels::Gemm<float> product;
    product.m = rows, product.n = K, product.k = d;
    product.a = residuals, product.lda = d;
    product.b = table.scaled.data<float>(), product.ldb = d, product.trans_b = true;
    product.c = distances, product.ldc = K, product.bias = table.norms.data<float>();
    kernel.gemm(context, product);
    kernel.row_squared_norm(context, rows, d, residuals, norms);
    kernel.binary(context, kernels::BinaryOp::add, rows, K, {distances, K, 1}, {norms, 1, 0}, distances);
    kernel.topk(context, n, width * K, kept, distances, found, nullptr);
  }
  to_host(context, found, picks.data(), n * kept);
  return picks;
}

/// Extends every beam by one code: `wanted` best of the width*K candidates of each vector, fewer if there are fewer.
void extend(const kernels::Context& context, int64_t n, int64_t d, const StepTable& table, int64_t wanted,
            Beams& beams) {
  const int64_t K = table.codebook.size(0), width = beams.width;
  const int64_t kept = std::min(wanted, width * K), rows = n * kept;
  const std::vector<int32_t> picks = pick(context, n, d, table, kept, beams);
  Beams next{kept, beams.steps + 1, Tensor::empty({rows, d}, DType::f32, context.device), {}};
  next.codes.resize(static_cast<size_t>(rows * next.steps));
  std::vector<int32_t> parents(static_cast<size_t>(rows)), added(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t parent = i / kept * width + picks[i] / K;
    parents[i] = static_cast<int32_t>(parent);
    added[i] = static_cast<int32_t>(picks[i] % K);
    std::copy_n(beams.codes.data() + parent * beams.steps, beams.steps, next.codes.data() + i * next.steps);
    next.codes[i * next.steps + beams.steps] = added[i];
  }
  subtract_codewords(context, rows, d, K, 1, table.codebook.data<float>(), added, beams.residuals.data<float>(),
                     parents, next.residuals.data<float>());
  beams = std::move(next);
}

/// What training keeps of every vector between steps: the codes of its beams. Residuals are made again from them, which
/// costs little beside the search and keeps memory far below n * beams * d.
struct TrainingState {
  int64_t width = 1;
  int64_t steps = 0;
  std::vector<int32_t> codes;  // [n,width,steps]
};

/// The residuals f32 [rows.size(),d], on the device, of these beams (of n*width) of the training set x, on the device.
Tensor residuals_of(const kernels::Context& context, const TrainingState& state, int64_t d, int64_t K, const float* x,
                    const Tensor& codebooks, const std::vector<int32_t>& rows) {
  const auto n = static_cast<int64_t>(rows.size());
  std::vector<int32_t> vectors(rows.size()), codes(rows.size() * static_cast<size_t>(state.steps));
  for (int64_t i = 0; i < n; ++i) {
    vectors[i] = static_cast<int32_t>(rows[i] / state.width);
    std::copy_n(state.codes.data() + rows[i] * state.steps, state.steps, codes.data() + i * state.steps);
  }
  Tensor out = Tensor::empty({n, d}, DType::f32, context.device);
  subtract_codewords(context, n, d, K, state.steps, codebooks.data<float>(), codes, x, vectors, out.data<float>());
  return out;
}

/// k-means on the residuals of all beams, or of a random part of them.
Tensor train_codebook(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t K,
                      const Tensor& codebooks, const RqOptions& options, const TrainingState& state) {
  const int64_t rows = n * state.width;
  const uint64_t stream = kRqStream + static_cast<uint64_t>(state.steps);
  std::vector<int32_t> sample = Random(options.seed, stream).permutation(rows);
  sample.resize(static_cast<size_t>(training_points(rows, K, options.max_points_per_centroid)));
  const Tensor points = residuals_of(context, state, d, K, x, codebooks, sample);
  KmeansOptions clustering;
  clustering.iterations = options.iterations;
  clustering.seed = options.seed + stream;
  clustering.max_points_per_centroid = 0;
  clustering.poll = options.poll;
  clustering.measure = false;
  return kmeans(context, points.size(0), d, points.data<float>(), K, clustering).centroids;
}

/// Beam search by one step over the whole training set.
void advance(const kernels::Context& context, int64_t n, int64_t d, const float* x, int64_t K, const Tensor& codebooks,
             const RqOptions& options, TrainingState& state) {
  const StepTable table = make_table(context, codebooks.row(state.steps));
  const int64_t beam = options.beam_size;
  TrainingState next{std::min(beam, state.width * K), state.steps + 1, {}};
  next.codes.resize(static_cast<size_t>(n * next.width * next.steps));
  const int64_t block = block_size(context, state.width, K);
  for (int64_t begin = 0; begin < n; begin += block) {
    if (options.poll) options.poll();
    const int64_t count = std::min(block, n - begin), rows = count * state.width;
    std::vector<int32_t> numbers(static_cast<size_t>(rows));
    std::iota(numbers.begin(), numbers.end(), static_cast<int32_t>(begin * state.width));
    Beams beams{state.width, state.steps, residuals_of(context, state, d, K, x, codebooks, numbers), {}};
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
  const Tensor all = codebooks.to(context.device).contiguous();
  std::vector<StepTable> tables;
  for (int64_t m = 0; m < steps; ++m) tables.push_back(make_table(context, all.row(m)));
  const int64_t block = block_size(context, beam, K());
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin);
    Beams beams;
    beams.residuals = Tensor::empty({count, width}, DType::f32, context.device);
    kernels::copy_bytes(context.device, beams.residuals.bytes(), Device{}, x + begin * width,
                        static_cast<size_t>(count * width) * sizeof(float));
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
  const Tensor codebooks = Tensor::empty({M, K, d}, DType::f32, context.device);
  TrainingState state;
  for (int64_t m = 0; m < M; ++m) {
    codebooks.row(m).copy_from(train_codebook(context, n, d, x, K, codebooks, options, state));
    if (m + 1 < M) advance(context, n, d, x, K, codebooks, options, state);
    if (options.on_step) options.on_step(m + 1, M);
  }
  rq.codebooks = codebooks.to(Device{});
  return rq;
}

}  // namespace qinco
