#include "qinco/io/model_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/check.h"
#include "qinco/io/torch_file.h"
#include "tensor/file.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using Metadata = std::map<std::string, std::string>;

const std::string& metadata_text(const std::string& path, const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  check(found != metadata.end(), "{}: no '{}' in the metadata", path, key);
  check(is_printable(found->second), "{}: metadata '{}': unprintable: {}", path, key, quote(found->second));
  return found->second;
}

template <class T>
T metadata_number(const std::string& path, const Metadata& metadata, const std::string& key, const char* kind) {
  const std::string& text = metadata_text(path, metadata, key);
  T value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  check(error == std::errc() && stop == end, "{}: metadata '{}': expected {}, found '{}'", path, key, kind, text);
  return value;
}

QincoConfig config_from(const std::string& path, const Metadata& metadata) {
  const std::string& format = metadata_text(path, metadata, "format");
  check(format == "qinco", "{}: expected a file of format 'qinco', found '{}'", path, format);
  const std::string& variant = metadata_text(path, metadata, "variant");
  check(variant != "qinco2", "{}: a QINCo2 checkpoint: info knows it, nothing else yet", path);
  const bool known = variant == "qinco" || variant == "qinco-lr" || variant == "ivf-qinco";
  check(known, "{}: expected variant 'qinco', 'qinco-lr' or 'ivf-qinco', found '{}'", path, variant);
  QincoConfig config;
  config.d = metadata_int(path, metadata, "d");
  config.M = metadata_int(path, metadata, "M");
  config.K = metadata_int(path, metadata, "K");
  config.L = metadata_int(path, metadata, "L");
  config.h = metadata_int(path, metadata, "h");
  config.lowrank = variant == "qinco-lr";
  if (variant == "ivf-qinco") {
    config.K_ivf = metadata_int(path, metadata, "K_ivf");
    check(config.K_ivf >= 1, "{}: metadata 'K_ivf': expected 1 or more, found {}", path, config.K_ivf);
  }
  check(metadata.count("db_scale") > 0,  // of PyTorch's state dicts, say
        "{}: db_scale is not known: `qinco convert {} MODEL.safetensors --db_scale S` adds it", path, path);
  config.db_scale = metadata_number<float>(path, metadata, "db_scale", "a number");
  config.validate();
  return config;
}

// The parameters in f32; the sizes are compared before a model of these sizes is made.
TensorMap parameters_from(const std::string& path, const QincoConfig& config, const TensorMap& tensors) {
  int64_t found = 0;
  for (const auto& [name, tensor] : tensors) found = checked_add(found, tensor.numel(), "tensors");
  const int64_t expected = config.parameter_count();
  check(found == expected, "{}: expected {} parameters for {} d={} M={} K={} L={} h={}, found {}", path, expected,
        config.variant(), config.d, config.M, config.K, config.L, config.h, found);
  TensorMap parameters;
  for (const auto& [name, tensor] : tensors) {
    check(is_printable(name), "{}: a tensor's name is unprintable: {}", path, quote(name));
    parameters.emplace(name, finite_floats(path, name, tensor));
  }
  return parameters;
}

}  // namespace

Tensor finite_floats(const std::string& path, const std::string& name, const Tensor& tensor) {
  const DType dtype = tensor.dtype();
  check(dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16,
        "{}: tensor '{}': expected a floating dtype, found {}", path, name, qinco::name(dtype));
  const Tensor values = tensor.to(DType::f32).contiguous();
  const float* const x = values.data<float>();
  const bool finite = std::all_of(x, x + values.numel(), [](float value) { return std::isfinite(value); });
  check(finite, "{}: tensor '{}' holds NaN or infinity", path, name);
  return values;
}

int64_t metadata_int(const std::string& path, const Metadata& metadata, const std::string& key) {
  return metadata_number<int64_t>(path, metadata, key, "an integer");
}

double metadata_double(const std::string& path, const Metadata& metadata, const std::string& key) {
  const double value = metadata_number<double>(path, metadata, key, "a number");
  check(std::isfinite(value), "{}: metadata '{}': expected a finite number, found {}", path, key, value);
  return value;
}

std::map<std::string, std::string> model_metadata(const QincoConfig& config) {
  std::map<std::string, std::string> metadata = {
      {"format", "qinco"},
      {"variant", config.variant()},
      {"d", fmt::to_string(config.d)},
      {"M", fmt::to_string(config.M)},
      {"K", fmt::to_string(config.K)},
      {"L", fmt::to_string(config.L)},
      {"h", fmt::to_string(config.h)},
      {"db_scale", fmt::to_string(config.db_scale)}};  // the shortest text that reads back the same float
  if (config.K_ivf > 0) metadata["K_ivf"] = fmt::to_string(config.K_ivf);
  return metadata;
}

Qinco model_from(const std::string& path, const Metadata& metadata, const TensorMap& tensors) {
  try {
    const QincoConfig config = config_from(path, metadata);
    const TensorMap parameters = parameters_from(path, config, tensors);
    Random unused(0);
    Qinco model(config, unused);
    model.load(parameters);
    return model;
  } catch (const Error& error) {  // what the model itself says does not know the file
    const std::string message = error.what();
    if (message.rfind(fmt::format("{}:", path), 0) == 0) throw;
    fail("{}: {}", path, message);
  }
}

void save_model(const std::string& path, const Qinco& model) {
  write_safetensors(path, {model.state(), model_metadata(model.config())});
}

ModelContents read_model_file(const std::string& path) {
  if (is_torch_file(path)) return read_torch_file(path);
  SafetensorsFile file = read_safetensors(path);
  return {"safetensors", std::move(file.metadata), std::move(file.tensors)};
}

Qinco load_model(const std::string& path) {
  const ModelContents contents = read_model_file(path);
  return model_from(path, contents.metadata, contents.tensors);
}

}  // namespace qinco
