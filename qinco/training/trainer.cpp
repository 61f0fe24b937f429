#include "qinco/training/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "autograd/optim/schedule.h"
#include "kernels/check.h"
#include "qinco/io/model_file.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kValidationRows = 1024;   // between two looks at the stop request
constexpr double kCheckpointSeconds = 600;  // within a long epoch

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool stop_requested(const TrainHooks& hooks) {
  return hooks.stop_requested && hooks.stop_requested();
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
  check(max_epochs >= 1, "max_epochs: expected 1 or more, found {}", max_epochs);
  check(std::isfinite(lr) && lr > 0, "lr: expected a finite value above 0, found {}", lr);
}

BatchTrainer::BatchTrainer(Qinco& model, double lr)
    : model_(model), codec_(model), adam_(model.parameters(), {.lr = lr}) {}

double BatchTrainer::step(const Tensor& x, const int32_t* first) {
  const QincoConfig& config = model_.config();
  const int64_t n = x.size(0);
  if (!codes_.defined() || codes_.size(0) < n) {
    codes_ = Tensor::empty({n, config.codes()}, DType::i32);
    scaled_ = Tensor::empty({n, config.d});
  }
  const Tensor codes = codes_.slice(0, 0, n);
  const Tensor scaled = scaled_.slice(0, 0, n);
  codec_.update(model_);
  codec_.encode(n, x.data<float>(), codes.data<int32_t>(), nullptr, first);
  kernels::table<float>().binary(kernels::Context::cpu(), kernels::BinaryOp::div, 1, x.numel(), {x.data<float>(), 0, 1},
                                 {&config.db_scale, 0, 0}, scaled.data<float>());
  adam_.zero_grad();
  const Variable loss = model_.loss(scaled, codes);
  loss.backward();
  adam_.step();
  return loss.item();
}

Trainer::Trainer(Qinco& model, const VectorSet& train, const VectorSet& val, const TrainOptions& options)
    : model_(model), train_(train), val_(val), options_(options), trainer_(model, options.lr) {
  const int64_t d = model.config().d;
  check(train.dim() == d && val.dim() == d, "training: expected vectors of d={}, found {} and {}", d, train.dim(),
        val.dim());
  options.validate();
  run_ = {options.batch_size, options.lr, options.cosine, options.seed, train.size(), val.size(), train.fingerprint()};
  progress_.schedule.lr = options.lr;
  fit_schedule();
}

