// Decoding, and what it has in common with encoding: a step's network for rows whose codewords are known.
#include <algorithm>

#include "kernels/check.h"
#include "qinco/codec/codec.h"
#include "qinco/quantizers/checks.h"
#include "tensor/host_rows.h"

namespace qinco {

namespace {

using kernels::Context;
using kernels::Linear;
using kernels::ScratchFrame;

// Rows decoded together.
constexpr int64_t kDecodeRows = 65536;

}  // namespace

// Rows that one thread takes through a whole step: several of the products' register tiles (14 rows, 6, or 32), so that
// little is lost in the last, and few enough for their buffers to stay in L2.
int64_t Codec::row_block() const {
  constexpr int64_t kLeast = 96, kMost = 480, kFloats = int64_t{1} << 18;
  return std::clamp<int64_t>(kFloats / (2 * config_.d + config_.h) / 32 * 32, kLeast, kMost);
}

// The same for n rows in all: fewer where some threads would have none. A row's bits do not depend on its block.
int64_t Codec::row_block(int64_t n, const Context& context) const {
  constexpr int64_t kTile = 32;
  const int64_t share = (n + context.threads - 1) / context.threads;
  return std::min((share + kTile - 1) / kTile * kTile, row_block());
}

// What w_r and w_u apply to: xhat [n,d] itself, or w_in xhat [n,h], written to `narrow`.
const float* Codec::enter(const Context& context, const Step& step, int64_t n, const float* xhat, float* narrow) const {
  if (!step.w_in.defined()) return xhat;
  kernels_->linear(context, step.w_in.product(n, xhat, narrow));
  return narrow;
}

// r [n,d] and u [n,h] of a row block.
void Codec::project(const Context& context, const Step& step, int64_t n, const float* xhat, float* r, float* u) const {
  ScratchFrame frame(context);
  float* const narrow = frame.get<float>(step.w_in.defined() ? n * config_.h : 0);
  const float* const source = enter(context, step, n, xhat, narrow);
  kernels_->linear(context, step.w_r.product(n, source, r));
  kernels_->linear(context, step.w_u.product(n, source, u));
}

// xhat += f(codeword ids[i], xhat) for a row block.
void Codec::advance(const Context& context, const Step& step, int64_t n, const int32_t* ids, float* xhat) const {
  const int64_t d = config_.d, h = config_.h;
  ScratchFrame frame(context);
  float* const z = frame.get<float>(n * d);
  float* const hidden = frame.get<float>(n * h);
  float* const narrow = frame.get<float>(step.w_in.defined() ? n * h : 0);
  const float* const source = enter(context, step, n, xhat, narrow);
  kernels_->gather_rows(context, n, d, step.z_table.data<float>(), ids, z);
  kernels_->gather_rows(context, n, h, step.a_table.data<float>(), ids, hidden);
  Linear<float> base = step.w_r.product(n, source, z);
  base.accumulate = true;
  kernels_->linear(context, base);
  Linear<float> first = step.w_u.product(n, source, hidden);
  first.accumulate = true;
  first.relu = true;
  kernels_->linear(context, first);
  run_blocks(context, step, n, z, hidden, xhat);
}

// sum [n,d] += what the residual blocks make of z [n,d], which is overwritten, as is hidden [n,h]: at first the first
// block's, after relu.
void Codec::run_blocks(const Context& context, const Step& step, int64_t n, float* z, float* hidden, float* sum) const {
  const int64_t d = config_.d, L = config_.L;
  for (int64_t l = 0; l < L; ++l) {
    const auto i = static_cast<size_t>(l);
    if (l > 0) {
      Linear<float> up = step.up[i].product(n, z, hidden);
      up.relu = true;
      kernels_->linear(context, up);
    }
    const bool last = l + 1 == L;  // sum += z + down is one product with a residual
    Linear<float> down = step.down[i].product(n, hidden, last ? sum : z);
    down.accumulate = true;
    if (last) {
      down.residual = z;
      down.ldr = d;
    }
    kernels_->linear(context, down);
  }
}

void Codec::decode(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const {
  check_codes(n, codes, codes_ld, M_used);
  const Context& context = Context::of(device_);
  const int64_t d = config_.d, rows = std::min(kDecodeRows, n);
  for (int64_t begin = 0; begin < n; begin += rows) {
    const int64_t count = std::min(rows, n - begin);
    ScratchFrame frame(context);
    float* const block = result_of(context, frame, x + begin * d, count * d);
    decode_rows(count, codes + begin * codes_ld, codes_ld, M_used, block);
    to_host(context, block, x + begin * d, count * d);
  }
}

void Codec::decode_to_device(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const {
  check_codes(n, codes, codes_ld, M_used);
  for (int64_t begin = 0; begin < n; begin += kDecodeRows)
    decode_rows(std::min(kDecodeRows, n - begin), codes + begin * codes_ld, codes_ld, M_used, x + begin * config_.d);
}

void Codec::check_codes(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used) const {
  const int64_t M = config_.codes();
  check(n >= 0, "decode: {} vectors", n);
  check(M_used >= 1 && M_used <= M, "decode: expected 1 to {} codes a vector, found {}", M, M_used);
  check(codes_ld >= M_used || n <= 1, "decode: rows of {} codes that are {} apart", M_used, codes_ld);
  check_whole_codes("decode", n, M_used, config_.K0(), config_.K, codes, codes_ld);
}

void Codec::advance_on_device(int64_t m, int64_t n, const int32_t* ids, float* xhat) const {
  check(1 <= m && m < config_.codes(), "decode: step {}, expected 1 to {}", m, config_.codes() - 1);
  const Context& context = Context::of(device_);
  for_rows(context, n, row_block(n, context), [&](const Context& own, int64_t begin, int64_t end) {
    advance(own, steps_[static_cast<size_t>(m - 1)], end - begin, ids + begin, xhat + begin * config_.d);
  });
}

// Codes are the host's, x [n,d] the device's.
void Codec::decode_rows(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const {
  const Context& context = Context::of(device_);
  std::vector<int32_t> by_step(static_cast<size_t>(M_used * n));
  for (int64_t m = 0; m < M_used; ++m)
    for (int64_t i = 0; i < n; ++i) by_step[static_cast<size_t>(m * n + i)] = codes[i * codes_ld + m];
  ScratchFrame frame(context);
  decode_ids(context, n, to_device(context, frame, by_step.data(), n * M_used), M_used, x);
}

// ids [M_used,n] step by step; all pointers are to the device's memory.
void Codec::decode_ids(const Context& context, int64_t n, const int32_t* ids, int64_t M_used, float* x) const {
  for_rows(context, n, row_block(n, context), [&](const Context& own, int64_t begin, int64_t end) {
    decode_block(own, end - begin, ids + begin, n, M_used, x + begin * config_.d);
  });
}

// The same for rows of those ids, whose steps are ids_ld apart.
void Codec::decode_block(const Context& context, int64_t n, const int32_t* ids, int64_t ids_ld, int64_t M_used,
                         float* x) const {
  const int64_t d = config_.d;
  kernels_->gather_rows(context, n, d, codebook0_.data<float>(), ids, x);
  for (int64_t m = 1; m < M_used; ++m) advance(context, steps_[static_cast<size_t>(m - 1)], n, ids + m * ids_ld, x);
  kernels_->binary(context, kernels::BinaryOp::mul, 1, n * d, {x, 0, 1}, {scale_.data<float>(), 0, 0}, x);
}

}  // namespace qinco
