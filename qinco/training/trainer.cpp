#include "qinco/training/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "autograd/optim/schedule.h"
#include "kernels/check.h"
#include "kernels/device.h"
#include "qinco/io/model_file.h"
#include "qinco/training/mean_error.h"
#include "tensor/create.h"
#include "tensor/host_rows.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int64_t kMostEpochs = std::numeric_limits<int32_t>::max();  // as many vectors: their batches can be counted
constexpr size_t kUnreadLosses = 16;  // batches queued on a device before the host waits for their losses

double seconds_since(Clock::time_point start) {
  return Seconds(Clock::now() - start).count();
}

struct Interrupted {};

void stop_if(const std::function<bool()>& requested) {
  if (requested && requested()) throw Interrupted();
}

std::string schedule_name(bool cosine) {
  return cosine ? "cosine" : "plateau";
}

template <class T>
void check_same(const char* name, const T& now, const T& then) {
  check(now == then, "{}: the checkpoint was made with {}, found {}", name, then, now);
}

}  // namespace

void TrainOptions::validate() const {
  check(batch_size >= 1, "batch_size: expected 1 or more, found {}", batch_size);
  check(1 <= max_epochs && max_epochs <= kMostEpochs, "max_epochs: expected 1 to {}, found {}", kMostEpochs,
        max_epochs);
  check(std::isfinite(lr) && lr > 0, "lr: expected a finite value above 0, found {}", lr);
  const double least = PlateauSchedule{}.min_lr;
  check(cosine || lr >= least, "lr: expected {} or more, below which the plateau schedule ends, found {}", least, lr);
}

BatchReader::BatchReader(const VectorSet& vectors, int64_t most, Device device) : vectors_(vectors), device_(device) {
  const int64_t n = vectors.size(), d = vectors.dim();
  const auto bytes = static_cast<size_t>(n * d) * sizeof(float);
  const bool fits = device.type != DeviceType::cpu && bytes <= kernels::memory_info(device).free / 2;
  rows_ = Tensor::empty({std::min(std::max(most, fits ? vectors.block_rows(device) : 0), n), d});
  if (!fits) return;
  resident_ = Tensor::empty({n, d}, DType::f32, device);
  for (int64_t begin = 0; begin < n; begin += rows_.size(0)) {
    const int64_t end = std::min(begin + rows_.size(0), n);
    vectors.copy(begin, end, rows_.data<float>());
    resident_.slice(0, begin, end).copy_from(rows_.slice(0, 0, end - begin));
  }
}

Tensor BatchReader::read(int64_t n, const int32_t* ids) {
  if (resident_.defined())
    return gather_rows(resident_, from_span(std::span(ids, static_cast<size_t>(n)), {n}).to(device_));
  const Tensor rows = rows_.slice(0, 0, n);
  vectors_.gather(n, ids, rows.data<float>());
  return rows.to(device_);
}

Trainer::Trainer(Qinco& model, const VectorSet& train, const VectorSet& val, const TrainOptions& options)
    : model_(model),
      train_(train),
      val_(val),
      options_(options),
      trainer_(model, options.lr, options.precision, options.beam),
      reader_(train, options.batch_size, model.device()) {
  const int64_t d = model.config().d;
  check(train.dim() == d && val.dim() == d, "training: expected vectors of d={}, found {} and {}", d, train.dim(),
        val.dim());
  check(train.size() >= 1 && val.size() >= 1,
        "training: expected vectors to train on and to validate on, found {} and {}", train.size(), val.size());
  options.validate();
  run_ = {.batch_size = options.batch_size,
          .base_lr = options.lr,
          .cosine = options.cosine,
          .precision = options.precision,
          .beam = trainer_.codec().beam(),
          .seed = options.seed,
          .nt = train.size(),
          .nval = val.size(),
          .data = train.fingerprint(),
          .val_data = val.fingerprint()};
  progress_.schedule.lr = options.lr;
  fit_schedule();
}

