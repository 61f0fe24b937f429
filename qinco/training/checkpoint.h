// What a training run needs to go on exactly where it stopped, in one safetensors file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "qinco/codec/codec.h"
#include "qinco/model/qinco.h"
#include "qinco/training/schedule.h"
#include "tensor/safetensors.h"

namespace qinco {

/// One finished epoch.
struct EpochRecord {
  int64_t epoch = 0;  // 1, 2, ...
  double lr = 0;
  double train_loss = 0;     // mean over the epoch's vectors, in scaled space, as it was before each update
  double val_mse = 0;        // original space
  double seconds = 0;        // of the whole epoch
  double train_seconds = 0;  // without the validation
  bool best = false;
};

/// What identifies a run: it must be the same when the run goes on.
struct RunIdentity {
  int64_t batch_size = 1024;
  double base_lr = 1e-3;
  bool cosine = false;
  kernels::Precision precision = kernels::Precision::exact;
  BeamSearch beam = {};
  uint64_t seed = 1;
  int64_t nt = 0;
  int64_t nval = 0;
  uint64_t data = 0;                      // VectorSet::fingerprint of the training vectors ..
  std::optional<uint64_t> val_data = {};  // .. and of those to validate on, which older checkpoints lack
};

/// How far a run is. Random numbers need no state: an epoch's order is a function of seed and epoch.
struct Progression {
  PlateauSchedule schedule;
  int64_t batch = 0;         // batches done in the epoch under way
  double loss_sum = 0;       // over the vectors of these batches
  double seconds = 0;        // spent in this epoch so far
  double train_seconds = 0;  // of those, on batches
  double start_mse = 0;      // validation MSE of what training started from ..
  bool from_rq = true;       // .. which is the RQ, or else a model
  std::vector<EpochRecord> history;
};

struct Checkpoint {
  RunIdentity run;
  Progression progress;
  QincoConfig config;
  TensorMap parameters;
  TensorMap optimizer;  // empty between epochs, where Adam starts afresh
};

/// Writes the checkpoint, atomically: a crash leaves the one before.
void save_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// Reads it back bit for bit; throws Error naming the file for anything but a whole and valid checkpoint.
Checkpoint load_checkpoint(const std::string& path);

}  // namespace qinco
