#include "qinco/io/model_sizes.h"

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
  check(shape.size() == 2, "tensor '{}' has shape {}, expected a matrix", name, shape.str());
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
  if (ivf) sizes.K_IVF = sizes.K;
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

ModelSizes infer_sizes(const TensorMap& tensors) {
  const int64_t nsub = count(tensors, "sub_quantizer_", 0);
  if (nsub == 0) return single_sizes(tensors);
  ModelSizes sizes = single_sizes(below(tensors, "sub_quantizer_0."));
  for (int64_t j = 1; j < nsub; ++j) {
    const ModelSizes other = single_sizes(below(tensors, fmt::format("sub_quantizer_{}.", j)));
    const bool same = other.variant == sizes.variant && other.d == sizes.d && other.M == sizes.M &&
                      other.K == sizes.K && other.L == sizes.L && other.h == sizes.h;
    check(same, "sub_quantizer_{} has other sizes than sub_quantizer_0", j);
  }
  sizes.variant = "pq-qinco";
  sizes.nsub = nsub;
  sizes.d = checked_mul(sizes.d, nsub, "d");
  sizes.M = checked_mul(sizes.M, nsub, "M");
  sizes.opq = has(tensors, "opq_matrix");
  return sizes;
}

std::map<std::string, std::string> size_metadata(const ModelSizes& sizes) {
  std::map<std::string, std::string> metadata = {{"format", "qinco"},
                                                 {"variant", sizes.variant},
                                                 {"d", fmt::to_string(sizes.d)},
                                                 {"M", fmt::to_string(sizes.M)},
                                                 {"K", fmt::to_string(sizes.K)},
                                                 {"L", fmt::to_string(sizes.L)},
                                                 {"h", fmt::to_string(sizes.h)}};
  if (sizes.K_IVF > 0) metadata["K_IVF"] = fmt::to_string(sizes.K_IVF);
  if (sizes.nsub > 0) metadata["nsub"] = fmt::to_string(sizes.nsub), metadata["opq"] = sizes.opq ? "true" : "false";
  return metadata;
}

}  // namespace qinco
