// qinco info: what a model, a quantizer, an index, or a file of vectors or codes is.
#include <memory>

#include "apps/qinco/command.h"
#include "apps/qinco/index.h"
#include "qinco/io/codes.h"
#include "qinco/io/product_file.h"
#include "qinco/io/rows.h"
#include "qinco/quantizers/pq.h"
#include "qinco/quantizers/rq.h"
#include "qinco/search/ivf_file.h"
#include "tensor/file.h"

namespace qinco::app {
namespace {

/// A metadata value as the number it is, or as text.
Json as_json(const std::string& text) {
  const Json value = Json::parse(text, nullptr, false);
  return value.is_number() || value.is_boolean() ? value : Json(text);
}

/// What is told apart from single models: sizes of the parts, and every part's db_scale.
Json describe_parts(const std::string& path, const ModelContents& contents) {
  const std::map<std::string, std::string>& metadata = contents.metadata;
  const int64_t nsub = metadata_int(path, metadata, "nsub");
  Json about = {{"nsub", nsub},
                {"opq", contents.tensors.count("opq_matrix") > 0},
                {"L", metadata_int(path, metadata, "sub_quantizer_0.L")},
                {"h", metadata_int(path, metadata, "sub_quantizer_0.h")},
                {"db_scale", Json::array()},
                {"bytes_per_vector",
                 packed_code_bytes(nsub * metadata_int(path, metadata, "M"), metadata_int(path, metadata, "K"))}};
  for (const std::string& key : scale_keys(path, metadata)) {
    const auto scale = metadata.find(key);
    about["db_scale"].push_back(scale == metadata.end() ? Json(nullptr) : as_json(scale->second));
  }
  return about;
}

Json describe_model(const std::string& path, const ModelContents& contents) {
  const std::map<std::string, std::string>& metadata = contents.metadata;
  const auto stated = metadata.find("variant");
  const std::string variant = stated == metadata.end() ? "" : stated->second;
  const bool parts = variant == "pq-qinco", whole = !parts && variant != "qinco2";
  ModelContents checked = contents;
  if (contents.source != "safetensors")  // a state dict does not say db_scale: all else is to be checked
    for (const std::string& key : scale_keys(path, metadata)) checked.metadata.emplace(key, "1");
  check_model(path, checked);
  Json about = {{"format", "qinco"}, {"variant", variant}};
  if (parts) about.update(describe_parts(path, contents));
  if (whole) about["db_scale"] = nullptr;  // until it is known
  for (const char* key : {"d", "K", "L", "M", "h", "db_scale"})
    if (metadata.count(key) > 0) about[key] = as_json(metadata.at(key));
  int64_t parameters = 0;
  for (const auto& [name, tensor] : contents.tensors) parameters += tensor.numel();
  if (parts || whole) about["parameters"] = parameters;  // of qinco2 the reader counted them
  if (whole)
    about["bytes_per_vector"] = packed_code_bytes(metadata_int(path, metadata, "M"), metadata_int(path, metadata, "K"));
  about["source"] = contents.source;
  about["bytes"] = contents.file->size();
  for (const auto& [key, value] : metadata)  // what the file adds; what was found counts more
    if (!about.contains(key) && key.rfind("sub_quantizer_", 0) != 0) about[key] = as_json(value);
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

Json describe_contents(const std::string& path) {
  const ModelContents contents = read_model_file(path);
  const auto format = contents.metadata.find("format");
  check(format != contents.metadata.end(), "{}: no `format` in the metadata, expected a file written by qinco", path);
  if (format->second == "qinco") return describe_model(path, contents);
  Json about;
  if (format->second == "rq") about = describe_rq(path);
  if (format->second == "pq") about = describe_pq(path);
  about["bytes"] = contents.file->size();
  if (about.contains("format")) return about;
  for (const auto& [key, value] : contents.metadata)  // a checkpoint, say: what it says of itself
    if (!about.contains(key)) about[key] = value;
  return about;
}

/// Vectors, or what .npy and HDF5 hold of integers: codes or ids.
Json describe_rows(const std::string& path) {
  const RowLayout rows = open_rows(path);
  const bool integers = !row_dtype(path) && (rows.dtype == DType::i32 || rows.dtype == DType::i64);
  return {{"format", integers ? "codes" : "vectors"},
          {"n", rows.n},
          {integers ? "M" : "d", rows.d},
          {"type", std::string(name(rows.dtype))},
          {"bytes", rows.file->size()}};
}

Json describe(const std::string& path) {
  if (is_row_file(path)) return describe_rows(path);
  return IvfFile::is_index(path) ? describe_index(path) : describe_contents(path);
}

}  // namespace

void add_info(Program& program) {
  auto path = std::make_shared<std::string>();
  CLI::App& command = program.add("info", "Describe a model, an index, or a file of vectors or codes",
                                  [path](const Common& common) { common.describe(describe(*path)); });
  command.add_option("file", *path, "a model (safetensors or .pt), an index, or one of " + row_extensions())
      ->required()
      ->type_name("");
}

}  // namespace qinco::app
