// Encoding by beam search: after each step the codes of a vector that come nearest to it so far are kept, and each goes
// on with the codewords that are nearest before the residual blocks move them.
//
// Of what is under way the error e = xhat - x is kept: a step's last product then gives that of the next.
#include <algorithm>
#include <cassert>

#include "kernels/check.h"
#include "qinco/codec/beams.h"
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
constexpr int64_t kScreened = 3;  // times as many candidates as are kept: else a screen takes longer than it saves

// Which rows of a matrix: those of `ids`, or 0, 1, 2, ..., each `times` times.
struct Rows {
  const int32_t* ids = nullptr;
  int64_t times = 1;
};

// out [n,d]: rows of `base`.
GatherSum<float> gathered(int64_t n, int64_t d, const float* base, const Rows& rows, float* out) {
  GatherSum<float> g;
  g.n = n, g.d = d;
  g.base = base, g.base_ids = rows.ids, g.base_times = rows.times;
  g.out = out;
  return g;
}

// The same plus the rows ids [n] of table [K,d].
GatherSum<float> gathered_plus(int64_t n, int64_t d, const float* base, const Rows& rows, const float* table, int64_t K,
                               const int32_t* ids, float* out) {
  GatherSum<float> g = gathered(n, d, base, rows, out);
  g.M = 1, g.K = K;
  g.tables = table;
  g.codes = ids, g.codes_ld = 1;
  return g;
}

}  // namespace

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
  kernels_->gather_sum(context, gathered_plus(n * kept, d, beams.minus_x, {nullptr, kept}, codebook0_.data<float>(), K,
                                              beams.next_codes, beams.next_errors));
  beams.grow(kept);
}

// What codes under way are tried with: r and u of each, and the nearest codewords before the blocks.
void Codec::propose(const Context& context, int64_t m, const Beams& beams, const Tried& tried) const {
  const Step& step = steps_[static_cast<size_t>(m - 1)];
  const int64_t d = config_.d, rows = beams.rows();
  ScratchFrame frame(context);
  float* const xhat = frame.get<float>(rows * d);
  kernels_->gather_sum(context, gathered(rows, d, beams.minus_x, {nullptr, beams.width}, xhat));
  kernels_->binary(context, BinaryOp::sub, 1, rows * d, {beams.errors, 0, 1}, {xhat, 0, 1}, xhat);
  project(context, step, rows, xhat, tried.r, tried.u);
  float* const minus_target = xhat;  // of what a codeword has to add: xhat + r - x
  kernels_->binary(context, BinaryOp::add, 1, rows * d, {beams.errors, 0, 1}, {tried.r, 0, 1}, minus_target);
  rank(context, step.ranking, rows, minus_target, beam_.candidates, tried.ids);
}

// The errors `moved` [count,d] that pairs (null: all, on a GPU too) lead to, and their squared lengths.
void Codec::compare(const Context& context, int64_t m, const Beams& beams, const Tried& tried, int64_t count,
                    const int32_t* pairs, float* moved, float* distances) const {
  const Step& step = steps_[static_cast<size_t>(m - 1)];
  const int64_t d = config_.d, h = config_.h, K = config_.K;
  ScratchFrame frame(context);
  float* const z = frame.get<float>(count * d);
  float* const hidden = frame.get<float>(count * h);
  const int32_t* ids = tried.ids;
  Rows rows{nullptr, beam_.candidates};
  if (pairs) {
    int32_t* const chosen = frame.get<int32_t>(count);
    int32_t* const of = frame.get<int32_t>(count);
    for (int64_t i = 0; i < count; ++i) {
      chosen[i] = tried.ids[pairs[i]];
      of[i] = static_cast<int32_t>(pairs[i] / beam_.candidates);
    }
    ids = chosen;
    rows = {of, 1};
  }
  kernels_->gather_sum(context, gathered_plus(count, d, tried.r, rows, step.z_table.data<float>(), K, ids, z));
  kernels_->gather_sum(context, gathered_plus(count, h, tried.u, rows, step.a_table.data<float>(), K, ids, hidden));
  kernels_->unary(context, UnaryOp::relu, count * h, hidden, hidden);
  kernels_->gather_sum(context, gathered(count, d, beams.errors, rows, moved));
  run_blocks(context, step, count, z, hidden, moved);
  kernels_->row_squared_norm(context, count, d, moved, distances);
}

// Step m: the `wanted` nearest of the candidates of each vector, or as many as there are.
void Codec::extend(const Context& context, int64_t m, int64_t wanted, Beams& beams) const {
  const int64_t n = beams.n, d = config_.d, width = beams.width, candidates = beam_.candidates;
  const int64_t pairs = n * width * candidates, kept = std::min(wanted, width * candidates);
  const bool screened = steps_[static_cast<size_t>(m - 1)].screen.defined() && kScreened * kept <= width * candidates;
  ScratchFrame frame(context);
  Tried tried;
  tried.ids = frame.get<int32_t>(pairs);
  tried.r = frame.get<float>(beams.rows() * d), tried.u = frame.get<float>(beams.rows() * config_.h);
  tried.distances = frame.get<float>(pairs), tried.moved = frame.get<float>(pairs * d);
  if (screened) tried.places = frame.get<int32_t>(pairs);
  propose(context, m, beams, tried);
  if (screened)
    compare_screened(context, m, kept, beams, tried);
  else
    compare(context, m, beams, tried, pairs, nullptr, tried.moved, tried.distances);

  int32_t* const picks = frame.get<int32_t>(n * kept);
  int32_t* const picked = frame.get<int32_t>(n * kept);
  kernels_->topk(context, n, width * candidates, kept, tried.distances, picks, nullptr);
  kernels_->extend_beams(
      context, {n, width, candidates, kept, beams.steps, beams.codes, tried.ids, picks, picked, beams.next_codes});
  for (int64_t i = 0; screened && i < n * kept; ++i) {
    assert(tried.places[picked[i]] >= 0);  // only those compared are finite
    picked[i] = tried.places[picked[i]];
  }
  kernels_->gather_rows(context, n * kept, d, tried.moved, picked, beams.next_errors);
  beams.grow(kept);
}

}  // namespace qinco
