#include "qinco/io/product_file.h"

#include <fmt/format.h>
#include <functional>
#include <map>
#include <utility>

#include "kernels/check.h"
#include "qinco/io/model_sizes.h"
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

/// The rotation as it is stored, checked; undefined if there is none.
Tensor take_rotation(const std::string& path, ModelContents& contents) {
  const auto found = contents.tensors.find(kRotation);
  if (found == contents.tensors.end()) return {};
  const Tensor rotation = found->second;
  check(rotation.dim() == 2, "{}: {} is {}, expected [d_out,d]", path, kRotation, rotation.shape());
  check_values(path, kRotation, rotation, contents.file.get());
  contents.tensors.erase(found);
  return rotation;
}

/// The sizes that the metadata states for the whole model.
void check_header(const std::string& path, const std::vector<QincoConfig>& parts, const Tensor& rotation,
                  const Metadata& about) {
  int64_t d = 0;
  for (const QincoConfig& part : parts) d += part.d;
  if (rotation.defined()) d = rotation.size(1);
  for (const auto& [key, found] :
       {std::pair("d", d), std::pair("M", parts.front().codes()), std::pair("K", parts.front().K)}) {
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

/// Called with the metadata and the tensors of a part; checks them and returns its sizes.
using PartVisitor = std::function<QincoConfig(const Metadata& metadata, const TensorMap& tensors)>;

/// Takes `contents` apart: calls visit for every part, checks that they fit together, and returns the rotation as it is
/// stored.
Tensor visit_parts(const std::string& path, ModelContents contents, const PartVisitor& visit) {
  const int64_t nsub = part_count(path, contents.metadata);
  std::vector<QincoConfig> parts;
  for (int64_t j = 0; j < nsub; ++j) {
    Metadata metadata = take_part(part_prefix(j), contents.metadata);
    metadata["format"] = "qinco";
    parts.push_back(visit(metadata, take_part(part_prefix(j), contents.tensors)));
  }
  const Tensor rotation = take_rotation(path, contents);
  if (!contents.tensors.empty()) fail("{}: unexpected tensor {}", path, quote(contents.tensors.begin()->first));
  try {
    check_product(parts, rotation);
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
  check_header(path, parts, rotation, contents.metadata);
  return rotation;
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
  ModelContents contents = read_model_file(path);
  ProductQinco model;
  const auto add_part = [&](const Metadata& metadata, const TensorMap& tensors) {
    model.parts.push_back(model_from(path, metadata, tensors));
    return model.parts.back().config();
  };
  if (has_parts(contents.metadata)) {
    const Tensor rotation = visit_parts(path, std::move(contents), add_part);
    if (rotation.defined()) model.rotation = rotation.to(DType::f32).clone();
  } else {
    add_part(contents.metadata, contents.tensors);
  }
  return model;
}

void check_model(const std::string& path, const ModelContents& contents) {
  const auto check_part = [&](const Metadata& metadata, const TensorMap& tensors) {
    return check_parameters(path, metadata, tensors, contents.file.get());
  };
  const auto variant = contents.metadata.find("variant");
  if (has_parts(contents.metadata))
    visit_parts(path, contents, check_part);
  else if (variant == contents.metadata.end() || variant->second != "qinco2")
    check_part(contents.metadata, contents.tensors);
}

std::vector<std::string> scale_keys(const std::string& path, const Metadata& metadata) {
  if (!has_parts(metadata)) return {"db_scale"};
  std::vector<std::string> keys;
  for (int64_t j = 0; j < part_count(path, metadata); ++j) keys.push_back(part_prefix(j) + "db_scale");
  return keys;
}

}  // namespace qinco
