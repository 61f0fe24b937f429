// The option --precision of the subcommands that encode.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "kernels/kernels.h"

namespace qinco::app {

inline void add_precision_option(CLI::App& command, kernels::Precision& precision) {
  const std::map<std::string, kernels::Precision> names = {{"exact", kernels::Precision::exact},
                                                           {"fast", kernels::Precision::fast}};
  command
      .add_option("--precision", precision,
                  "exact: codes as in float arithmetic; fast: a bfloat16 screen decides where the machine has one")
      ->transform(CLI::CheckedTransformer(names, CLI::ignore_case))
      ->default_str("exact")
      ->type_name("exact|fast");
}

}  // namespace qinco::app
