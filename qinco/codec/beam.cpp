// Encoding by beam search: after each step the codes of a vector that come nearest to it so far are kept, and each goes
// on with the codewords that are nearest before the residual blocks move them.
//
// Of what is under way the error e = xhat - x is kept: a step's last product then gives that of the next.
#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "qinco/codec/codec.h"
#include "tensor/host_rows.h"

namespace qinco {

namespace {

using kernels::BeamPicks;
using kernels::BinaryOp;
using kernels::Context;
using kernels::GatherSum;
using kernels::ScratchFrame;
using kernels::UnaryOp;

constexpr int64_t kMaxBeam = 1024, kMaxCandidates = 1 << 16;
constexpr double kFlopsOfASecond = 1e11;

// out [n,d]: rows of `base`, each `times` times.
GatherSum<float> repeated(int64_t n, int64_t d, const float* base, int64_t times, float* out) {
  GatherSum<float> g;
  g.n = n, g.d = d;
  g.base = base, g.base_times = times;
  g.out = out;
  return g;
}

// The same plus the rows ids [n] of table [K,d].
GatherSum<float> repeated_plus(int64_t n, int64_t d, const float* base, int64_t times, const float* table, int64_t K,
                               const int32_t* ids, float* out) {
  GatherSum<float> g = repeated(n, d, base, times, out);
  g.M = 1, g.K = K;
  g.tables = table;
  g.codes = ids, g.codes_ld = 1;
  return g;
}

}  // namespace

// The codes under way of n vectors, `width` of each, from the nearest on. All is on the device.
struct Codec::Beams {
  int64_t n = 0, width = 1, steps = 0;
  const float* minus_x = nullptr;  // [n,d], scaled
  float* errors = nullptr;         // [n*width,d]  xhat - x
  float* next_errors = nullptr;    // those of the next step
  int32_t* codes = nullptr;        // [steps,n*width]
  int32_t* next_codes = nullptr;

