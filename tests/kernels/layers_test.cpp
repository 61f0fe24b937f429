// The rules of the tree that no compiler checks: who may include whom, where threads and ISA-specific code may be.
#include <array>
#include <cstdio>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace qinco::kernels::tests {

namespace {

namespace fs = std::filesystem;

const fs::path kSource = QINCO_SOURCE_DIR;
const std::vector<std::string> kFloors = {"kernels", "tensor", "autograd", "qinco", "apps"};  // bottom up

bool is_source(const fs::path& path) {
  const std::string extension = path.extension();
  return extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh";
}

// check(file relative to the tree, line number, line) for every line of every source file under `folder`.
template <class Check>
int for_each_line(const fs::path& folder, Check check) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kSource / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    ++files;
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number)
      check(fs::relative(entry.path(), kSource).string(), number, line);
  }
  return files;
}

std::string without_comment(const std::string& line) {
  return line.substr(0, line.find("//"));
}

// The height of the floor that an include path begins with, or -1.
int floor_of(const std::string& path) {
  for (size_t i = 0; i < kFloors.size(); ++i)
    if (path.rfind(kFloors[i] + "/", 0) == 0) return static_cast<int>(i);
  return -1;
}

}  // namespace

TEST_CASE("layers: a floor includes itself and those below, by paths from the root") {
  const std::regex include("^\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"].*");
  for (size_t height = 0; height < kFloors.size(); ++height) {
    const int files = for_each_line(kFloors[height], [&](const std::string& file, int number, const std::string& line) {
      std::smatch match;
      if (!std::regex_match(line, match, include)) return;
      const std::string path = match[2];
      const int target = floor_of(path);
      CHECK_MESSAGE(target <= static_cast<int>(height), file << ":" << number << " includes upward: " << path);
      if (match[1] == "\"")
        CHECK_MESSAGE((target >= 0 && fs::exists(kSource / path)),
                      file << ":" << number << " is not a path from the root: " << path);
    });
    CHECK_MESSAGE(files > 0, kFloors[height] << " has no source files");
  }
}

TEST_CASE("layers: no CUDA conditionals above kernels") {
  const std::regex conditional("^\\s*#\\s*(if|ifdef|ifndef|elif).*CUDA.*");
  for (size_t height = 1; height < kFloors.size(); ++height)
    for_each_line(kFloors[height], [&](const std::string& file, int number, const std::string& line) {
      CHECK_MESSAGE(!std::regex_match(line, conditional), file << ":" << number << ": " << line);
    });
}

TEST_CASE("layers: OpenMP stays in kernels/parallel.cpp, and its thread count in kernels/context.cpp") {
  const std::regex openmp(".*(#\\s*pragma\\s+omp|\\bomp\\.h\\b|\\bomp_[a-z_]+\\().*");
  for (const std::string& floor : kFloors)
    for_each_line(floor, [&](const std::string& file, int number, const std::string& line) {
      if (file == "kernels/parallel.cpp" || file == "kernels/context.cpp") return;
      CHECK_MESSAGE(!std::regex_match(without_comment(line), openmp), file << ":" << number << ": " << line);
    });
}

TEST_CASE("layers: kernels/cpu uses nothing of std::, whose inline functions the linker would share between ISAs") {
  const std::regex standard(".*\\bstd::.*");
  for_each_line("kernels/cpu", [&](const std::string& file, int number, const std::string& line) {
    CHECK_MESSAGE(!std::regex_match(without_comment(line), standard), file << ":" << number << ": " << line);
  });
}

TEST_CASE("layers: objects of kernels/cpu define no weak symbols") {
  // build/bin/test_kernels -> build/CMakeFiles/qinco_cpu_<isa>.dir/kernels/cpu/*.o
  const fs::path build = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
  std::string objects;
  for (const char* isa : {"avx2", "avx512"}) {
    const fs::path folder = build / "CMakeFiles" / (std::string("qinco_cpu_") + isa + ".dir") / "kernels" / "cpu";
    if (!fs::is_directory(folder)) continue;
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".o") objects += " '" + entry.path().string() + "'";
  }
  if (objects.empty() || std::system("nm --version >/dev/null 2>&1") != 0) {
    MESSAGE("skipped: no objects of kernels/cpu beside this program, or no nm");
    return;
  }
  FILE* const nm = popen(("nm -C -A --defined-only" + objects).c_str(), "r");
  REQUIRE(nm != nullptr);
  int symbols = 0;
  // V and W are weak, u is unique across the program. The reference to the C++ runtime's personality routine is data.
  const std::regex weak(".*\\s[VWu]\\s(?!DW\\.ref\\.).*");
  for (std::array<char, 8192> line; std::fgets(line.data(), line.size(), nm);) {
    std::string text(line.data());
    if (!text.empty() && text.back() == '\n') text.pop_back();
    ++symbols;
    CHECK_MESSAGE(!std::regex_match(text, weak), text);
  }
  CHECK(pclose(nm) == 0);
  CHECK(symbols > 0);
}

}  // namespace qinco::kernels::tests
