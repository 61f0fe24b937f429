#include "qinco/codec/codec.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "qinco/quantizers/checks.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"

namespace qinco {

namespace {

using kernels::Context;
using kernels::Gemm;
using kernels::Linear;
using kernels::Operand;
using kernels::Precision;
using kernels::ScratchFrame;

// Rows that one thread takes through a whole step: several of the products' register tiles (14 rows, 6, or 32), so that
// little is lost in the last, and few enough for their buffers to stay in L2.
int64_t row_block(const QincoConfig& config) {
  constexpr int64_t kLeast = 96, kMost = 480, kFloats = int64_t{1} << 18;
  return std::clamp<int64_t>(kFloats / (2 * config.d + config.h) / 32 * 32, kLeast, kMost);
}

// The same for n rows in all: fewer where some threads would have none. A row's bits do not depend on its block.
int64_t row_block(const QincoConfig& config, int64_t n, const Context& context) {
  constexpr int64_t kTile = 32;
  const int64_t share = (n + context.threads - 1) / context.threads;
  return std::min((share + kTile - 1) / kTile * kTile, row_block(config));
}

// Rows encoded together: enough to keep all threads busy, or a GPU, and few enough to bound memory.
constexpr int64_t kEncodeRows = 4096, kDeviceEncodeRows = 32768;

// Rows whose search by one step takes a core about a second, for every thread.
int64_t rows_of_a_second(const QincoConfig& config) {
  constexpr double kFlops = 1e11, kLeast = 64;
  const double flops =
      2.0 * static_cast<double>(config.K * config.d * config.h) * static_cast<double>(2 * config.L - 1);
  return static_cast<int64_t>(std::max(kFlops / flops, kLeast)) / 32 * 32;  // whole tiles
}

// Rows decoded together.
constexpr int64_t kDecodeRows = 65536;

// C [m,n] = A [m,k] W^T, with W [n,k]: nn::Linear's layout; the epilogue is set by the caller.
Gemm<float> product(int64_t m, int64_t n, int64_t k, const float* a, const float* w, float* c) {
  Gemm<float> g;
  g.m = m, g.n = n, g.k = k;
  g.a = a, g.lda = k;
  g.b = w, g.ldb = k, g.trans_b = true;
  g.c = c, g.ldc = n;
  return g;
}

}  // namespace

Codec::Codec(const Qinco& model, Precision precision, Device device)
    : config_(model.config()),
      precision_(precision),
      device_(device),
      kernels_(&kernels::table<float>(device)),
      beam_{1, config_.K} {
  codebook0_ = Tensor::empty({config_.K0(), config_.d}, DType::f32, device);
  steps_.resize(static_cast<size_t>(config_.codes() - 1));
  for (Step& step : steps_) allocate(step);
  update(model);
}

void Codec::set_poll(std::function<void()> poll, int64_t rows) {
  poll_ = std::move(poll);
  poll_rows_ = rows;
}

void Codec::allocate(Step& step) const {
  const int64_t d = config_.d, K = config_.K, L = config_.L, h = config_.h;
  const bool narrow = config_.lowrank && 4 * h * d + 2 * h * h < 2 * d * d + 2 * d * h;  // FLOP a vector, either way
  const int64_t p = narrow ? h : d;
  const bool rounded = precision_ == Precision::fast && device_.type == DeviceType::cpu;  // by a beam search
  step.z_table = Tensor::empty({K, d}, DType::f32, device_);
  step.a_table = Tensor::empty({K, h}, DType::f32, device_);
  if (narrow) step.w_in.allocate(*kernels_, device_, h, d, rounded);
  step.w_r.allocate(*kernels_, device_, d, p, rounded);
  step.w_u.allocate(*kernels_, device_, h, p, rounded);
  step.up.resize(static_cast<size_t>(L));
  step.down.resize(static_cast<size_t>(L));
  for (size_t l = 1; l < step.up.size(); ++l) step.up[l].allocate(*kernels_, device_, h, d, rounded);
  for (TwofoldLinear& down : step.down) down.allocate(*kernels_, device_, d, h, rounded);
  step.candidates = Tensor::empty({kernels_->candidate_packed_size(K, d, h, L)}, DType::f32, device_);
}

void Codec::update(const Qinco& model) {
  check_sizes(model);
  codebook0_.copy_from(model.codebook(0).value());
  update_rest(model);
}

void Codec::update_trained(const Qinco& model) {
  if (config_.K_ivf == 0) return update(model);
  check_sizes(model);
  update_rest(model);
}

void Codec::check_sizes(const Qinco& model) const {
  check(model.config().same_sizes(config_), "codec: a model of other sizes than the one it was made for");
}

void Codec::update_rest(const Qinco& model) {
  config_.db_scale = model.config().db_scale;
  scale_ = scalar(static_cast<double>(config_.db_scale), DType::f32, device_);
  const Context& context = Context::of(device_);
  for (size_t m = 0; m < steps_.size(); ++m) update_step(context, model.step(static_cast<int64_t>(m) + 1), steps_[m]);
  if (!greedy()) pack_rankings();
}

void Codec::update_step(const Context& context, const StepNetwork& network, Step& step) const {
  const int64_t d = config_.d, K = config_.K, L = config_.L, h = config_.h;
  std::vector<Tensor> kept;  // holds what the pointers point to
  std::vector<const float*> up, down;
  for (size_t l = 0; l < static_cast<size_t>(L); ++l) {
    kept.push_back(network.up[l].value().to(device_));
    up.push_back(kept.back().data<float>());
    kept.push_back(network.down[l].value().to(device_));
    down.push_back(kept.back().data<float>());
    if (l > 0) step.up[l].pack(*kernels_, context, up[l], d);
    step.down[l].pack(*kernels_, context, down[l], h);
  }
  if (config_.lowrank) {
    fold_lowrank(context, network, step);
  } else {
    fold_concat(context, network, step);
  }
  float* const z_table = step.z_table.data<float>();
  float* const a_table = step.a_table.data<float>();
  kernels_->gemm(context, product(K, h, d, z_table, up[0], a_table));
  kernels_->candidate_pack(context, {K, d, h, L, z_table, a_table, up.data(), down.data(), precision_},
                           step.candidates.data<float>());
}

// W_x (or its outer half) is w [d,p] with rows ldw apart.
void Codec::set_input(const Context& context, const StepNetwork& network, const float* w, int64_t ldw,
                      Step& step) const {
  const int64_t d = config_.d, h = config_.h, p = step.w_r.k();
  ScratchFrame frame(context);
  float* const through_up = frame.get<float>(h * p);
  const Tensor up = network.up[0].value().to(device_);
  Gemm<float> fold = product(h, p, d, up.data<float>(), w, through_up);
  fold.trans_b = false;
  fold.ldb = ldw;
  kernels_->gemm(context, fold);
  step.w_r.pack(*kernels_, context, w, ldw);
  step.w_u.pack(*kernels_, context, through_up, p);
}

void Codec::fold_concat(const Context& context, const StepNetwork& network, Step& step) const {
  const int64_t d = config_.d;
  const Tensor w = network.concat.value().to(device_);  // [d,2d] = [W_c W_x]
  const Tensor bias = network.concat_bias.value().to(device_), codebook = network.codebook.value().to(device_);
  Gemm<float> table = product(config_.K, d, d, codebook.data<float>(), w.data<float>(), step.z_table.data<float>());
  table.ldb = 2 * d;
  table.bias = bias.data<float>();
  table.residual = codebook.data<float>();
  table.ldr = d;
  kernels_->gemm(context, table);
  set_input(context, network, w.data<float>() + d, 2 * d, step);
}

void Codec::fold_lowrank(const Context& context, const StepNetwork& network, Step& step) const {
  const int64_t d = config_.d, K = config_.K, h = config_.h;
  const Tensor w_a = network.concat_in.value().to(device_);   // [h,2d] = [W_A,c W_A,x]
  const Tensor w_b = network.concat_out.value().to(device_);  // [d,h]
  const Tensor codebook = network.codebook.value().to(device_);
  ScratchFrame frame(context);
  float* const narrow = frame.get<float>(K * h);
  Gemm<float> in = product(K, h, d, codebook.data<float>(), w_a.data<float>(), narrow);
  in.ldb = 2 * d;
  kernels_->gemm(context, in);
  Gemm<float> out = product(K, d, h, narrow, w_b.data<float>(), step.z_table.data<float>());
  out.residual = codebook.data<float>();
  out.ldr = d;
  kernels_->gemm(context, out);
  if (step.w_in.defined()) {
    step.w_in.pack(*kernels_, context, w_a.data<float>() + d, 2 * d);
    set_input(context, network, w_b.data<float>(), h, step);
  } else {
    float* const w_x = frame.get<float>(d * d);
    Gemm<float> fold = product(d, d, h, w_b.data<float>(), w_a.data<float>() + d, w_x);
    fold.trans_b = false;
    fold.ldb = 2 * d;
    kernels_->gemm(context, fold);
    set_input(context, network, w_x, d, step);
  }
}

// What w_r and w_u apply to: xhat [n,d] itself, or w_in xhat [n,h], written to `narrow`.
const float* Codec::enter(const Context& context, const Step& step, int64_t n, const float* xhat, float* narrow,
                          Precision precision) const {
  if (!step.w_in.defined()) return xhat;
  kernels_->linear(context, step.w_in.product(n, xhat, narrow, precision));
  return narrow;
}

// r [n,d] and u [n,h] of a row block.
void Codec::project(const Context& context, const Step& step, int64_t n, const float* xhat, float* r, float* u,
                    Precision precision) const {
  ScratchFrame frame(context);
  float* const narrow = frame.get<float>(step.w_in.defined() ? n * config_.h : 0);
  const float* const source = enter(context, step, n, xhat, narrow, precision);
  kernels_->linear(context, step.w_r.product(n, source, r, precision));
  kernels_->linear(context, step.w_u.product(n, source, u, precision));
}

// xhat += f(codeword ids[i], xhat) for a row block.
void Codec::advance(const Context& context, const Step& step, int64_t n, const int32_t* ids, float* xhat) const {
  const int64_t d = config_.d, h = config_.h;
  ScratchFrame frame(context);
  float* const z = frame.get<float>(n * d);
  float* const hidden = frame.get<float>(n * h);
  float* const narrow = frame.get<float>(step.w_in.defined() ? n * h : 0);
  const float* const source = enter(context, step, n, xhat, narrow, Precision::exact);
  kernels_->gather_rows(context, n, d, step.z_table.data<float>(), ids, z);
  kernels_->gather_rows(context, n, h, step.a_table.data<float>(), ids, hidden);
  Linear<float> base = step.w_r.product(n, source, z, Precision::exact);
  base.accumulate = true;
  kernels_->linear(context, base);
  Linear<float> first = step.w_u.product(n, source, hidden, Precision::exact);
  first.accumulate = true;
  first.relu = true;
  kernels_->linear(context, first);
  run_blocks(context, step, n, z, hidden, xhat);
}

// sum [n,d] += what the residual blocks make of z [n,d], which is overwritten, as is hidden [n,h]: at first the first
// block's, after relu.
void Codec::run_blocks(const Context& context, const Step& step, int64_t n, float* z, float* hidden, float* sum,
                       Precision precision) const {
  const int64_t d = config_.d, L = config_.L;
  for (int64_t l = 0; l < L; ++l) {
    const auto i = static_cast<size_t>(l);
    if (l > 0) {
      Linear<float> up = step.up[i].product(n, z, hidden, precision);
      up.relu = true;
      kernels_->linear(context, up);
    }
    const bool last = l + 1 == L;  // sum += z + down is one product with a residual
    Linear<float> down = step.down[i].product(n, hidden, last ? sum : z, precision);
    down.accumulate = true;
    if (last) {
      down.residual = z;
      down.ldr = d;
    }
    kernels_->linear(context, down);
  }
}

int64_t Codec::encode_rows() const {
  const bool cpu = device_.type == DeviceType::cpu;
  const int64_t most = cpu ? kEncodeRows : kDeviceEncodeRows, floats = int64_t{1} << (cpu ? 22 : 26);
  return std::clamp(floats / (config_.d + config_.h), row_block(config_), most);
}

void Codec::encode(int64_t n, const float* x, int32_t* codes, float* xhat, const int32_t* first,
                   std::optional<int64_t> M_used) const {
  const int64_t d = config_.d, M = M_used.value_or(config_.codes()), rows = std::min(encode_rows(), n);
  check(M >= 1 && M <= config_.codes(), "encode: expected 1 to {} codes a vector, found {}", config_.codes(), M);
  check(n >= 0, "encode: {} vectors", n);
  const Context& context = Context::of(device_);
  std::vector<int32_t> by_step(static_cast<size_t>(M * rows));
  for (int64_t begin = 0; begin < n; begin += rows) {
    if (poll_) poll_();
    const int64_t count = std::min(rows, n - begin);
    float* const rebuilt = xhat ? xhat + begin * d : nullptr;
    ScratchFrame frame(context);
    float* const y = xhat ? result_of(context, frame, rebuilt, count * d) : nullptr;
    int32_t* const ids = result_of(context, frame, by_step.data(), count * M);
    encode_block(context, count, to_device(context, frame, x + begin * d, count * d), M, ids, y,
                 first ? to_device(context, frame, first + begin, count) : nullptr);
    if (xhat) to_host(context, y, rebuilt, count * d);
    to_host(context, ids, by_step.data(), count * M);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t i = 0; i < count; ++i) codes[(begin + i) * M + m] = by_step[static_cast<size_t>(m * count + i)];
  }
}

