// One batch of training: codes without gradients by the codec, the loss of what they decode to, its gradients, Adam.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "autograd/optim/optimizer.h"
#include "kernels/recording.h"
#include "qinco/codec/codec.h"
#include "qinco/model/qinco.h"

namespace qinco {

/// Adam on the training loss of one batch after the other (spec: fresh moments every epoch), on the model's device.
class BatchTrainer {
 public:
  /// `precision` is that of the search for codes and of the products, forward and backward. When IVF-QINCo's centroids
  /// change, tell codec().update().
  BatchTrainer(Qinco& model, double lr, kernels::Precision precision = kernels::Precision::exact,
               const BeamSearch& beam = {});

  /// One step on x [n,d] in the original space; returns the loss before it. `first` [n], unless null, are the known
  /// first codes, the host's.
  double step(const Tensor& x, const int32_t* first = nullptr) { return queue_step(x, first).item<double>(); }
  /// The same without waiting for the device: the loss is a tensor of shape [] there. Where Recording::wanted, what
  /// comes before Adam is recorded at the second of two batches of one size in a row, and queued as a whole for batches
  /// of that size from then on: the same bits, and gradients in memory that the next batch overwrites. Where it cannot
  /// be recorded, recording_error() says why, and all is as if not wanted. A batch of another size that lacks memory is
  /// tried again without the recording.
  Tensor queue_step(const Tensor& x, const int32_t* first = nullptr);
  /// Gives back the memory of what is recorded, if anything is.
  void forget_recording() { batch_ = {}; }
  optim::Adam& adam() { return adam_; }
  /// Compiled from the parameters as they were before the last step.
  Codec& codec() { return codec_; }
  /// Whether the last batch was queued as a whole.
  bool recorded() const { return last_was_recorded_; }
  const std::string& recording_error() const { return recording_error_; }

 private:
  // A batch's work up to the gradients, for any batch of the size of `x`. What the work was given is kept, and is what
  // it is good for.
  struct Recorded {
    Tensor x, first;                // where a batch has to be
    Tensor loss;                    // and what it leaves
    std::vector<Tensor> gradients;  // of parameters_; undefined where there is none
    std::vector<Tensor> values;     // of parameters_ then
    std::vector<bool> trained;      // which of them were not frozen then
    Tensor codes;                   // codes_ then
    float db_scale = 0;
    std::unique_ptr<kernels::Recording> work;
  };

  Tensor queue_kernels(const Tensor& x, const Tensor& first);
  Tensor compute_gradients(const Tensor& x, const Tensor& first);
  bool is_recorded(int64_t n, bool first) const;
  bool record(const Tensor& x, const Tensor& first);
  Tensor queue_recorded(const Tensor& x, const Tensor& first);

  Qinco& model_;
  std::vector<Variable> parameters_;
  kernels::Precision precision_;
  Codec codec_;
  optim::Adam adam_;
  Tensor codes_;  // i32, room for those of the largest batch, step by step
  bool recording_, last_was_recorded_ = false;
  std::string recording_error_;
  int64_t last_size_ = 0;
  bool last_first_ = false;
  Recorded batch_;
};

}  // namespace qinco