// The centroid of every training vector, which does not change.
void Trainer::assign(const TrainHooks& hooks) {
  const QincoConfig& config = model_.config();
  centroids_of_.resize(static_cast<size_t>(train_.size()));
  const Device device = model_.device();
  const kernels::Context& context = kernels::Context::of(device);
  const Tensor x = Tensor::empty({train_.block_rows(device), config.d});
  for (int64_t begin = 0; begin < train_.size(); begin += x.size(0)) {
    stop_if(hooks.stop_requested);
    const int64_t n = std::min(x.size(0), train_.size() - begin);
    train_.copy(begin, begin + n, x.data<float>());
    const Tensor scaled = div(x.slice(0, 0, n), scalar(config.db_scale)).to(device);
    kernels::ScratchFrame frame(context);
    int32_t* const ids = result_of(context, frame, centroids_of_.data() + begin, n);
    kernels::table<float>(device).nearest(context, n, config.d, config.K_ivf, scaled.data<float>(),
                                          model_.codebook(0).value().data<float>(), ids, nullptr);
    to_host(context, ids, centroids_of_.data() + begin, n);
  }
}

// What the options say about the schedule, as against its state.
void Trainer::fit_schedule() {
  PlateauSchedule& schedule = progress_.schedule;
  schedule.max_epochs = options_.max_epochs;
  if (!options_.cosine) return;
  schedule.patience = schedule.stop_after = options_.max_epochs + 1;  // only max_epochs counts
  schedule.min_lr = 0;
}

double Trainer::lr_of_batch() const {
  if (!options_.cosine) return progress_.schedule.lr;
  const int64_t batch = progress_.schedule.epochs * batches() + progress_.batch;
  return optim::CosineSchedule(options_.lr, {.steps = options_.max_epochs * batches(), .min_lr = options_.lr / 100})
      .lr_at(batch);
}

void Trainer::start_from(double mse, bool from_rq) {
  progress_.start_mse = mse;
  progress_.from_rq = from_rq;
  if (!from_rq) progress_.schedule.best = mse;
}

int64_t Trainer::batches() const {
  return (train_.size() - 1) / options_.batch_size + 1;
}

void Trainer::resume(const Checkpoint& c) {
  check_same("batch_size", run_.batch_size, c.run.batch_size);
  check_same("lr", run_.base_lr, c.run.base_lr);
  check_same("lr_schedule", schedule_name(run_.cosine), schedule_name(c.run.cosine));
  check_same<std::string>("precision", name(run_.precision), name(c.run.precision));
  check_same("beam_size", run_.beam.size, c.run.beam.size);
  check_same("candidates", run_.beam.candidates, c.run.beam.candidates);
  if (run_.cosine) check_same("max_epochs", options_.max_epochs, c.progress.schedule.max_epochs);
  check_same("seed", run_.seed, c.run.seed);
  check_same("nt", run_.nt, c.run.nt);
  check_same("nval", run_.nval, c.run.nval);
  check(run_.data == c.run.data, "training data: not what the checkpoint was made with");
  check(!c.run.val_data || run_.val_data == c.run.val_data, "validation data: not what the checkpoint was made with");
  check(c.config.same_sizes(model_.config()) && c.config.db_scale == model_.config().db_scale,
        "checkpoint: the model has other sizes or another db_scale");
  check(c.progress.batch <= batches(), "checkpoint: expected at most {} batches an epoch, found {}", batches(),
        c.progress.batch);
  model_.load(c.parameters);
  trainer_.codec().update(model_);
  trainer_.adam().reset_state();
  if (!c.optimizer.empty()) trainer_.adam().load_state(c.optimizer);
  progress_ = c.progress;
  fit_schedule();
}

void Trainer::save(bool mid_epoch) {
  if (options_.checkpoint_path.empty()) return;
  save_checkpoint(options_.checkpoint_path, {run_, progress_, model_.config(), model_.state(),
                                             mid_epoch ? trainer_.adam().state() : TensorMap{}});
}

bool Trainer::run(const TrainHooks& hooks) {
  trainer_.codec().set_poll([stop = hooks.stop_requested] { stop_if(stop); });
  try {
    if (model_.config().K_ivf > 0) assign(hooks);
  } catch (const Interrupted&) {
    save(progress_.batch > 0);
    return false;
  }
  while (!progress_.schedule.finished()) {
    epoch_start_ = Clock::now() - std::chrono::duration_cast<Clock::duration>(Seconds(progress_.seconds));
    double val_mse = 0;
    bool done = false;
    try {
      train_epoch(hooks);
      val_mse = validate();
      done = true;
    } catch (const Interrupted&) {
      read_losses();
    }
    progress_.seconds = seconds_since(epoch_start_);
    if (!done) {
      save(true);
      return false;
    }
    finish_epoch(val_mse, hooks);
  }
  return true;
}

