#include "qinco/io/model_file.h"

#include <charconv>
#include <cmath>
#include <fmt/format.h>
#include <set>

#include "kernels/check.h"
#include "qinco/io/torch_file.h"
#include "tensor/blocks.h"

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

/// Whether the tensors are those of a model of these sizes: their number of elements first, then names and shapes.
void check_shapes(const std::string& path, const QincoConfig& config, const TensorMap& tensors) {
  int64_t found = 0;
  for (const auto& [name, tensor] : tensors) found = checked_add(found, tensor.numel(), "tensors");
  const int64_t expected = config.parameter_count();
  check(found == expected, "{}: expected {} parameters for {} d={} M={} K={} L={} h={}, found {}", path, expected,
        config.variant(), config.d, config.M, config.K, config.L, config.h, found);
  std::set<std::string> known;
  for_each_parameter(config, [&](const std::string& name, const Shape& shape) {
    const auto tensor = tensors.find(name);
    check(tensor != tensors.end(), "{}: no tensor '{}'", path, name);
    check(tensor->second.shape() == shape, "{}: tensor '{}': expected {}, found {}", path, name, shape,
          tensor->second.shape());
    known.insert(name);
  });
  for (const auto& [name, tensor] : tensors)
    check(known.count(name) > 0, "{}: unexpected tensor {}", path, quote(name));
}

/// Calls body(); what a model itself says does not know the file, whose path goes in front.
template <class Body>
auto naming(const std::string& path, Body&& body) {
  try {
    return body();
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(fmt::format("{}:", path), 0) == 0) throw;
    fail("{}: {}", path, message);
  }
}

}  // namespace

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

void check_values(const std::string& path, const std::string& name, const Tensor& tensor, const MappedFile* file) {
  const DType dtype = tensor.dtype();
  check(dtype == DType::f32 || dtype == DType::f64 || dtype == DType::f16 || dtype == DType::bf16,
        "{}: tensor '{}': expected a floating dtype, found {}", path, name, qinco::name(dtype));
  for_blocks(tensor, file, [&](const Tensor& block) {
    const Tensor values = block.to(DType::f32).reshape({-1});
    const float* const value = values.data<float>();
    const int64_t count = values.numel();
    bool finite = true;
    for (int64_t i = 0; i < count; ++i) finite &= std::isfinite(value[i]);
    for (int64_t i = 0; !finite && i < count; ++i) {
      const auto stored = block.reshape({-1}).row(i).item<double>();
      check(std::isfinite(stored), "{}: tensor '{}' holds NaN or infinity", path, name);
      check(std::isfinite(value[i]), "{}: tensor '{}' holds {}, beyond float32", path, name, stored);
    }
  });
}

QincoConfig check_parameters(const std::string& path, const Metadata& metadata, const TensorMap& tensors,
                             const MappedFile* file) {
  return naming(path, [&] {
    const QincoConfig config = config_from(path, metadata);
    check_shapes(path, config, tensors);
    for (const auto& [name, tensor] : tensors) check_values(path, name, tensor, file);
    return config;
  });
}

Qinco model_from(const std::string& path, const Metadata& metadata, const TensorMap& tensors) {
  const QincoConfig config = check_parameters(path, metadata, tensors, nullptr);
  return naming(path, [&] {
    TensorMap parameters;
    for (const auto& [name, tensor] : tensors) parameters.emplace(name, tensor.to(DType::f32));
    Random unused(0);
    Qinco model(config, unused);
    model.load(parameters);
    return model;
  });
}

void save_model(const std::string& path, const Qinco& model) {
  write_safetensors(path, {model.state(), model_metadata(model.config())});
}

ModelContents read_model_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  if (is_torch_file(*file)) return read_torch_file(file);
  SafetensorsFile read = read_safetensors(file);
  return {"safetensors", std::move(read.metadata), std::move(read.tensors), file};
}

Qinco load_model(const std::string& path) {
  const ModelContents contents = read_model_file(path);
  return model_from(path, contents.metadata, contents.tensors);
}

}  // namespace qinco
