#include "apps/qinco/command.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <exception>
#include <filesystem>
#include <new>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include "apps/qinco/signals.h"
#include "apps/standard_streams.h"
#include "kernels/device.h"
#include "kernels/dispatch.h"
#include "qinco/io/rows.h"
#include "tensor/file.h"

namespace qinco::app {
namespace {

constexpr int kUserError = 1;
constexpr int kUsageError = 2;

std::string description() {
  return "Neural residual quantization (QINCo): train codecs, encode, decode and evaluate vectors.\nVectors: " +
         row_extensions() + ". Models: safetensors, PyTorch's .pt. Codes: .npy or bit-packed (--raw).";
}

constexpr const char* kExamples =
    "Examples:\n"
    "  qinco train --training_data learn.bvecs --nt 48000 --nval 2000 --M 8 --model model.safetensors\n"
    "  qinco encode --model model.safetensors --i base.bvecs --o codes.npy\n"
    "  qinco decode --model model.safetensors --i codes.npy --o decoded.fvecs --M_used 4\n"
    "  qinco eval --model model.safetensors --base base.bvecs --queries query.bvecs --groundtruth gt.ivecs\n"
    "  qinco info model.safetensors\n"
    "  qinco convert model.pt model.safetensors\n"
    "Hyphens work wherever underscores do. `qinco SUBCOMMAND --help` lists the options.";

bool is_special(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

/// Whether what is written to `path` goes where stdout goes, and is read there: not to a device like /dev/null.
bool is_stdout(const std::string& path) {
  struct stat out = {};
  if (fstat(STDOUT_FILENO, &out) != 0 || (S_ISCHR(out.st_mode) && isatty(STDOUT_FILENO) == 0)) return false;
  return path == "-" || standard_stream(path) == STDOUT_FILENO;
}

/// The chosen subcommand, or subcommand of a group.
const CLI::App& chosen_command(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : chosen_command(*chosen.front());
}

/// Whether this is a whole number that T holds, in decimal: CLI11 takes octal ones, and cuts what is too large.
template <class T>
bool is_whole(const std::string& text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool octal = text.size() > 1 && text[text[0] == '-'] == '0';
  return error == std::errc() && end == text.data() + text.size() && !octal;
}

/// No option is given an empty value, as an unset variable of a shell does, and whole numbers are what they say.
void check_values(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options())
    for (const std::string& value : option->results()) {
      if (value.empty()) throw UsageError(fmt::format("{}: expected a value, found none", option->get_name()));
      if (option->get_type_name().rfind("INT", 0) == 0 && !is_whole<int64_t>(value))
        throw UsageError(
            fmt::format("{}: expected a whole number of at most 64 bits, found '{}'", option->get_name(), value));
    }
}

/// An option's file.
struct File {
  const CLI::Option* option;
  std::string path, place;
};

/// All files that a command line names, but for devices and pipes.
std::vector<File> files_of(const CLI::App& command) {
  std::vector<File> files;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_type_name().rfind("FILE", 0) != 0 && !option->get_positional()) continue;
    for (const std::string& path : option->results())
      if (path != "-" && !is_special(path)) files.push_back({option, path, file_place(path)});
  }
  return files;
}

/// "--nt-val=3" -> "--nt_val=3": names only, never values, nothing after a bare "--".
void hyphens_to_underscores(std::vector<std::string>& arguments) {
  for (std::string& argument : arguments) {
    if (argument == "--") return;
    if (argument.rfind("--", 0) != 0) continue;
    const auto end = argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size()));
    std::replace(argument.begin() + 2, end, '-', '_');
  }
}

/// What is wrong with a seed, or nothing.
std::string check_seed(const std::string& text) {
  return is_whole<uint64_t>(text) ? "" : fmt::format("expected a whole number from 0 to 2^64 - 1, found '{}'", text);
}

std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

int report_error(const std::string& name, const std::string& message, int code) {
  const std::string line = fmt::format("{}: {}\n", name, one_line(message));
  std::fwrite(line.data(), 1, line.size(), stderr);  // fmt would throw where the terminal has gone
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
  kernels::active_isa();  // QINCO_ISA may hold nonsense,
  kernels::amx_screen();  // QINCO_AMX_SCREEN, too
  if (threads > 0) kernels::set_default_threads(threads);
  if (!json.empty() && json != "-") check_writable(json);
}

std::FILE* Common::text() const {
  if (quiet) return nullptr;
  return to_stdout || json == "-" ? stderr : stdout;
}

void Common::report(const Json& results) const {
  if (!json.empty()) write_json(json, results);
}

void Common::describe(const Json& about) const {
  // Text of a file as one line of a terminal.
  const auto shown = [](const std::string& text) { return is_printable(text) ? text : quote(text); };
  for (const auto& [key, value] : about.items()) {
    const std::string text = value.is_null() ? "unknown" : value.is_string() ? value.get<std::string>() : value.dump();
    print("{:<16} {}", shown(key), shown(text));
  }
  report(about);
}

void check_writable(const std::string& path) {
  if (!is_special(path)) AtomicFile probe(path);  // opening a pipe and closing it again would end its reader
}

