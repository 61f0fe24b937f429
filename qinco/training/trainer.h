// The training loop: per batch, encode without gradients by the codec, then decode with gradients and one Adam step;
// per epoch, a new order of the vectors, the validation error, the schedule, the best model so far and a checkpoint.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qinco/codec/codec.h"
#include "qinco/model/qinco.h"
#include "qinco/training/batch_trainer.h"
#include "qinco/training/checkpoint.h"
#include "qinco/training/vector_set.h"

namespace qinco {

struct TrainOptions {
  int64_t batch_size = 1024;
  double lr = 1e-3;
  int64_t max_epochs = 1000;
  bool cosine = false;  // instead of the plateau rule, lr falls batch by batch along half a cosine, to lr / 100
  uint64_t seed = 1;
  kernels::Precision precision = kernels::Precision::exact;  // of the codes' search and of the products
  BeamSearch beam = {};                                      // the codes' search, in validation too
  std::string model_path = {};                               // where the best model so far is stored; empty: nowhere
  std::string checkpoint_path = {};                          // where to save every epoch and on a stop; empty: nowhere
  double checkpoint_seconds = 600;                           // and so often within a long epoch

  /// Throws Error naming the value unless batch_size is 1 or more, max_epochs 1 to 2^31 - 1, and lr finite and above 0.
  void validate() const;
};

/// What the caller may want to see or decide; all optional.
struct TrainHooks {
  // Asked between batches, and on a CPU once a second or so while one is encoded.
  std::function<bool()> stop_requested = {};
  // Vectors of this epoch; the batch's loss, or where a device is ahead of the host the last that is known, 0 at first.
  std::function<void(int64_t done, int64_t total, double loss)> batch = {};
  std::function<void(const EpochRecord&)> epoch = {};
};

/// Batches of a training set on a device.
class BatchReader {
 public:
  /// Puts all of the set into the device's memory where it takes no more than half of what is free; on the CPU, or
  /// where it does not fit, a batch's rows are gathered in the host's memory. Batches have at most `most` rows.
  BatchReader(const VectorSet& vectors, int64_t most, Device device);

  /// f32 [n,d] on the device: the rows ids [n], the host's. Valid until the next call.
  Tensor read(int64_t n, const int32_t* ids);

 private:
  const VectorSet& vectors_;
  Device device_;
  Tensor resident_;  // f32 [size,d] on the device, or undefined
  Tensor rows_;      // [most,d], the host's
};

/// One training run over fixed data, on the model's device. The model must outlive it.
class Trainer {
 public:
  Trainer(Qinco& model, const VectorSet& train, const VectorSet& val, const TrainOptions& options);

  /// Notes the validation error of the start: of the RQ behind an initial model (any first epoch counts as better than
  /// that, as its networks are still random), or of a trained model gone on from, which an epoch has to beat.
  void start_from(double mse, bool from_rq);

  /// Goes on from a checkpoint of the same run: sets the model's parameters. Throws Error naming what differs.
  void resume(const Checkpoint& checkpoint);

  /// Trains until the schedule ends (true) or a stop is requested (false): the checkpoint is saved as it was after the
  /// last whole batch. Same data, options and machine give the same bits, whether it was stopped on the way or not.
  /// Throws Error where a loss or a validation error is not finite, and removes the checkpoint.
  bool run(const TrainHooks& hooks = {});

  /// Why batches could not be recorded (batch_trainer.h); else empty.
  const std::string& recording_error() const { return trainer_.recording_error(); }

  const Progression& progress() const { return progress_; }
  const RunIdentity& identity() const { return run_; }

 private:
  void train_epoch(const TrainHooks& hooks);
  double validate();
  void finish_epoch(double val_mse, const TrainHooks& hooks);
  void save(bool mid_epoch);
  Tensor queue_batch(const std::vector<int32_t>& order, int64_t begin, int64_t n);
  double read_losses();
  void check_finite(const char* what, double value) const;
  int64_t batches() const;
  double lr_of_batch() const;
  void fit_schedule();
  void assign(const TrainHooks& hooks);

  Qinco& model_;
  const VectorSet& train_;
  const VectorSet& val_;
  TrainOptions options_;
  RunIdentity run_;
  Progression progress_;
  BatchTrainer trainer_;
  BatchReader reader_;
  std::chrono::steady_clock::time_point epoch_start_;  // as if the epoch had not been stopped on the way
  std::vector<std::pair<Tensor, int64_t>> unread_;     // losses still on the device, with their batches' sizes
  std::vector<int32_t> centroids_of_;                  // IVF-QINCo: the first code of every training vector, else empty
};

/// Mean ||x - xhat||^2 over the vectors, encoded by `codec`; ends with what its poll throws.
double codec_mse(const Codec& codec, const VectorSet& vectors);

}  // namespace qinco
