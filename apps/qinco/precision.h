// The option --precision of the subcommands that encode, decode or train.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kernels/kernels.h"

namespace qinco::app {

inline constexpr const char* kEncodingPrecision = "exact: codes as in float; fast: products of rounded operands decide";
inline constexpr const char* kDecodingPrecision =
    "exact: as in float; fast: by products of 16-bit integers, where a CPU is quicker with them";

inline void add_precision_option(CLI::App& command, kernels::Precision& precision,
                                 const char* help = kEncodingPrecision) {
  const auto set = [&precision](const std::string& text) {
    precision = text == "fast" ? kernels::Precision::fast : kernels::Precision::exact;
  };
  command.add_option_function<std::string>("--precision", set, help)
      ->check(CLI::IsMember({"exact", "fast"}))
      ->default_str("exact");
}

}  // namespace qinco::app
