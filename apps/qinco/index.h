// What the subcommands of `qinco index` share.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/qinco/beam.h"
#include "apps/qinco/command.h"
#include "qinco/search/ivf_coder.h"

namespace qinco::app {

/// The IVF-QINCo model of a file, on the device that was asked for; Errors name the file.
std::shared_ptr<IvfCoder> load_coder(const std::string& path, kernels::Precision precision, const Common& common,
                                     const BeamOptions& beam = {});

/// How many codes follow the list when --M_used are taken of the M + 1 entries that a vector has in `path`: all if not
/// given; throws Error unless --M_used is 2 to M + 1.
int64_t checked_codes_after_list(std::optional<int64_t> M_used, int64_t M, const std::string& path);

/// What an index is; throws Error where it is damaged.
Json describe_index(const std::string& path);

void add_index_search(Program& program);

}  // namespace qinco::app
