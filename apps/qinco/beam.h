// The options --beam_size and --candidates of the subcommands that encode, and the codec that searches so.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <string>

#include "qinco/codec/product_codec.h"
#include "qinco/io/product_file.h"

namespace qinco::app {

struct BeamOptions {
  int64_t beam_size = 1;
  std::optional<int64_t> candidates;

  /// For a model of K codewords a step.
  BeamSearch search(int64_t K) const {
    constexpr int64_t kCandidates = 16;
    return {beam_size, candidates.value_or(beam_size > 1 ? std::min(K, kCandidates) : K)};
  }
};

inline void add_beam_options(CLI::App& command, BeamOptions& options) {
  command
      .add_option("--beam_size", options.beam_size,
                  "codes of a vector that are kept after each step of encoding (1 to 1024)")
      ->capture_default_str();
  command.add_option("--candidates", options.candidates,
                     "codewords that each goes on with: the nearest before the residual blocks (1 to K; default: with "
                     "a beam 16, else all)");
}

/// The model in a file, ready to encode by `beam`.
inline ProductCodec load_codec(const std::string& path, kernels::Precision precision, Device device,
                               const BeamOptions& beam) {
  const ProductQinco model = load_product(path);
  return ProductCodec(model, precision, device, beam.search(model.K()));
}

}  // namespace qinco::app
