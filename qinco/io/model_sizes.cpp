#include "qinco/io/model_sizes.h"

#include <fmt/format.h>

#include "kernels/check.h"

namespace qinco {
namespace {

bool has(const TensorMap& tensors, const std::string& name) {
  return tensors.count(name) > 0;
}

bool has_below(const TensorMap& tensors, const std::string& prefix) {
  const auto first = tensors.lower_bound(prefix);
  return first != tensors.end() && first->first.rfind(prefix, 0) == 0;
}

/// The shape of a matrix that must be there.
const Shape& matrix(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  check(found != tensors.end(), "no tensor '{}': not a QINCo model", name);
  const Shape& shape = found->second.shape();
  check(shape.size() == 2, "tensor '{}' has shape {}, expected a matrix", name, shape);
  return shape;
}

int64_t count(const TensorMap& tensors, const std::string& prefix, int64_t first) {
  int64_t n = 0;
  while (has_below(tensors, fmt::format("{}{}.", prefix, first + n))) ++n;
  return n;
}

ModelSizes single_sizes(const TensorMap& tensors) {
  ModelSizes sizes;
  const Shape& codebook0 = matrix(tensors, "codebook0.weight");
  sizes.d = codebook0[1];
  sizes.K = codebook0[0];
  const bool ivf = has_below(tensors, "step0.");
  const int64_t steps = count(tensors, "step", ivf ? 0 : 1);
  sizes.M = ivf ? steps : steps + 1;
  sizes.variant = ivf ? "ivf-qinco" : "qinco";
  if (steps == 0) return sizes;
  const std::string step = ivf ? "step0." : "step1.";
  if (ivf) sizes.K_ivf = sizes.K;
  sizes.K = matrix(tensors, step + "codebook.weight")[0];
  sizes.L = count(tensors, step + "residual_block", 0);
  const bool lowrank = has(tensors, step + "MLPconcat.0.weight");
  if (lowrank) {
    sizes.h = matrix(tensors, step + "MLPconcat.0.weight")[0];
    if (!ivf) sizes.variant = "qinco-lr";
  } else if (sizes.L > 0) {
    sizes.h = matrix(tensors, step + "residual_block0.0.weight")[0];
  }
  return sizes;
}

/// The tensors named "PREFIX...", without that prefix.
TensorMap below(const TensorMap& tensors, const std::string& prefix) {
  TensorMap part;
  for (auto at = tensors.lower_bound(prefix); at != tensors.end() && at->first.rfind(prefix, 0) == 0; ++at)
    part.emplace(at->first.substr(prefix.size()), at->second);
  return part;
}

}  // namespace

std::string part_prefix(int64_t j) {
  return fmt::format("sub_quantizer_{}.", j);
}

ModelSizes infer_sizes(const TensorMap& tensors) {
  const int64_t nsub = count(tensors, "sub_quantizer_", 0);
  if (nsub == 0) return single_sizes(tensors);
  ModelSizes whole;
  whole.variant = "pq-qinco";
  for (int64_t j = 0; j < nsub; ++j) {
    whole.parts.push_back(single_sizes(below(tensors, part_prefix(j))));
    const ModelSizes &first = whole.parts.front(), &part = whole.parts.back();
    check(part.M == first.M && part.K == first.K, "sub_quantizer_{} has M={} K={}, sub_quantizer_0 has M={} K={}", j,
          part.M, part.K, first.M, first.K);
    whole.d = checked_add(whole.d, part.d, "d");
  }
  whole.M = whole.parts.front().M + (whole.parts.front().K_ivf > 0);
  whole.K = whole.parts.front().K;
  if (has(tensors, "opq_matrix")) {
    const Shape& rotation = matrix(tensors, "opq_matrix");
    check(rotation[0] == whole.d, "opq_matrix has {} rows, expected {}", rotation[0], whole.d);
    whole.d = rotation[1];
  }
  return whole;
}

std::map<std::string, std::string> size_metadata(const ModelSizes& sizes) {
  std::map<std::string, std::string> metadata = {{"format", "qinco"},
                                                 {"variant", sizes.variant},
                                                 {"d", fmt::to_string(sizes.d)},
                                                 {"M", fmt::to_string(sizes.M)},
                                                 {"K", fmt::to_string(sizes.K)}};
  if (sizes.parts.empty()) {
    metadata["L"] = fmt::to_string(sizes.L);
    metadata["h"] = fmt::to_string(sizes.h);
    if (sizes.K_ivf > 0) metadata["K_ivf"] = fmt::to_string(sizes.K_ivf);
    return metadata;
  }
  metadata["nsub"] = fmt::to_string(sizes.parts.size());
  for (size_t j = 0; j < sizes.parts.size(); ++j)
    for (const auto& [key, value] : size_metadata(sizes.parts[j]))
      if (key != "format") metadata[part_prefix(static_cast<int64_t>(j)) + key] = value;
  return metadata;
}

}  // namespace qinco
