// qinco info: what a model, a quantizer, or a file of vectors or codes is.
#include <filesystem>
#include <memory>

#include "apps/qinco/command.h"
#include "qinco/io/codes.h"
#include "qinco/io/product_file.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"
#include "tensor/npy.h"
#include "tensor/safetensors.h"

namespace qinco::app {
namespace {

Json describe_model(const std::string& path) {
  const ProductQinco model = load_product(path);
  const QincoConfig& config = model.parts.front().config();
  const bool plain = std::string(model.variant()) != "pq-qinco";
  Json about;
  about["format"] = "qinco";
  about["variant"] = model.variant();
  if (!plain) about["nsub"] = model.nsub();
  if (!plain) about["opq"] = model.rotation.defined();
  about["d"] = model.d();
  about["K"] = config.K;
  if (config.K_ivf > 0) about["K_ivf"] = config.K_ivf;
  about["L"] = config.L;
  about["M"] = config.M;
  about["h"] = config.h;
  about["db_scale"] = config.db_scale;
  if (!plain) about["db_scale"] = Json::array();
  for (const Qinco& part : model.parts)
    if (!plain) about["db_scale"].push_back(part.config().db_scale);
  about["parameters"] = model.parameter_count();
  about["bytes_per_vector"] = packed_code_bytes(model.nsub() * config.M, config.K);
  return about;
}

Json describe_rq(const std::string& path) {
  const ResidualQuantizer rq = load_rq(path);
  return {{"format", "rq"},
          {"d", rq.d()},
          {"K", rq.K()},
          {"M", rq.M()},
          {"parameters", rq.codebooks.numel()},
          {"bytes_per_vector", packed_code_bytes(rq.M(), rq.K())}};
}

Json describe_pq(const std::string& path) {
  const ProductQuantizer pq = load_pq(path);
  const bool rotated = pq.rotation.defined();
  return {{"format", "pq"},
          {"variant", rotated ? "opq" : "pq"},
          {"d", pq.d()},
          {"K", pq.K()},
          {"M", pq.M()},
          {"parameters", pq.codebooks.numel() + (rotated ? pq.rotation.numel() : 0)},
          {"bytes_per_vector", packed_code_bytes(pq.M(), pq.K())}};
}

Json describe_safetensors(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  const auto format = file.metadata.find("format");
  check(format != file.metadata.end(), "{}: no `format` in the metadata, expected a file written by qinco", path);
  if (format->second == "qinco") return describe_model(path);
  if (format->second == "rq") return describe_rq(path);
  if (format->second == "pq") return describe_pq(path);
  Json about;  // a checkpoint, say: what it says of itself
  for (const auto& [key, value] : file.metadata) about[key] = value;
  return about;
}

Json describe_rows(const std::string& what, int64_t n, int64_t d, DType dtype) {
  return {{"format", what}, {"n", n}, {"d", d}, {"type", std::string(name(dtype))}};
}

Json describe_npy(const std::string& path) {
  const NpyHeader header = parse_npy_header(*MappedFile::open(path));
  if (header.dtype != DType::i32 && header.dtype != DType::i64) {
    const VectorFile file = VectorFile::open(path);
    return describe_rows("vectors", file.size(), file.dim(), file.dtype());
  }
  check(header.shape.size() == 2, "{}: shape {}, expected codes or ids [n,M]", path, header.shape.str());
  Json about = {{"format", "codes"}, {"n", header.shape[0]}, {"M", header.shape[1]}};
  about["type"] = std::string(name(header.dtype));
  return about;
}

Json describe(const std::string& path) {
  const std::string kind = std::filesystem::path(path).extension().string();
  if (kind == ".npy") return describe_npy(path);
  if (kind != ".fvecs" && kind != ".bvecs" && kind != ".ivecs") return describe_safetensors(path);
  const VectorFile file = VectorFile::open(path);
  return describe_rows("vectors", file.size(), file.dim(), file.dtype());
}

void info(const std::string& path, const Common& common) {
  Json about = describe(path);
  about["bytes"] = MappedFile::open(path)->size();
  for (const auto& [key, value] : about.items())
    common.print("{:<17}{}", key, value.is_string() ? value.get<std::string>() : value.dump());
  common.report(about);
}

}  // namespace

void add_info(Program& program) {
  auto path = std::make_shared<std::string>();
  CLI::App& command = program.add("info", "Describe a model or a file of vectors or codes",
                                  [path](const Common& common) { info(*path, common); });
  command.add_option("file", *path, "a model (safetensors), .fvecs .bvecs .ivecs or .npy")->required()->type_name("");
}

}  // namespace qinco::app
