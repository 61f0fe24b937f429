// One training run of `qinco train`: a plain model, or one part of a PQ-QINCo model.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "apps/qinco/beam.h"
#include "apps/qinco/command.h"
#include "apps/qinco/signals.h"
#include "kernels/kernels.h"
#include "qinco/training/checkpoint.h"
#include "qinco/training/vector_set.h"

namespace qinco::app {

struct TrainArguments {
  std::string training_data, model, init_model, rq_codebooks, save_rq_codebooks, checkpoint;
  std::optional<int64_t> M, K, L, h;  // unset: the default, or what the model to go on from has
  std::optional<float> db_scale;
  bool lowrank = false;
  std::optional<int64_t> nt;
  int64_t nval = 10000;
  int64_t rq_beam_size = 1;
  double lr = 1e-3;
  std::string lr_schedule = "plateau";
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
  int64_t batch_size = 1024;
  int64_t max_epochs = 1000;
  bool resume = false;
  int64_t nsub = 1;
  bool opq = false;
  bool ivf = false;
  std::string ivf_centroids;

  std::string checkpoint_path() const { return checkpoint.empty() ? model + ".checkpoint" : checkpoint; }
};

// The rows of the file, split: the last nval of the nt + nval rows read are for validation.
struct Split {
  VectorSet train, val;
};

/// How a run may be stopped, and what to say then.
struct Stopping {
  const StopSignals& signals;
  std::string resume_command;
  bool parts_done = false;  // an earlier part's state is saved

  /// Throws Stopped if a signal has arrived: for the time before the first batch, when this run has nothing to save.
  void before_training() const;
};

/// The divisor of a new model's vectors: as given, or the largest training entry. Throws Error where that is not above
/// 0.
float choose_db_scale(const TrainArguments& arguments, const VectorSet& train,
                      const std::string& whose = "the training vectors");

/// Whether something is there that would be lost: an empty file holds nothing.
bool has_checkpoint(const std::string& path);

/// Before any work: throws Error unless the numbers make sense, everything that will be written can be, and nothing
/// worth keeping is in its place. Returns how far the run is that goes on.
std::optional<Progression> check_run(const Common& common, const TrainArguments& arguments);

/// Trains the model of `arguments` on `data` and returns the JSON results. The best model so far is in arguments.model,
/// the checkpoint stays. Throws Stopped, naming the command that goes on, once a signal has arrived.
Json train_model(const Common& common, const TrainArguments& arguments, const Split& data, const Stopping& stopping);

/// check_run for every part; throws Error, too, where a file of the user's has the name of a part's.
void check_product_run(const Common& common, const TrainArguments& arguments);
/// Trains the nsub models of PQ-QINCo on the blocks of the dimensions, after a rotation with --opq, and combines them
/// in arguments.model. Until then MODEL.opq.npy and, per part j, MODEL.sub{j} and its checkpoint are beside it.
Json train_product(const Common& common, const TrainArguments& arguments, const Split& data, const StopSignals& signals,
                   const std::string& resume_command);

}  // namespace qinco::app