void check_ending(const std::string& option, const std::string& path, const std::string& kind) {
  constexpr std::array kKnown = {".hdf5", ".h5",  ".safetensors", ".pt",  ".pth",  ".json",
                                 ".csv",  ".svg", ".png",         ".pdf", ".index"};
  const std::string found = std::filesystem::path(path).extension().string();
  const bool known = is_row_file(path) || std::find(kKnown.begin(), kKnown.end(), found) != kKnown.end();
  if (known && found != kind)
    throw UsageError(fmt::format("{} {}: what is written is {}, not {}", option, path, kind, found));
}

std::string file_place(const std::string& path) {
  std::error_code unknown;
  const std::filesystem::path absolute = std::filesystem::absolute(row_file(path), unknown);
  const std::filesystem::path place = std::filesystem::weakly_canonical(absolute, unknown);
  return (unknown ? absolute.lexically_normal() : place).string();
}

Program::Program() : app_(description(), "qinco") {
  app_.require_subcommand(1);
  app_.set_version_flag("--version", std::string("qinco ") + QINCO_VERSION);
  app_.footer(kExamples);
}

void Program::add_group(const std::string& name, const std::string& description) {
  app_.add_subcommand(name, description)->require_subcommand(1)->footer("");
}

CLI::Option* Program::add_output(CLI::App& command, const std::string& name, std::string& path,
                                 const std::string& description, const std::string& kind, const std::string& replaces) {
  CLI::Option* const option = command.add_option(name, path, description)->type_name("FILE");
  outputs_[option] = {kind, replaces};
  return option;
}

void Program::check_outputs(const CLI::App& command) const {
  const std::vector<File> files = files_of(command);
  for (const File& file : files) {
    const auto found = outputs_.find(file.option);
    if (found == outputs_.end()) continue;
    const std::string name = file.option->get_name();
    const auto& [kind, replaces] = found->second;
    for (const File& other : files) {
      if (other.option == file.option || other.place != file.place || other.option->get_name() == replaces) continue;
      throw UsageError(fmt::format("{}: given as {} and as {}", file.path, other.option->get_name(), name));
    }
    if (!kind.empty()) check_ending(name, file.path, kind);
  }
}

/// Whether one output is stdout; throws UsageError where two are.
bool Program::outputs_to_stdout(const CLI::App& command) const {
  const CLI::Option* first = nullptr;
  for (const CLI::Option* option : command.get_options()) {
    if (outputs_.count(option) == 0 || option->count() == 0 || !is_stdout(option->results().front())) continue;
    if (first != nullptr)
      throw UsageError(fmt::format("{}: standard output given as {} and as {}", option->results().front(),
                                   first->get_name(), option->get_name()));
    first = option;
  }
  return first != nullptr;
}

CLI::App& Program::add(const std::string& name, const std::string& description,
                       std::function<void(const Common&)> run) {
  const size_t space = name.find(' ');
  CLI::App& parent = space == std::string::npos ? app_ : *app_.get_subcommand(name.substr(0, space));
  CLI::App& command = *parent.add_subcommand(name.substr(space + 1), description);  // npos + 1 is 0
  command.add_option("--device", common_.device_name, "cpu, cuda or cuda:i")->capture_default_str();
  command.add_option("--threads", common_.threads, "CPU threads (default: all)")->check(CLI::Range(1, 1024));
  command.add_option("--seed", common_.seed, "seed of all random numbers")
      ->check(CLI::Validator(check_seed, ""))
      ->capture_default_str();
  command.add_flag("--quiet", common_.quiet, "print errors only");
  add_output(command, "--json", common_.json, "write the results as one JSON object to FILE (-: stdout)", ".json");
  command.footer("");
  command.callback([this, run = std::move(run)] { chosen_ = run; });
  return command;
}

std::vector<CLI::App*> Program::named_commands(const std::vector<std::string>& arguments) {
  std::vector<CLI::App*> commands = {&app_};
  for (const std::string& argument : arguments) {
    const auto found =
        commands.back()->get_subcommands([&](const CLI::App* command) { return command->get_name() == argument; });
    if (found.empty()) break;
    commands.push_back(found.front());
  }
  return commands;
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
  const CLI::App& command = chosen_command(app_);
  check_values(command);
  check_outputs(command);
  common_.to_stdout = outputs_to_stdout(command);
  common_.apply();
  chosen_(common_);
}

int Program::main(int argc, char** argv) {
  open_standard_streams();
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  handle_signals();
  hyphens_to_underscores(arguments);
  const std::vector<CLI::App*> commands = named_commands(arguments);
  std::string name;
  for (const CLI::App* command : commands) name += (name.empty() ? "" : " ") + command->get_name();
  try {
    const bool group = !commands.back()->get_subcommands([](const CLI::App*) { return true; }).empty();
    if (group && arguments.size() >= commands.size()) {
      const std::string& next = arguments[commands.size() - 1];
      if (next.rfind('-', 0) != 0) throw UsageError(fmt::format("unknown subcommand '{}'", next));
    }
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
