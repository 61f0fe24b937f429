#include "qinco/training/batch_trainer.h"

#include <span>
#include <utility>

#include "kernels/check.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco {

BatchTrainer::BatchTrainer(Qinco& model, double lr, kernels::Precision precision, const BeamSearch& beam)
    : model_(model),
      parameters_(model.parameters()),
      precision_(precision),
      codec_(model, precision, model.device(), beam),
      adam_(parameters_, {.lr = lr}),
      recording_(kernels::Recording::wanted(model.device())) {}

Tensor BatchTrainer::queue_step(const Tensor& x, const int32_t* known) {
  const int64_t n = x.size(0);
  const Tensor first = known ? from_span(std::span(known, static_cast<size_t>(n)), {n}) : Tensor();
  const bool same_size = n == std::exchange(last_size_, n);
  const bool again = first.defined() == std::exchange(last_first_, first.defined()) && same_size;
  adam_.zero_grad();
  last_was_recorded_ = recording_ && (is_recorded(n, first.defined()) || (again && record(x, first)));
  const Tensor loss = last_was_recorded_ ? queue_recorded(x, first) : queue_kernels(x, first);
  adam_.step();
  return loss;
}

Tensor BatchTrainer::queue_kernels(const Tensor& x, const Tensor& first) {
  const Device device = model_.device();
  const auto queue = [&] { return compute_gradients(x.to(device), first.defined() ? first.to(device) : Tensor()); };
  try {
    return queue();
  } catch (const OutOfMemory&) {
    if (!batch_.work) throw;
  }
  forget_recording();  // its memory may be what is missing
  adam_.zero_grad();
  return queue();
}

// Codes of the batch, and the gradients of its loss, which is returned. All is on the device.
Tensor BatchTrainer::compute_gradients(const Tensor& x, const Tensor& first) {
  const QincoConfig& config = model_.config();
  const int64_t n = x.size(0), M = config.codes();
  if (!codes_.defined() || codes_.numel() < n * M) codes_ = Tensor::empty({n * M}, DType::i32, x.device());
  const Tensor by_step = codes_.slice(0, 0, n * M).reshape({M, n});
  codec_.update_trained(model_);
  codec_.encode_on_device(n, x.data<float>(), by_step.data<int32_t>(),
                          first.defined() ? first.data<int32_t>() : nullptr);
  const Tensor scaled = div(x, scalar(static_cast<double>(config.db_scale), DType::f32, x.device()));
  const MatmulPrecision products(precision_);
  const Variable loss = model_.loss(scaled, by_step.transpose(0, 1));
  loss.backward();
  return loss.value();
}

bool BatchTrainer::is_recorded(int64_t n, bool first) const {
  if (!batch_.work || n != batch_.x.size(0) || first != batch_.first.defined()) return false;
  if (model_.config().db_scale != batch_.db_scale) return false;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].value().bytes() != batch_.values[i].bytes() ||
        parameters_[i].requires_grad() != batch_.trained[i])
      return false;
  return true;
}

// Whether it could be recorded.
bool BatchTrainer::record(const Tensor& x, const Tensor& first) {
  const Device device = model_.device();
  batch_ = {};
  try {
    Recorded made;
    made.x = x.clone(device);
    if (first.defined()) made.first = first.clone(device);
    made.work =
        std::make_unique<kernels::Recording>(device, [&] { made.loss = compute_gradients(made.x, made.first); });
    for (const Variable& parameter : parameters_) {
      made.gradients.push_back(parameter.grad());
      made.values.push_back(parameter.value());
      made.trained.push_back(parameter.requires_grad());
    }
    made.codes = codes_;
    made.db_scale = model_.config().db_scale;
    batch_ = std::move(made);
  } catch (const Error& error) {
    recording_ = false;
    recording_error_ = error.what();
  }
  adam_.zero_grad();
  return recording_;
}

Tensor BatchTrainer::queue_recorded(const Tensor& x, const Tensor& first) {
  batch_.x.copy_from(x);
  if (first.defined()) batch_.first.copy_from(first);
  batch_.work->queue();
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(batch_.gradients[i]);
  return batch_.loss.clone();
}

}  // namespace qinco
