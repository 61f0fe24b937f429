#include "qinco/training/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <map>

#include "kernels/check.h"
#include "qinco/io/model_file.h"
#include "tensor/create.h"

namespace qinco {

namespace {

using Metadata = std::map<std::string, std::string>;

constexpr const char* kFormat = "qinco-checkpoint";
constexpr const char* kModel = "model.";
constexpr const char* kAdam = "adam.";
// Doubles are stored as tensors, so that they read back bit for bit, infinities included.
constexpr const char* kNumbers = "progress.numbers";  // lr, best, loss_sum, seconds, train_seconds, start_mse, base_lr
constexpr const char* kHistory = "progress.history";  // [epochs, 6]: lr, train_loss, val_mse, seconds, .., best
constexpr int64_t kNumberCount = 7;
constexpr int64_t kHistoryColumns = 6;

Metadata metadata_of(const Checkpoint& c) {
  Metadata metadata = model_metadata(c.config);
  metadata["format"] = kFormat;
  const auto put = [&](const char* key, int64_t value) { metadata[key] = fmt::to_string(value); };
  put("batch_size", c.run.batch_size);
  put("cosine", c.run.cosine);
  put("fast", c.run.precision == kernels::Precision::fast);
  put("beam_size", c.run.beam.size);
  put("candidates", c.run.beam.candidates);
  put("seed", static_cast<int64_t>(c.run.seed));
  put("nt", c.run.nt);
  put("nval", c.run.nval);
  put("data", static_cast<int64_t>(c.run.data));
  if (c.run.val_data) put("val_data", static_cast<int64_t>(*c.run.val_data));
  put("max_epochs", c.progress.schedule.max_epochs);
  put("epochs", c.progress.schedule.epochs);
  put("since_best", c.progress.schedule.since_best);
  put("since_change", c.progress.schedule.since_change);
  put("batch", c.progress.batch);
  put("from_rq", c.progress.from_rq);
  return metadata;
}

// An integer that counts something.
int64_t count(const std::string& path, const Metadata& metadata, const char* key) {
  const int64_t value = metadata_int(path, metadata, key);
  check(value >= 0, "{}: metadata '{}': expected 0 or more, found {}", path, key, value);
  return value;
}

const double* doubles(const std::string& path, const TensorMap& tensors, const char* name, const Shape& shape) {
  const auto found = tensors.find(name);
  check(found != tensors.end(), "{}: no tensor '{}'", path, name);
  const Tensor& x = found->second;
  check(x.dtype() == DType::f64 && x.shape() == shape, "{}: tensor '{}': expected f64 {}, found {} {}", path, name,
        shape, qinco::name(x.dtype()), x.shape());
  return x.data<double>();
}

Tensor history_tensor(const std::vector<EpochRecord>& history) {
  std::vector<double> values;
  for (const EpochRecord& e : history) {
    values.insert(values.end(),
                  {e.lr, e.train_loss, e.val_mse, e.seconds, e.train_seconds, static_cast<double>(e.best)});
  }
  return from_vector(values, {static_cast<int64_t>(history.size()), kHistoryColumns});
}

void read_progress(const std::string& path, const SafetensorsFile& file, Checkpoint& c) {
  Progression& p = c.progress;
  p.schedule.max_epochs = count(path, file.metadata, "max_epochs");
  p.schedule.epochs = count(path, file.metadata, "epochs");
  p.schedule.since_best = count(path, file.metadata, "since_best");
  p.schedule.since_change = count(path, file.metadata, "since_change");
  p.batch = count(path, file.metadata, "batch");
  p.from_rq = count(path, file.metadata, "from_rq") != 0;
  const double* v = doubles(path, file.tensors, kNumbers, {kNumberCount});
  p.schedule.lr = v[0], p.schedule.best = v[1], p.loss_sum = v[2], p.seconds = v[3], p.train_seconds = v[4];
  p.start_mse = v[5], c.run.base_lr = v[6];
  check(std::none_of(v, v + kNumberCount, [](double x) { return std::isnan(x); }), "{}: tensor '{}' holds a NaN", path,
        kNumbers);
  check(std::isfinite(v[0]) && v[0] > 0, "{}: expected a learning rate above 0, found {}", path, v[0]);
  v = doubles(path, file.tensors, kHistory, {p.schedule.epochs, kHistoryColumns});
  for (int64_t i = 0; i < p.schedule.epochs; ++i, v += kHistoryColumns)
    p.history.push_back({i + 1, v[0], v[1], v[2], v[3], v[4], v[5] != 0});
}

bool strip_prefix(std::string& name, const std::string& prefix) {
  if (name.rfind(prefix, 0) != 0) return false;
  name.erase(0, prefix.size());
  return true;
}

}  // namespace

void save_checkpoint(const std::string& path, const Checkpoint& c) {
  SafetensorsFile file{{}, metadata_of(c)};
  for (const auto& [name, tensor] : c.parameters) file.tensors.emplace(kModel + name, tensor);
  for (const auto& [name, tensor] : c.optimizer) file.tensors.emplace(kAdam + name, tensor);
  const Progression& p = c.progress;
  const std::vector<double> numbers = {p.schedule.lr,   p.schedule.best, p.loss_sum,   p.seconds,
                                       p.train_seconds, p.start_mse,     c.run.base_lr};
  file.tensors.emplace(kNumbers, from_vector(numbers));
  file.tensors.emplace(kHistory, history_tensor(p.history));
  write_safetensors(path, file);
}

Checkpoint load_checkpoint(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  Metadata metadata = file.metadata;
  check(metadata["format"] == kFormat, "{}: expected a file of format '{}', found '{}'", path, kFormat,
        metadata["format"]);
  Checkpoint c;
  for (const auto& [full_name, tensor] : file.tensors) {
    std::string name = full_name;
    if (strip_prefix(name, kModel)) {
      c.parameters.emplace(name, tensor);
    } else if (strip_prefix(name, kAdam)) {
      c.optimizer.emplace(name, tensor.clone());
    } else {
      check(name == kNumbers || name == kHistory, "{}: unexpected tensor '{}'", path, name);
    }
  }
  metadata["format"] = "qinco";
  const Qinco model = model_from(path, metadata, c.parameters);  // checks every parameter
  c.config = model.config();
  c.parameters = model.state();
  c.run.batch_size = count(path, metadata, "batch_size");
  c.run.cosine = count(path, metadata, "cosine") != 0;
  c.run.precision = count(path, metadata, "fast") != 0 ? kernels::Precision::fast : kernels::Precision::exact;
  if (metadata.count("beam_size") > 0) {  // older checkpoints lack it
    c.run.beam = {count(path, metadata, "beam_size"), count(path, metadata, "candidates")};
  } else {
    c.run.beam.candidates = c.config.K;
  }
  c.run.seed = static_cast<uint64_t>(metadata_int(path, metadata, "seed"));
  c.run.nt = count(path, metadata, "nt");
  c.run.nval = count(path, metadata, "nval");
  c.run.data = static_cast<uint64_t>(metadata_int(path, metadata, "data"));
  if (metadata.count("val_data") > 0) c.run.val_data = static_cast<uint64_t>(metadata_int(path, metadata, "val_data"));
  read_progress(path, file, c);
  return c;
}

}  // namespace qinco
