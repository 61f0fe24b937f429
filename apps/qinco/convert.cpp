// qinco convert: models, vectors and codes between their formats.
#include "qinco/io/convert.h"

#include <filesystem>
#include <memory>
#include <optional>

#include "apps/qinco/command.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/io/product_file.h"
#include "qinco/io/rows.h"
#include "qinco/io/torch_file.h"
#include "tensor/file.h"

namespace qinco::app {
namespace {

struct ConvertOptions {
  std::string input, output;
  bool raw = false;
  std::optional<int64_t> M, K, K_ivf;
  std::optional<float> db_scale;
};

std::string extension(const std::string& path) {
  return std::filesystem::path(path).extension().string();
}

/// Every part's db_scale must be known, from the file or from the options, not from both and different.
void settle_scale(const ConvertOptions& options, std::map<std::string, std::string>& metadata) {
  for (const std::string& key : scale_keys(options.input, metadata)) {
    if (metadata.count(key) == 0) {
      if (!options.db_scale)
        throw UsageError(fmt::format("{}: no {} in the file: give --db_scale", options.input, key));
      metadata[key] = fmt::to_string(*options.db_scale);
    } else if (options.db_scale) {
      const auto stated = static_cast<float>(metadata_double(options.input, metadata, key));
      check(stated == *options.db_scale, "{}: --db_scale is {}, {} in the file is {}", options.input, *options.db_scale,
            key, stated);
    }
  }
}

Json convert_model(const ConvertOptions& options) {
  const std::string kind = extension(options.output);
  const bool torch = kind == ".pt" || kind == ".pth";
  check(torch || kind == ".safetensors", "{}: unknown kind of model file, expected .safetensors, .pt or .pth",
        options.output);
  ModelContents contents = read_model_file(options.input);
  const std::string format = contents.metadata["format"], variant = contents.metadata["variant"];
  check(variant != "qinco2", "{}: a QINCo2 checkpoint: info knows it, nothing else yet", options.input);
  check(format == "qinco", "{}: expected a QINCo model, found format {}, variant {}", options.input, quote(format),
        quote(variant));
  settle_scale(options, contents.metadata);
  check_model(options.input, contents);  // only whole and valid models go on
  if (torch)
    write_torch_file(options.output, contents);
  else
    write_safetensors(options.output, {contents.tensors, contents.metadata, contents.file});
  return {{"kind", "model"}, {"variant", variant}, {"source", contents.source}, {"tensors", contents.tensors.size()}};
}

Json convert_rows(const ConvertOptions& options, const ConvertProgress& progress) {
  if (!options.raw) return {{"kind", "vectors"}, {"n", qinco::convert_rows(options.input, options.output, progress)}};
  const bool packs = is_row_file(options.input);
  if (packs == is_row_file(options.output))
    throw UsageError("--raw: expected one of IN and OUT to be .npy or .ivecs, and the other raw codes");
  if (!options.K || (!packs && !options.M)) throw UsageError(packs ? "--raw needs --K" : "--raw needs --M and --K");
  if (packs && options.M) {
    const int64_t columns = open_rows(options.input).d;
    check(columns == *options.M, "{}: {} codes a row, expected {} as given with --M", options.input, columns,
          *options.M);
  }
  const int64_t K = *options.K, K_ivf = options.K_ivf.value_or(0);
  const int64_t n = packs ? pack_code_file(options.input, options.output, K, K_ivf, progress)
                          : unpack_code_file(options.input, options.output, *options.M, K, K_ivf, progress);
  return {{"kind", "codes"}, {"n", n}};
}

void convert(const ConvertOptions& options, const Common& common) {
  const Stopwatch watch;
  Json results;
  const bool rows = options.raw || is_row_file(options.input);
  if (rows && options.db_scale) throw UsageError("--db_scale is for models");
  if (!options.raw && (options.M || options.K || options.K_ivf)) throw UsageError("--M, --K and --K_ivf need --raw");
  if (rows) {
    const StopSignals signals;
    std::optional<Progress> shown;
    results = convert_rows(options, [&](int64_t done, int64_t n) {
      if (!shown) shown.emplace(common.text(), "converting", n, "rows");
      shown->update(done);
      stop_if_asked(signals);
    });
  } else {
    const std::string kind = extension(options.input);
    const bool model = kind == ".safetensors" || kind == ".pt" || kind == ".pth";
    check(model || !is_row_file(options.output), "{}: unknown kind of file, expected one of {}", options.input,
          row_extensions());
    results = convert_model(options);
  }
  results["seconds"] = watch.seconds();
  common.print("{}: {} from {}", options.output, results["kind"].get<std::string>(), options.input);
  common.report(results);
}

}  // namespace

void add_convert(Program& program) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App& command = program.add("convert", "Convert a model, vectors or codes to another format",
                                  [options](const Common& common) { convert(*options, common); });
  command.add_option("input", options->input, "a model, or a file of vectors, ids or codes")->required()->type_name("");
  program
      .add_output(command, "output", options->output,
                  "a model: .safetensors or .pt (a state dict); else " + row_extensions(true), "")
      ->required()
      ->type_name("");
  command.add_flag("--raw", options->raw, "codes: the one that is not .npy or .ivecs is packed bits without a header");
  command.add_option("--M", options->M, "raw codes: indices per vector")->check(CLI::Range(1, 1 << 20));
  command.add_option("--K", options->K, "raw codes: codewords per step")->check(CLI::Range(2, 65536));
  command
      .add_option("--K_ivf", options->K_ivf, "raw codes of IVF-QINCo: lists, one of which is a vector's first index")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  command.add_option("--db_scale", options->db_scale, "of a model whose file does not say it")
      ->check(CLI::PositiveNumber);
}

}  // namespace qinco::app
