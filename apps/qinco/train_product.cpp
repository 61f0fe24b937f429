// qinco train --nsub: the parts of a PQ-QINCo model, one after the other.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fmt/format.h>
#include <system_error>
#include <utility>
#include <vector>

#include "apps/qinco/claim.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "apps/qinco/train_run.h"
#include "qinco/io/model_file.h"
#include "qinco/io/product_file.h"
#include "qinco/quantizers/pq.h"
#include "tensor/npy.h"

namespace qinco::app {
namespace {

constexpr int64_t kRotateRows = 4096;
constexpr int64_t kRotationPoints = 256;  // vectors per codeword that a rotation is trained on

std::string rotation_path(const TrainArguments& arguments) {
  return arguments.model + ".opq.npy";
}

TrainArguments part_arguments(const TrainArguments& arguments, int64_t j) {
  TrainArguments part = arguments;
  part.model = fmt::format("{}.sub{}", arguments.model, j);
  if (!arguments.checkpoint.empty()) part.checkpoint = fmt::format("{}.sub{}", arguments.checkpoint, j);
  part.nsub = 1;
  part.opq = false;
  return part;
}

/// The rotation of the run that is resumed, or one trained on a sample of the vectors and kept for that.
Tensor make_rotation(const Common& common, const TrainArguments& arguments, const VectorSet& train,
                     const StopSignals& signals) {
  const std::string path = rotation_path(arguments);
  if (arguments.resume) {
    const Tensor rotation = read_npy(path).clone();
    const Shape expected{train.dim(), train.dim()};
    check(rotation.dtype() == DType::f32 && rotation.shape() == expected, "{}: {} {}, expected f32 {}", path,
          name(rotation.dtype()), rotation.shape(), expected);
    return rotation;
  }
  const int64_t K = arguments.K.value_or(QincoConfig().K);
  const Tensor x = train.sample(kRotationPoints * K).to(common.device());
  PqOptions options;
  options.seed = common.seed;
  Progress progress(common.text(), "OPQ", options.opq_iterations, "rotations");
  options.on_step = [&](int64_t done, int64_t) {
    progress.update(done);
    stop_if_asked(signals);
  };
  const Tensor rotation =
      train_opq_rotation(common.context(), x.size(0), x.size(1), x.data<float>(), arguments.nsub, K, options);
  write_npy(path, rotation);
  return rotation;
}

/// Block j of the dimensions, rotated, by the CPU, if there is a rotation.
VectorSet part_of(const VectorSet& vectors, const Tensor& rotation, int64_t j, int64_t nsub) {
  const int64_t n = vectors.size(), d = vectors.dim(), width = d / nsub;
  if (!rotation.defined()) return vectors.columns(j * width, (j + 1) * width);
  const Tensor rows = rotation.slice(0, j * width, (j + 1) * width), out = Tensor::empty({n, width});
  std::vector<float> block(static_cast<size_t>(std::min(n, kRotateRows) * d));
  for (int64_t begin = 0; begin < n; begin += kRotateRows) {
    const int64_t end = std::min(n, begin + kRotateRows);
    vectors.copy(begin, end, block.data());
    rotate(kernels::Context::cpu(), rows, end - begin, block.data(), out.data<float>() + begin * width);
  }
  return VectorSet(out);
}

/// The results of the parts, and of them together: blocks are orthogonal, so that errors add up.
Json combined_results(const TrainArguments& arguments, const ProductQinco& model, const Json& parts) {
  Json all = {{"model", arguments.model}, {"variant", model.variant()},
              {"nsub", model.nsub()},     {"opq", arguments.opq},
              {"d", model.d()},           {"M", model.M()},
              {"K", model.K()},           {"db_scale", Json::array()},
              {"rq_val_mse", 0.0},        {"best_val_mse", 0.0},
              {"epochs", Json::array()}};
  for (const char* key :
       {"nt", "nval", "L", "h", "batch_size", "lr", "lr_schedule", "precision", "beam_size", "candidates", "seed"})
    all[key] = parts[0][key];  // of every part
  double seconds = 0;          // for one vector through all parts
  for (size_t j = 0; j < parts.size(); ++j) {
    const Json& part = parts[j];
    for (const char* key : {"rq_val_mse", "best_val_mse"}) all[key] = all[key].get<double>() + part[key].get<double>();
    all["db_scale"].push_back(part["db_scale"]);
    seconds += 1 / part["vectors_per_second"].get<double>();
    for (Json epoch : part["epochs"]) {
      epoch["sub_quantizer"] = j;
      all["epochs"].push_back(std::move(epoch));
    }
  }
  all["vectors_per_second"] = 1 / seconds;
  all["parameters"] = model.parameter_count();
  all["sub_quantizers"] = parts;
  for (Json& part : all["sub_quantizers"]) part.erase("epochs");
  return all;
}

/// What stands beside the model until it is whole, but for the checkpoints.
std::vector<std::string> part_files(const TrainArguments& arguments) {
  std::vector<std::string> files;
  for (int64_t j = 0; j < arguments.nsub; ++j) files.push_back(part_arguments(arguments, j).model);
  if (arguments.opq) files.push_back(rotation_path(arguments));
  return files;
}

/// Removes what only resuming needs.
void remove_parts(const TrainArguments& arguments) {
  for (int64_t j = 0; j < arguments.nsub; ++j) std::remove(part_arguments(arguments, j).checkpoint_path().c_str());
  for (const std::string& file : part_files(arguments)) std::remove(file.c_str());
}

/// A part's checkpoint may be of a run of its own, but not of one that --init_model began: there is no error of an RQ
/// to sum up.
void check_part(const Common& common, const TrainArguments& part) {
  const std::optional<Progression> progress = check_run(common, part);
  check(!progress || progress->from_rq,
        "{}: of a run that began with --init_model, expected one that began with an RQ, as parts do",
        part.checkpoint_path());
}

/// Nobody's file may be written over, and then removed, under a name that no option gives: not one of the options'
/// files, and, where a run begins, no file at all.
void check_part_files(const Common& common, const TrainArguments& arguments) {
  std::vector<std::string> files = part_files(arguments);
  for (int64_t j = 0; j < arguments.nsub; ++j) files.push_back(part_arguments(arguments, j).checkpoint_path());
  for (const auto& [option, path] : {std::pair("--training_data", &arguments.training_data),
                                     {"--model", &arguments.model},
                                     {"--checkpoint", &arguments.checkpoint},
                                     {"--json", &common.json}})
    for (const std::string& file : files)
      check(path->empty() || file_place(*path) != file_place(file),
            "{}: given as {}, and where a part of {} is kept until it is whole", *path, option, arguments.model);
  if (arguments.resume) return;
  for (const std::string& file : part_files(arguments)) {
    std::error_code unknown;
    check(!std::filesystem::exists(std::filesystem::symlink_status(file, unknown)),
          "{}: would be replaced by a part of {}: remove it, or name another --model", file, arguments.model);
  }
}

/// Throws Error where a part that is yet to begin has no db_scale of its own: what is given then is for all parts, and
/// those trained until then would have another.
void check_scales(const TrainArguments& arguments, const VectorSet& train, const Tensor& rotation) {
  for (int64_t j = 0; j < arguments.nsub; ++j) {
    const TrainArguments part = part_arguments(arguments, j);
    if (part.db_scale || (part.resume && has_checkpoint(part.checkpoint_path()))) continue;
    choose_db_scale(part, part_of(train, rotation, j, arguments.nsub), fmt::format("sub-quantizer {}", j + 1));
  }
}

/// At the end of its scope removes the rotation unless there is a checkpoint to go on with it from.
struct UnusedRotation {
  const TrainArguments& arguments;

