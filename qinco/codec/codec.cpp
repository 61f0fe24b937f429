#include "qinco/codec/codec.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"

namespace qinco {

namespace {

using kernels::Context;
using kernels::Gemm;
using kernels::Operand;
using kernels::Precision;
using kernels::ScratchFrame;

// Rows encoded together: enough to keep all threads busy, or a GPU, and few enough to bound memory.
constexpr int64_t kEncodeRows = 4096, kDeviceEncodeRows = 32768;

// Rows whose search by one step takes a core about a second, for every thread.
int64_t rows_of_a_second(const QincoConfig& config) {
  constexpr double kFlops = 1e11, kLeast = 64;
  const double flops =
      2.0 * static_cast<double>(config.K * config.d * config.h) * static_cast<double>(2 * config.L - 1);
  return static_cast<int64_t>(std::max(kFlops / flops, kLeast)) / 32 * 32;  // whole tiles
}

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

Codec::Codec(const Qinco& model, Precision precision, Device device, const BeamSearch& beam)
    : config_(model.config()),
      precision_(precision),
      beam_{beam.size, beam.candidates == 0 ? config_.K : beam.candidates},
      device_(device),
      kernels_(&kernels::table<float>(device)) {
  beam.validate(config_.K);
  codebook0_ = Tensor::empty({config_.K0(), config_.d}, DType::f32, device);
  if (!greedy() && config_.K_ivf == 0) allocate(ranking0_, config_.K);
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
  const auto allocate_linear = [&](PackedLinear& w, int64_t rows, int64_t columns) {
    w.allocate(*kernels_, device_, rows, columns, precision_);
  };
  step.z_table = Tensor::empty({K, d}, DType::f32, device_);
  step.a_table = Tensor::empty({K, h}, DType::f32, device_);
  if (narrow) allocate_linear(step.w_in, h, d);
  allocate_linear(step.w_r, d, p);
  allocate_linear(step.w_u, h, p);
  step.up.resize(static_cast<size_t>(L));
  step.down.resize(static_cast<size_t>(L));
  for (size_t l = 1; l < step.up.size(); ++l) allocate_linear(step.up[l], h, d);
  for (PackedLinear& down : step.down) allocate_linear(down, d, h);
  if (greedy()) {
    step.candidates = Tensor::empty({kernels_->candidate_packed_size(K, d, h, L)}, DType::f32, device_);
    return;
  }
  allocate(step.ranking, K);
  const int64_t screen = kernels_->candidate_screen ? kernels_->candidate_screen_size(K, d, h, L) : 0;
  if (screen > 0) step.screen = Tensor::empty({screen}, DType::f32, device_);
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
  if (ranking0_.norms.defined()) update_ranking(context, codebook0_, ranking0_);
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
  const kernels::CandidateStep<float> whole{K, d, h, L, z_table, a_table, up.data(), down.data(), precision_};
  if (greedy()) return kernels_->candidate_pack(context, whole, step.candidates.data<float>());
  update_ranking(context, step.z_table, step.ranking);
  if (step.screen.defined()) kernels_->candidate_screen_pack(context, whole, step.screen.data<float>());
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

int64_t Codec::encode_rows() const {
  const bool cpu = device_.type == DeviceType::cpu;
  const int64_t most = cpu ? kEncodeRows : kDeviceEncodeRows, floats = int64_t{1} << (cpu ? 22 : 26);
  return std::clamp(floats / (config_.d + config_.h), row_block(), most);
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
  const int64_t block = row_block(n, context);
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

}  // namespace qinco
