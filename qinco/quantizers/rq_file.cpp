#include "kernels/check.h"
#include "qinco/quantizers/rq.h"
#include "tensor/safetensors.h"

namespace qinco {

void save_rq(const std::string& path, const ResidualQuantizer& rq) {
  SafetensorsFile file;
  file.tensors["codebooks"] = rq.codebooks;
  file.metadata = {
      {"format", "rq"}, {"d", std::to_string(rq.d())}, {"K", std::to_string(rq.K())}, {"M", std::to_string(rq.M())}};
  write_safetensors(path, file);
}

ResidualQuantizer load_rq(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  const auto format = file.metadata.find("format");
  check(format != file.metadata.end() && format->second == "rq", "{}: metadata format is {}, expected rq", path,
        format == file.metadata.end() ? "missing" : format->second);
  const auto found = file.tensors.find("codebooks");
  check(found != file.tensors.end(), "{}: no tensor `codebooks`", path);
  const Tensor& stored = found->second;
  check(stored.dtype() == DType::f32 && stored.dim() == 3, "{}: codebooks are {} {}, expected f32 [M,K,d]", path,
        name(stored.dtype()), stored.shape().str());
  ResidualQuantizer rq{stored.clone()};
  const bool sizes = rq.M() >= 1 && rq.d() >= 1 && rq.K() >= 2 && rq.K() <= 65536 && (rq.K() & (rq.K() - 1)) == 0;
  check(sizes, "{}: codebooks {}, expected M >= 1, K a power of two from 2 to 65536, d >= 1", path,
        stored.shape().str());
  return rq;
}

}  // namespace qinco
