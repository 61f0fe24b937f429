#include "qinco/io/product_file.h"

#include <map>
#include <utility>

#include "kernels/check.h"
#include "qinco/io/model_sizes.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"

namespace qinco {
namespace {

using Metadata = std::map<std::string, std::string>;

constexpr int64_t kMaxParts = 4096;
constexpr const char* kRotation = "opq_matrix";

/// The entries whose names start with `prefix`, taken out of `from`, under the rest of their names.
template <class Value>
std::map<std::string, Value> take_part(const std::string& prefix, std::map<std::string, Value>& from) {
  std::map<std::string, Value> part;
  for (auto at = from.lower_bound(prefix); at != from.end() && at->first.rfind(prefix, 0) == 0; at = from.erase(at))
    part.emplace(at->first.substr(prefix.size()), at->second);
  return part;
}

Tensor take_rotation(const std::string& path, TensorMap& tensors) {
  const auto found = tensors.find(kRotation);
  if (found == tensors.end()) return {};
  check(found->second.dim() == 2, "{}: {} is {}, expected [d_out,d]", path, kRotation, found->second.shape().str());
  const Tensor rotation = finite_floats(path, kRotation, found->second).clone();
  tensors.erase(found);
  return rotation;
}

void check_header(const std::string& path, const ProductQinco& model, const Metadata& about) {
  for (const auto& [key, found] : {std::pair("d", model.d()), std::pair("M", model.M()), std::pair("K", model.K())}) {
    const int64_t stated = metadata_int(path, about, key);
    check(stated == found, "{}: metadata '{}' says {}, the sub-quantizers have {}", path, key, stated, found);
  }
}

bool has_parts(const Metadata& metadata) {
  const auto variant = metadata.find("variant");
  return variant != metadata.end() && variant->second == "pq-qinco";
}

int64_t part_count(const std::string& path, const Metadata& metadata) {
  const int64_t nsub = metadata_int(path, metadata, "nsub");
  check(nsub >= 1 && nsub <= kMaxParts, "{}: nsub: expected 1 to {}, found {}", path, kMaxParts, nsub);
  return nsub;
}

/// Takes the parts out of `file`.
ProductQinco product_from(const std::string& path, ModelContents& file) {
  const int64_t nsub = part_count(path, file.metadata);
  ProductQinco model;
  for (int64_t j = 0; j < nsub; ++j) {
    Metadata metadata = take_part(part_prefix(j), file.metadata);
    metadata["format"] = "qinco";
    model.parts.push_back(model_from(path, metadata, take_part(part_prefix(j), file.tensors)));
  }
  model.rotation = take_rotation(path, file.tensors);
  if (!file.tensors.empty()) fail("{}: unexpected tensor {}", path, quote(file.tensors.begin()->first));
  try {
    model.validate();
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
  check_header(path, model, file.metadata);
  return model;
}

}  // namespace

void save_product(const std::string& path, const ProductQinco& model) {
  model.validate();
  if (std::string(model.variant()) != "pq-qinco") return save_model(path, model.parts.front());
  SafetensorsFile file;
  file.metadata = {{"format", "qinco"},
                   {"variant", model.variant()},
                   {"nsub", fmt::to_string(model.nsub())},
                   {"d", fmt::to_string(model.d())},
                   {"M", fmt::to_string(model.M())},
                   {"K", fmt::to_string(model.K())}};
  for (int64_t j = 0; j < model.nsub(); ++j) {
    const Qinco& part = model.parts[static_cast<size_t>(j)];
    for (const auto& [key, value] : model_metadata(part.config()))
      if (key != "format") file.metadata[part_prefix(j) + key] = value;
    for (const auto& [name, tensor] : part.state()) file.tensors[part_prefix(j) + name] = tensor;
  }
  if (model.rotation.defined()) file.tensors[kRotation] = model.rotation;
  write_safetensors(path, file);
}

ProductQinco load_product(const std::string& path) {
  ModelContents file = read_model_file(path);
  if (has_parts(file.metadata)) return product_from(path, file);
  ProductQinco model;
  model.parts.push_back(model_from(path, file.metadata, file.tensors));
  return model;
}

void check_model(const std::string& path, const ModelContents& contents) {
  ModelContents file = contents;  // shares the tensors
  if (has_parts(file.metadata)) {
    product_from(path, file);
  } else if (const auto variant = file.metadata.find("variant");
             variant == file.metadata.end() || variant->second != "qinco2") {
    model_from(path, file.metadata, file.tensors);
  }
}

std::vector<std::string> scale_keys(const std::string& path, const Metadata& metadata) {
  if (!has_parts(metadata)) return {"db_scale"};
  std::vector<std::string> keys;
  for (int64_t j = 0; j < part_count(path, metadata); ++j) keys.push_back(part_prefix(j) + "db_scale");
  return keys;
}

}  // namespace qinco
