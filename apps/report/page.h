// The report as one self-contained HTML page.
#pragma once

#include <string>
#include <vector>

#include "apps/report/results.h"

namespace qinco::report {

struct Page {
  std::string title, note;  // note: the sentence below the title
  std::string command;      // what makes this page again
  std::vector<Method> methods;
  std::vector<std::string> facts;  // about the machine and the build, a line each
};

/// The whole document: inline style and SVG, nothing fetched from elsewhere.
std::string html(const Page& page);

/// CPU, cores, instruction set, compiler and date of this process.
std::vector<std::string> machine_facts();

}  // namespace qinco::report