void Codec::encode_on_device(int64_t n, const float* x, int32_t* codes, const int32_t* first) const {
  encode_block(Context::of(device_), n, x, config_.codes(), codes, nullptr, first);
}

// Codes [M_used,n] step by step; all pointers are to the device's memory.
void Codec::encode_block(const Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat,
                         const int32_t* first) const {
  if (greedy())
    encode_greedy(context, n, x, M_used, codes, xhat, first);
  else
    encode_beam(context, n, x, M_used, codes, xhat, first);
}

void Codec::encode_greedy(const Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes,
                          float* xhat, const int32_t* first) const {
  const int64_t d = config_.d, h = config_.h;
  const int64_t block = row_block(config_, n, context);
  ScratchFrame frame(context);
  float* const scaled = frame.get<float>(n * d);
  float* const target = frame.get<float>(n * d);
  float* const r = frame.get<float>(n * d);
  float* const u = frame.get<float>(n * h);
  float* const y = xhat ? xhat : frame.get<float>(n * d);
  const Operand<float> scale{scale_.data<float>(), 0, 0};
  kernels_->binary(context, kernels::BinaryOp::div, 1, n * d, {x, 0, 1}, scale, scaled);
  if (first) {
    kernels::copy_bytes(device_, codes, device_, first, static_cast<size_t>(n) * sizeof(int32_t));
  } else {
    kernels_->nearest(context, n, d, config_.K0(), scaled, codebook0_.data<float>(), codes, nullptr);
  }
  kernels_->gather_rows(context, n, d, codebook0_.data<float>(), codes, y);
  for (int64_t m = 1; m < M_used; ++m) {
    const Step& step = steps_[static_cast<size_t>(m - 1)];
    int32_t* const ids = codes + m * n;
    for_rows(context, n, block, [&](const Context& own, int64_t begin, int64_t end) {
      project(own, step, end - begin, y + begin * d, r + begin * d, u + begin * h);
    });
    kernels_->binary(context, kernels::BinaryOp::sub, 1, n * d, {scaled, 0, 1}, {y, 0, 1}, target);
    search(context, step, n, target, r, u, ids);
    if (m + 1 == M_used && !xhat) break;
    for_rows(context, n, block, [&](const Context& own, int64_t begin, int64_t end) {
      advance(own, step, end - begin, ids + begin, y + begin * d);
    });
  }
  if (xhat) kernels_->binary(context, kernels::BinaryOp::mul, 1, n * d, {xhat, 0, 1}, scale, xhat);
}

// The nearest candidate of every row; on a CPU in parts, with poll_ before each.
void Codec::search(const Context& context, const Step& step, int64_t n, const float* target, const float* r,
                   const float* u, int32_t* ids) const {
  const int64_t d = config_.d, K = config_.K, L = config_.L, h = config_.h;
  const bool polled = poll_ && device_.type == DeviceType::cpu;
  const int64_t rows = poll_rows_ > 0 ? poll_rows_ : rows_of_a_second(config_) * context.threads;
  const int64_t part = polled ? rows : n;
  for (int64_t begin = 0; begin < n; begin += part) {
    if (polled) poll_();
    kernels_->candidate_search(context, K, d, h, L, step.candidates.data<float>(),
                               {std::min(part, n - begin), target + begin * d, r + begin * d, u + begin * h,
                                ids + begin, nullptr, precision_});
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
  qinco::check_codes("decode", n, 1, config_.K0(), codes, codes_ld);
  qinco::check_codes("decode", n, M_used, config_.K, codes, codes_ld, 1);
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
  for_rows(context, n, row_block(config_, n, context), [&](const Context& own, int64_t begin, int64_t end) {
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