// The rest of the epoch's batches.
void Trainer::train_epoch(const TrainHooks& hooks) {
  const int64_t epoch = progress_.schedule.epochs + 1;
  if (progress_.batch == 0) trainer_.adam().reset_state();
  const int64_t nt = train_.size(), B = options_.batch_size;
  const size_t unread = model_.device().type == DeviceType::cpu ? 0 : kUnreadLosses;
  Random order_of_epoch(options_.seed, static_cast<uint64_t>(epoch));
  const std::vector<int32_t> order = order_of_epoch.permutation(nt);
  Clock::time_point saved = Clock::now();
  double loss = 0;
  while (progress_.batch < batches()) {
    stop_if(hooks.stop_requested);
    const Clock::time_point start = Clock::now();
    const int64_t begin = progress_.batch * B, n = std::min(B, nt - begin);
    unread_.emplace_back(queue_batch(order, begin, n), n);
    ++progress_.batch;
    const bool save_now = seconds_since(saved) > options_.checkpoint_seconds;
    if (unread_.size() > unread || progress_.batch == batches() || save_now) loss = read_losses();
    progress_.train_seconds += seconds_since(start);
    if (hooks.batch) hooks.batch(begin + n, nt, loss);
    if (save_now) {
      progress_.seconds = seconds_since(epoch_start_);
      save(true);
      saved = Clock::now();
    }
  }
}

// Trains on the n vectors of the epoch's order from `begin` on; the loss stays on the device.
Tensor Trainer::queue_batch(const std::vector<int32_t>& order, int64_t begin, int64_t n) {
  const int32_t* const ids = order.data() + begin;
  std::vector<int32_t> first;
  for (int64_t i = 0; i < n && !centroids_of_.empty(); ++i) first.push_back(centroids_of_[ids[i]]);
  trainer_.adam().set_lr(lr_of_batch());
  return trainer_.queue_step(reader_.read(n, ids), first.empty() ? nullptr : first.data());
}

// Throws where training has gone astray. It would again from its checkpoint, which goes.
void Trainer::check_finite(const char* what, double value) const {
  if (std::isfinite(value)) return;
  std::error_code ignored;
  const bool removed = !options_.checkpoint_path.empty() && std::filesystem::remove(options_.checkpoint_path, ignored);
  fail("training diverged: {} {} in epoch {}: try a lower learning rate{}", what, std::abs(value),
       progress_.schedule.epochs + 1, removed ? " (" + options_.checkpoint_path + " is removed)" : "");
}

// Waits for the losses of the batches queued, and returns the last one.
double Trainer::read_losses() {
  double loss = 0;
  for (const auto& [value, n] : std::exchange(unread_, {})) {
    loss = value.item<double>();
    check_finite("loss", loss);
    progress_.loss_sum += loss * static_cast<double>(n);
  }
  return loss;
}

double Trainer::validate() {
  trainer_.forget_recording();  // its memory may be needed here
  trainer_.codec().update_trained(model_);
  return codec_mse(trainer_.codec(), val_);
}

void Trainer::finish_epoch(double val_mse, const TrainHooks& hooks) {
  check_finite("validation MSE", val_mse);
  EpochRecord record;
  progress_.batch = 0;
  record.lr = lr_of_batch();
  record.best = progress_.schedule.update(val_mse);
  record.epoch = progress_.schedule.epochs;
  record.train_loss = progress_.loss_sum / static_cast<double>(train_.size());
  record.val_mse = val_mse;
  record.seconds = progress_.seconds;
  record.train_seconds = progress_.train_seconds;
  progress_.history.push_back(record);
  progress_.loss_sum = progress_.seconds = progress_.train_seconds = 0;
  if (record.best && !options_.model_path.empty()) save_model(options_.model_path, model_);
  save(false);
  if (hooks.epoch) hooks.epoch(record);
}

double codec_mse(const Codec& codec, const VectorSet& vectors) {
  const Tensor codes = Tensor::empty({vectors.block_rows(codec.device()), codec.config().codes()}, DType::i32);
  return mean_error(vectors, codec.device(),
                    [&](int64_t n, const float* x, float* xhat) { codec.encode(n, x, codes.data<int32_t>(), xhat); });
}

}  // namespace qinco
