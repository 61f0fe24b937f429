// The files of residual and product quantizers: safetensors.
#include <cmath>
#include <map>
#include <string>

#include "kernels/check.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"
#include "tensor/safetensors.h"

namespace qinco {
namespace {

std::map<std::string, std::string> metadata_of(const std::string& format, int64_t d, int64_t K, int64_t M) {
  return {{"format", format}, {"d", std::to_string(d)}, {"K", std::to_string(K)}, {"M", std::to_string(M)}};
}

SafetensorsFile read_quantizer(const std::string& path, const std::string& format) {
  SafetensorsFile file = read_safetensors(path);
  const auto found = file.metadata.find("format");
  check(found != file.metadata.end() && found->second == format, "{}: metadata format is {}, expected {}", path,
        found == file.metadata.end() ? "missing" : found->second, format);
  return file;
}

/// The tensor f32 of `dims` dimensions, finite, in memory of our own.
Tensor take(const std::string& path, const SafetensorsFile& file, const std::string& name, int dims) {
  const auto found = file.tensors.find(name);
  check(found != file.tensors.end(), "{}: no tensor `{}`", path, name);
  const Tensor& stored = found->second;
  check(stored.dtype() == DType::f32 && stored.dim() == dims, "{}: `{}` is {} {}, expected f32 of {} dimensions", path,
        name, qinco::name(stored.dtype()), stored.shape(), dims);
  const float* const values = stored.data<float>();
  for (int64_t i = 0; i < stored.numel(); ++i)
    check(std::isfinite(values[i]), "{}: `{}` holds NaN or infinity", path, name);
  return stored.clone();
}

/// Codebooks [M,K,width] of a quantizer.
Tensor take_codebooks(const std::string& path, const SafetensorsFile& file) {
  Tensor codebooks = take(path, file, "codebooks", 3);
  const int64_t K = codebooks.size(1);
  const bool sizes = codebooks.size(0) >= 1 && K >= 2 && K <= 65536 && (K & (K - 1)) == 0 && codebooks.size(2) >= 1;
  check(sizes, "{}: codebooks {}, expected M >= 1, K a power of two from 2 to 65536, and a width >= 1", path,
        codebooks.shape());
  return codebooks;
}

}  // namespace

void save_rq(const std::string& path, const ResidualQuantizer& rq) {
  write_safetensors(path, {{{"codebooks", rq.codebooks}}, metadata_of("rq", rq.d(), rq.K(), rq.M())});
}

ResidualQuantizer load_rq(const std::string& path) {
  return {take_codebooks(path, read_quantizer(path, "rq"))};
}

void save_pq(const std::string& path, const ProductQuantizer& pq) {
  SafetensorsFile file{{{"codebooks", pq.codebooks}}, metadata_of("pq", pq.d(), pq.K(), pq.M())};
  if (pq.rotation.defined()) file.tensors["opq_matrix"] = pq.rotation;
  write_safetensors(path, file);
}

ProductQuantizer load_pq(const std::string& path) {
  const SafetensorsFile file = read_quantizer(path, "pq");
  ProductQuantizer pq{take_codebooks(path, file), {}};
  if (file.tensors.count("opq_matrix") == 0) return pq;
  pq.rotation = take(path, file, "opq_matrix", 2);
  const Shape expected{pq.d(), pq.d()};
  check(pq.rotation.shape() == expected, "{}: `opq_matrix` is {}, expected {}", path, pq.rotation.shape(), expected);
  return pq;
}

}  // namespace qinco
