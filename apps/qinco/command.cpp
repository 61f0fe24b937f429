#include "apps/qinco/command.h"

#include <algorithm>
#include <exception>
#include <new>
#include <sys/stat.h>

#include "apps/qinco/signals.h"
#include "kernels/device.h"
#include "kernels/dispatch.h"
#include "tensor/file.h"

namespace qinco::app {
namespace {

constexpr int kUserError = 1;
constexpr int kUsageError = 2;

constexpr const char* kDescription =
    "Neural residual quantization (QINCo): train codecs, encode, decode and evaluate vectors.\n"
    "Vectors: .fvecs .bvecs .ivecs .npy .fbin .u8bin. Models: safetensors, PyTorch's .pt. Codes: .npy or bit-packed "
    "(--raw).";

constexpr const char* kExamples =
    "Examples:\n"
    "  qinco train --training_data learn.bvecs --nt 48000 --nval 2000 --M 8 --model model.safetensors\n"
    "  qinco encode --model model.safetensors --i base.bvecs --o codes.npy\n"
    "  qinco decode --model model.safetensors --i codes.npy --o decoded.fvecs --M_used 4\n"
    "  qinco eval --model model.safetensors --base base.bvecs --queries query.bvecs --groundtruth gt.ivecs\n"
    "  qinco info model.safetensors\n"
    "  qinco convert model.pt model.safetensors\n"
    "Hyphens work wherever underscores do. `qinco SUBCOMMAND --help` lists the options.";

/// "--nt-val=3" -> "--nt_val=3": names only, never values, nothing after a bare "--".
void hyphens_to_underscores(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    if (argument == "--") return;
    if (argument.rfind("--", 0) != 0) continue;
    const auto end = argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size()));
    std::replace(argument.begin() + 2, end, '-', '_');
  }
}

std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

int report_error(const std::string& name, const std::string& message, int code) {
  fmt::print(stderr, "{}: {}\n", name, one_line(message));
  return code;
}

void write_json(const std::string& path, const Json& results) {
  const std::string text = results.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);  // a failure shows when stdout is flushed at the end
    return;
  }
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace

void Common::apply() const {
  kernels::check_device(device());
  kernels::active_isa();  // QINCO_ISA may hold nonsense
  if (threads > 0) kernels::set_default_threads(threads);
  if (!json.empty() && json != "-") check_writable(json);
}

std::FILE* Common::text() const {
  if (quiet) return nullptr;
  return json == "-" ? stderr : stdout;
}

void Common::report(const Json& results) const {
  if (!json.empty()) write_json(json, results);
}

void check_writable(const std::string& path) {
  struct stat status = {};
  const bool special = stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
  if (!special) AtomicFile probe(path);  // opening a pipe and closing it again would end its reader
}

Program::Program() : app_(kDescription, "qinco") {
  app_.require_subcommand(1);
  app_.set_version_flag("--version", std::string("qinco ") + QINCO_VERSION);
  app_.footer(kExamples);
}

// The subcommand `name` that only holds others.
CLI::App& Program::group(const std::string& name) {
  const auto found = app_.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; });
  if (!found.empty()) return *found.front();
  CLI::App& added = *app_.add_subcommand(name, "See its own --help");
  added.require_subcommand(1);
  return added;
}

CLI::App& Program::add(const std::string& name, const std::string& description,
                       std::function<void(const Common&)> run) {
  const size_t space = name.find(' ');
  CLI::App& parent = space == std::string::npos ? app_ : group(name.substr(0, space));
  CLI::App& command = *parent.add_subcommand(name.substr(space + 1), description);  // npos + 1 is 0
  command.add_option("--device", common_.device_name, "cpu, cuda or cuda:i")->capture_default_str();
  command.add_option("--threads", common_.threads, "CPU threads (default: all)")->check(CLI::Range(1, 1024));
  command.add_option("--seed", common_.seed, "seed of all random numbers")->capture_default_str();
  command.add_flag("--quiet", common_.quiet, "print errors only");
  command.add_option("--json", common_.json, "write the results as one JSON object to FILE (-: stdout)")
      ->type_name("FILE");
  command.callback([this, run = std::move(run)] { chosen_ = run; });
  return command;
}

std::string Program::command_name(const std::vector<std::string>& arguments) {
  const auto chosen = app_.get_subcommands(
      [&](const CLI::App* command) { return !arguments.empty() && command->get_name() == arguments.front(); });
  return chosen.empty() ? "qinco" : "qinco " + arguments.front();
}

void Program::run(const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // the order CLI11 takes a vector in
  try {
    app_.parse(reversed);
  } catch (const CLI::Success& request) {  // --help, --version: CLI11 prints the right text
    app_.exit(request);
    return;
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  common_.apply();
  chosen_(common_);
}

int Program::main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  handle_signals();
  hyphens_to_underscores(arguments);
  const std::string name = command_name(arguments);
  try {
    const bool unknown = name == "qinco" && !arguments.empty() && arguments.front().rfind('-', 0) != 0;
    if (unknown) throw UsageError(fmt::format("unknown subcommand '{}'", arguments.front()));
    run(arguments);
    check(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "cannot write to the standard output");
    return 0;
  } catch (const UsageError& error) {
    return report_error(name, fmt::format("{} (see {} --help)", one_line(error.what()), name), kUsageError);
  } catch (const Stopped& stopped) {
    return report_error(name, stopped.what(), 128 + stopped.signal);
  } catch (const std::bad_alloc&) {
    return report_error(name, "not enough memory for this work", kUserError);
  } catch (const std::exception& error) {
    return report_error(name, error.what(), kUserError);
  }
}

}  // namespace qinco::app
