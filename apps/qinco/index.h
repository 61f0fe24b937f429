// What the subcommands of `qinco index` share.
#pragma once

#include <memory>
#include <string>

#include "apps/qinco/command.h"
#include "qinco/search/ivf_coder.h"

namespace qinco::app {

/// The IVF-QINCo model of a file, on the device that was asked for; Errors name the file.
std::shared_ptr<const IvfCoder> load_coder(const std::string& path, const Common& common);

void add_index_search(Program& program);

}  // namespace qinco::app