  ~UnusedRotation() {
    if (arguments.opq && !has_checkpoint(part_arguments(arguments, 0).checkpoint_path()))
      std::remove(rotation_path(arguments).c_str());
  }
};

}  // namespace

void check_product_run(const Common& common, const TrainArguments& arguments) {
  check_writable(arguments.model);
  for (int64_t j = 0; j < arguments.nsub; ++j) check_part(common, part_arguments(arguments, j));
  check(!arguments.resume || has_checkpoint(part_arguments(arguments, 0).checkpoint_path()),
        "{}: no checkpoint to go on from", part_arguments(arguments, 0).checkpoint_path());
  check_part_files(common, arguments);
}

Json train_product(const Common& common, const TrainArguments& arguments, const Split& data, const StopSignals& signals,
                   const std::string& resume_command) {
  const int64_t d = data.train.dim(), nsub = arguments.nsub;
  check(d % nsub == 0, "{}: dimension {} is not a multiple of --nsub {}", arguments.training_data, d, nsub);
  ProductQinco model;
  if (arguments.opq) model.rotation = make_rotation(common, arguments, data.train, signals);
  const UnusedRotation unused{arguments};
  check_scales(arguments, data.train, model.rotation);
  Json results = Json::array();
  for (int64_t j = 0; j < nsub; ++j) {
    TrainArguments part = part_arguments(arguments, j);
    const Claim checkpoint(part.checkpoint_path()), part_model(part.model);
    part.resume = arguments.resume && has_checkpoint(part.checkpoint_path());
    if (!part.resume) check_run(common, part);  // again: since then, a run of its own may have left a checkpoint
    common.print("sub-quantizer {} of {}", j + 1, nsub);
    const Split split{part_of(data.train, model.rotation, j, nsub), part_of(data.val, model.rotation, j, nsub)};
    results.push_back(train_model(common, part, split, {signals, resume_command, j > 0}));
    model.parts.push_back(load_model(part.model));
  }
  save_product(arguments.model, model);
  Json all = combined_results(arguments, model, results);
  common.print("PQ-QINCo {}x{}x{}: validation MSE {:.6g} (RQ {:.6g}): {}", nsub, model.M(), model.K(),
               all["best_val_mse"].get<double>(), all["rq_val_mse"].get<double>(), arguments.model);
  remove_parts(arguments);
  return all;
}

}  // namespace qinco::app