  void grow(int64_t kept) {
    width = kept;
    ++steps;
    std::swap(errors, next_errors);
    std::swap(codes, next_codes);
  }
};

void BeamSearch::validate(int64_t K) const {
  const int64_t tried = candidates == 0 ? K : candidates;
  check(1 <= size && size <= kMaxBeam, "beam_size: expected 1 to {}, found {}", kMaxBeam, size);
  check(1 <= tried && tried <= K, "candidates: expected 1 to K = {}, found {}", K, candidates);
  check(size * tried <= kMaxCandidates, "beam_size {} with {} candidates each: expected at most {} candidates in all",
        size, tried, kMaxCandidates);
}

void Codec::allocate(Ranking& ranking, int64_t K) const {
  ranking.twice.allocate(*kernels_, device_, K, config_.d, precision_);
  ranking.norms = Tensor::empty({K}, DType::f32, device_);
}

void Codec::update_ranking(const Context& context, const Tensor& codewords, Ranking& ranking) const {
  const int64_t K = codewords.size(0), d = config_.d;
  ScratchFrame frame(context);
  float* const twice = frame.get<float>(K * d);
  kernels_->axpby(context, K * d, 2.0F, codewords.data<float>(), 0.0F, twice);
  ranking.twice.pack(*kernels_, context, twice, d);
  kernels_->row_squared_norm(context, K, d, codewords.data<float>(), ranking.norms.data<float>());
}

double Codec::encode_flops() const {
  if (greedy()) return config_.encode_flops();
  const auto d = static_cast<double>(config_.d), h = static_cast<double>(config_.h), K = static_cast<double>(config_.K);
  const double under_way = 2 * d * (d + h + K), candidate = 2 * d * h * static_cast<double>(2 * config_.L - 1);
  const double step = under_way + static_cast<double>(beam_.candidates) * candidate;
  return 2 * d * static_cast<double>(config_.K0()) + static_cast<double>((config_.codes() - 1) * beam_.size) * step;
}

// The `kept` nearest codewords of x, of which minus_x [n,d] is -x: ids [n,kept].
void Codec::rank(const Context& context, const Ranking& ranking, int64_t n, const float* minus_x, int64_t kept,
                 int32_t* ids) const {
  const int64_t K = ranking.twice.n();
  ScratchFrame frame(context);
  float* const scores = frame.get<float>(n * K);
  kernels::Linear<float> product = ranking.twice.product(n, minus_x, scores);
  product.residual = ranking.norms.data<float>();
  kernels_->linear(context, product);
  kernels_->topk(context, n, K, kept, scores, ids, nullptr);
}

// Vectors that are taken through all steps together: on a CPU by one thread, in buffers that stay in L2.
int64_t Codec::beam_vectors(int64_t n, const Context& context) const {
  const bool cpu = device_.type == DeviceType::cpu;
  const int64_t floats = beam_.size * (beam_.candidates * (2 * config_.d + config_.h) + config_.K);
  const int64_t most = std::max<int64_t>((int64_t{1} << (cpu ? 18 : 26)) / floats, 1);
  return std::clamp<int64_t>(cpu ? (n + context.threads - 1) / context.threads : n, 1, most);
}

// As encode_block. On a CPU poll_ is called before about a second's work of all threads.
void Codec::encode_beam(const Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat,
                        const int32_t* first) const {
  const bool polled = poll_ && device_.type == DeviceType::cpu;
  const int64_t d = config_.d, block = beam_vectors(n, context);
  const auto second = static_cast<int64_t>(kFlopsOfASecond / encode_flops()) + 1;  // of a thread
  const int64_t part = polled ? (poll_rows_ > 0 ? poll_rows_ : second * context.threads) : n;
  ScratchFrame frame(context);
  float* const minus_x = frame.get<float>(n * d);  // at first x
  kernels_->binary(context, BinaryOp::div, 1, n * d, {x, 0, 1}, {scale_.data<float>(), 0, 0}, minus_x);
  if (!first && config_.K_ivf > 0) {  // of all vectors together: there are many lists
    int32_t* const lists = frame.get<int32_t>(n);
    kernels_->nearest(context, n, d, config_.K_ivf, minus_x, codebook0_.data<float>(), lists, nullptr);
    first = lists;
  }
  kernels_->unary(context, UnaryOp::neg, n * d, minus_x, minus_x);
  for (int64_t from = 0; from < n; from += part) {
    if (polled) poll_();
    for_rows(context, std::min(part, n - from), block, [&](const Context& own, int64_t begin, int64_t end) {
      for (int64_t row = from + begin; row < from + end; row += block)
        encode_together(own, std::min(block, from + end - row), minus_x + row * d, M_used, codes + row, n,
                        first ? first + row : nullptr);
    });
  }
  if (xhat) decode_ids(context, n, codes, M_used, xhat);
}

// Codes [M_used,n] of vectors that are taken through all steps together, the steps codes_ld apart; all pointers are to
// the device's memory.
void Codec::encode_together(const Context& context, int64_t n, const float* minus_x, int64_t M_used, int32_t* codes,
                            int64_t codes_ld, const int32_t* first) const {
  const int64_t d = config_.d, most = n * beam_.size;
  ScratchFrame frame(context);
  Beams beams;
  beams.n = n;
  beams.minus_x = minus_x;
  beams.errors = frame.get<float>(most * d), beams.next_errors = frame.get<float>(most * d);
  beams.codes = frame.get<int32_t>(most * M_used), beams.next_codes = frame.get<int32_t>(most * M_used);
  for (int64_t m = 0; m < M_used; ++m) {
    const int64_t wanted = m + 1 == M_used ? 1 : beam_.size;
    if (m == 0)
      start(context, wanted, first, beams);
    else
      extend(context, m, wanted, beams);
  }
  for (int64_t m = 0; m < M_used; ++m)
    kernels::copy_bytes(device_, codes + m * codes_ld, device_, beams.codes + m * n,
                        static_cast<size_t>(n) * sizeof(int32_t));
}

// The first code: the one that is known, or the `wanted` nearest of codebook 0.
void Codec::start(const Context& context, int64_t wanted, const int32_t* first, Beams& beams) const {
  const int64_t n = beams.n, d = config_.d, K = config_.K0(), kept = first ? 1 : std::min(wanted, K);
  if (first)
    kernels::copy_bytes(device_, beams.next_codes, device_, first, static_cast<size_t>(n) * sizeof(int32_t));
  else
    rank(context, ranking0_, n, beams.minus_x, kept, beams.next_codes);
  kernels_->gather_sum(context, repeated_plus(n * kept, d, beams.minus_x, kept, codebook0_.data<float>(), K,
                                              beams.next_codes, beams.next_errors));
  beams.grow(kept);
}

// Candidates z [pairs,d] of codes under way, before the blocks: the nearest codewords `tried` to each of them; and what
// relu leaves of the first blocks' inputs, hidden [pairs,h].
void Codec::propose(const Context& context, int64_t m, const Beams& beams, int32_t* tried, float* z,
                    float* hidden) const {
  const Step& step = steps_[static_cast<size_t>(m - 1)];
  const int64_t d = config_.d, h = config_.h, K = config_.K, candidates = beam_.candidates;
  const int64_t rows = beams.n * beams.width, pairs = rows * candidates;
  ScratchFrame frame(context);
  float* const xhat = frame.get<float>(rows * d);
  float* const r = frame.get<float>(rows * d);
  float* const u = frame.get<float>(rows * h);
  kernels_->gather_sum(context, repeated(rows, d, beams.minus_x, beams.width, xhat));
  kernels_->binary(context, BinaryOp::sub, 1, rows * d, {beams.errors, 0, 1}, {xhat, 0, 1}, xhat);
  project(context, step, rows, xhat, r, u, precision_);
  float* const minus_target = xhat;  // of what a codeword has to add: xhat + r - x
  kernels_->binary(context, BinaryOp::add, 1, rows * d, {beams.errors, 0, 1}, {r, 0, 1}, minus_target);
  rank(context, step.ranking, rows, minus_target, candidates, tried);
  kernels_->gather_sum(context, repeated_plus(pairs, d, r, candidates, step.z_table.data<float>(), K, tried, z));
  kernels_->gather_sum(context, repeated_plus(pairs, h, u, candidates, step.a_table.data<float>(), K, tried, hidden));
  kernels_->unary(context, UnaryOp::relu, pairs * h, hidden, hidden);
}

// Step m: the `wanted` nearest of the candidates of each vector, or as many as there are.
void Codec::extend(const Context& context, int64_t m, int64_t wanted, Beams& beams) const {
  const int64_t n = beams.n, d = config_.d, width = beams.width, candidates = beam_.candidates;
  const int64_t pairs = n * width * candidates, kept = std::min(wanted, width * candidates);
  ScratchFrame frame(context);
  int32_t* const tried = frame.get<int32_t>(pairs);
  float* const z = frame.get<float>(pairs * d);
  float* const hidden = frame.get<float>(pairs * config_.h);
  float* const moved = frame.get<float>(pairs * d);  // errors with the candidates added
  propose(context, m, beams, tried, z, hidden);
  kernels_->gather_sum(context, repeated(pairs, d, beams.errors, candidates, moved));
  run_blocks(context, steps_[static_cast<size_t>(m - 1)], pairs, z, hidden, moved, precision_);

  float* const distances = frame.get<float>(pairs);
  int32_t* const picks = frame.get<int32_t>(n * kept);
  int32_t* const picked = frame.get<int32_t>(n * kept);
  kernels_->row_squared_norm(context, pairs, d, moved, distances);
  kernels_->topk(context, n, width * candidates, kept, distances, picks, nullptr);
  kernels_->extend_beams(
      context, {n, width, candidates, kept, beams.steps, beams.codes, tried, picks, picked, beams.next_codes});
  kernels_->gather_rows(context, n * kept, d, moved, picked, beams.next_errors);
  beams.grow(kept);
}

}  // namespace qinco
