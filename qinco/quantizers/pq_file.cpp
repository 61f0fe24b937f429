#include <cmath>

#include "kernels/check.h"
#include "qinco/quantizers/pq.h"
#include "tensor/safetensors.h"

namespace qinco {
namespace {

/// The tensor f32 of `dims` dimensions, finite, in memory of our own.
Tensor take(const std::string& path, const SafetensorsFile& file, const std::string& name, int dims) {
  const auto found = file.tensors.find(name);
  check(found != file.tensors.end(), "{}: no tensor `{}`", path, name);
  const Tensor& stored = found->second;
  check(stored.dtype() == DType::f32 && stored.dim() == dims, "{}: `{}` is {} {}, expected f32 of {} dimensions", path,
        name, qinco::name(stored.dtype()), stored.shape().str(), dims);
  const float* const values = stored.data<float>();
  for (int64_t i = 0; i < stored.numel(); ++i)
    check(std::isfinite(values[i]), "{}: `{}` holds NaN or infinity", path, name);
  return stored.clone();
}

}  // namespace

void save_pq(const std::string& path, const ProductQuantizer& pq) {
  SafetensorsFile file;
  file.tensors["codebooks"] = pq.codebooks;
  if (pq.rotation.defined()) file.tensors["opq_matrix"] = pq.rotation;
  file.metadata = {
      {"format", "pq"}, {"d", std::to_string(pq.d())}, {"K", std::to_string(pq.K())}, {"M", std::to_string(pq.M())}};
  write_safetensors(path, file);
}

ProductQuantizer load_pq(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  const auto format = file.metadata.find("format");
  check(format != file.metadata.end() && format->second == "pq", "{}: metadata format is {}, expected pq", path,
        format == file.metadata.end() ? "missing" : format->second);
  ProductQuantizer pq{take(path, file, "codebooks", 3), {}};
  const bool sizes = pq.M() >= 1 && pq.d() >= 1 && pq.K() >= 2 && pq.K() <= 65536 && (pq.K() & (pq.K() - 1)) == 0;
  check(sizes, "{}: codebooks {}, expected M >= 1, K a power of two from 2 to 65536, d/M >= 1", path,
        pq.codebooks.shape().str());
  if (file.tensors.count("opq_matrix") == 0) return pq;
  pq.rotation = take(path, file, "opq_matrix", 2);
  const Shape expected{pq.d(), pq.d()};
  check(pq.rotation.shape() == expected, "{}: `opq_matrix` is {}, expected {}", path, pq.rotation.shape().str(),
        expected.str());
  return pq;
}

}  // namespace qinco