// The centroid of every training vector, which does not change.
void Trainer::assign() {
  const QincoConfig& config = model_.config();
  centroids_of_.resize(static_cast<size_t>(train_.size()));
  const Tensor x = Tensor::empty({kValidationRows, config.d});
  for (int64_t begin = 0; begin < train_.size(); begin += kValidationRows) {
    const int64_t n = std::min(kValidationRows, train_.size() - begin);
    train_.copy(begin, begin + n, x.data<float>());
    const Tensor scaled = div(x.slice(0, 0, n), scalar(config.db_scale));
    kernels::table<float>().nearest(kernels::Context::cpu(), n, config.d, config.K_ivf, scaled.data<float>(),
                                    model_.codebook(0).value().data<float>(), centroids_of_.data() + begin, nullptr);
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
  return (train_.size() + options_.batch_size - 1) / options_.batch_size;
}

void Trainer::resume(const Checkpoint& c) {
  check_same("batch_size", run_.batch_size, c.run.batch_size);
  check_same("lr", run_.base_lr, c.run.base_lr);
  check_same("lr_schedule", schedule_name(run_.cosine), schedule_name(c.run.cosine));
  if (run_.cosine) check_same("max_epochs", options_.max_epochs, c.progress.schedule.max_epochs);
  check_same("seed", run_.seed, c.run.seed);
  check_same("nt", run_.nt, c.run.nt);
  check_same("nval", run_.nval, c.run.nval);
  check(run_.data == c.run.data, "training data: not what the checkpoint was made with");
  check(c.config.same_sizes(model_.config()) && c.config.db_scale == model_.config().db_scale,
        "checkpoint: the model has other sizes or another db_scale");
  check(c.progress.batch <= batches(), "checkpoint: expected at most {} batches an epoch, found {}", batches(),
        c.progress.batch);
  model_.load(c.parameters);
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
  if (model_.config().K_ivf > 0) assign();
  while (!progress_.schedule.finished()) {
    const Clock::time_point start = Clock::now();
    double val_mse = 0;
    const double seconds_before = progress_.seconds;
    const bool done = train_epoch(hooks) && validate(hooks, val_mse);
    progress_.seconds = seconds_before + seconds_since(start);
    if (!done) {
      save(true);
      return false;
    }
    finish_epoch(val_mse, hooks);
  }
  return true;
}

// The rest of the epoch's batches; false when stopped before its end.
bool Trainer::train_epoch(const TrainHooks& hooks) {
  const int64_t epoch = progress_.schedule.epochs + 1;
  if (progress_.batch == 0) trainer_.adam().reset_state();
  const int64_t nt = train_.size(), B = options_.batch_size;
  Random order_of_epoch(options_.seed, static_cast<uint64_t>(epoch));
  const std::vector<int32_t> order = order_of_epoch.permutation(nt);
  const Tensor rows = Tensor::empty({std::min(B, nt), train_.dim()});
  std::vector<int32_t> first(static_cast<size_t>(std::min(B, nt)));
  Clock::time_point saved = Clock::now();
  while (progress_.batch < batches()) {
    if (stop_requested(hooks)) return false;
    const Clock::time_point start = Clock::now();
    const int64_t begin = progress_.batch * B, n = std::min(B, nt - begin);
    const Tensor x = rows.slice(0, 0, n);
    train_.gather(n, order.data() + begin, x.data<float>());
    trainer_.adam().set_lr(lr_of_batch());
    for (int64_t i = 0; i < n && !centroids_of_.empty(); ++i) first[i] = centroids_of_[order[begin + i]];
    const double loss = trainer_.step(x, centroids_of_.empty() ? nullptr : first.data());
    check(std::isfinite(loss), "training diverged: loss {} in epoch {}: try a lower --lr", loss, epoch);
    progress_.loss_sum += loss * static_cast<double>(n);
    ++progress_.batch;
    progress_.train_seconds += seconds_since(start);
    if (hooks.batch) hooks.batch(begin + n, nt, loss);
    if (seconds_since(saved) > kCheckpointSeconds) {
      save(true);
      saved = Clock::now();
    }
  }
  return true;
}

bool Trainer::validate(const TrainHooks& hooks, double& mse) {
  bool stopped = false;
  trainer_.codec().update(model_);
  mse = codec_mse(trainer_.codec(), val_, [&] { return stopped = stop_requested(hooks); });
  return !stopped;
}

void Trainer::finish_epoch(double val_mse, const TrainHooks& hooks) {
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

double codec_mse(const Codec& codec, const VectorSet& vectors, const std::function<bool()>& stop) {
  const int64_t d = vectors.dim();
  const Tensor x = Tensor::empty({kValidationRows, d});
  const Tensor xhat = Tensor::empty({kValidationRows, d});
  const Tensor codes = Tensor::empty({kValidationRows, codec.config().codes()}, DType::i32);
  double total = 0;
  for (int64_t begin = 0; begin < vectors.size(); begin += kValidationRows) {
    if (stop && stop()) return std::nan("");
    const int64_t n = std::min(kValidationRows, vectors.size() - begin);
    vectors.copy(begin, begin + n, x.data<float>());
    codec.encode(n, x.data<float>(), codes.data<int32_t>(), xhat.data<float>());
    total += sum_squared_difference(x.slice(0, 0, n), xhat.slice(0, 0, n));
  }
  return total / static_cast<double>(vectors.size());
}

}  // namespace qinco
