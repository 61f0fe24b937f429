// bin/qinco_report: compares methods from the JSON files of bin/qinco, as a table and as an HTML page with charts.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fmt/format.h>
#include <system_error>

#include "apps/report/page.h"
#include "apps/standard_streams.h"
#include "kernels/check.h"
#include "tensor/file.h"

namespace {

using namespace qinco;

/// Reads the files of LABEL:STEM, neither of which may be `out`.
report::Method read_argument(const std::string& argument, const std::string& out) {
  const size_t colon = argument.find(':');
  check(colon != std::string::npos && colon > 0, "'{}': expected LABEL:STEM", argument);
  const std::string stem = argument.substr(colon + 1);
  for (const std::string& input : report::files_of(stem)) {
    std::error_code missing;
    check(!std::filesystem::equivalent(input, out, missing), "{}: given as --out, and read for {}", out, argument);
  }
  return report::read_method(argument.substr(0, colon), stem);
}

}  // namespace

int main(int argc, char** argv) {
  app::open_standard_streams();
  CLI::App app("Compares methods from the JSON files of bin/qinco: a table on stdout, an HTML page with charts.");
  report::Page page;
  page.title = "QINCo";
  std::string out;
  std::vector<std::string> arguments;
  app.add_option("--o,--out", out, "the HTML page to write")->required();
  app.add_option("--title", page.title, "its title")->capture_default_str();
  app.add_option("--note", page.note, "a sentence below the title");
  app.add_option("--command", page.command, "the command that repeats the run, to be shown on the page");
  app.add_option("methods", arguments, "LABEL:STEM for each method; STEM.eval.json is read, and STEM.train.json if any")
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "qinco_report: {} (see qinco_report --help)\n", error.what());
    return 2;
  }
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit of file sizes is an error of the write
  try {
    for (const std::string& argument : arguments) page.methods.push_back(read_argument(argument, out));
    page.facts = report::machine_facts();
    write_file(out, report::html(page));
    fmt::print("{}", report::text_table(page.methods));
  } catch (const std::exception& error) {
    fmt::print(stderr, "qinco_report: {}\n", error.what());
    return 1;
  }
  return 0;
}
