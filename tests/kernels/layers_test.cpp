// The rules of the tree that no compiler checks: who may include whom, where threads and ISA-specific code may be.
#include <algorithm>
#include <array>
#include <cstdio>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
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
void for_each_line(const fs::path& folder, Check check) {
  for (const auto& entry : fs::recursive_directory_iterator(kSource / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number)
      check(fs::relative(entry.path(), kSource).string(), number, line);
  }
}

std::string without_comment(const std::string& line) {
  return line.substr(0, line.find("//"));
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// `#  if x` as `#if x`; empty if the line is no preprocessor directive.
std::string directive(const std::string& line) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return "";
  const size_t word = std::min(line.find_first_not_of(" \t", hash + 1), line.size());
  return line.substr(hash).erase(1, word - hash - 1);
}

struct Include {
  bool quoted = false;
  std::string path;  // empty if the line is no #include
};

Include parse_include(const std::string& line) {
  const std::string text = directive(line);
  const size_t open = text.find_first_of("<\"");
  if (text.rfind("#include", 0) != 0 || open == std::string::npos) return {};
  const size_t close = text.find_first_of(">\"", open + 1);
  return {text[open] == '"', text.substr(open + 1, close - open - 1)};
}

// The height of the floor that an include path begins with, or -1.
int floor_of(const std::string& path) {
  for (size_t i = 0; i < kFloors.size(); ++i)
    if (path.rfind(kFloors[i] + "/", 0) == 0) return static_cast<int>(i);
  return -1;
}

}  // namespace

TEST_CASE("layers: a floor includes itself and those below, by paths from the root") {
  for (size_t height = 0; height < kFloors.size(); ++height) {
    int includes = 0;
    for_each_line(kFloors[height], [&](const std::string& file, int number, const std::string& line) {
      const Include include = parse_include(line);
      if (include.path.empty()) return;
      ++includes;
      const int target = floor_of(include.path);
      CHECK_MESSAGE(target <= static_cast<int>(height), file << ":" << number << " includes upward: " << include.path);
      if (include.quoted)
        CHECK_MESSAGE((target >= 0 && fs::exists(kSource / include.path)),
                      file << ":" << number << " is not a path from the root: " << include.path);
    });
    CHECK_MESSAGE(includes > 0, kFloors[height] << " includes nothing");
  }
}

TEST_CASE("layers: no CUDA conditionals above kernels") {
  for (size_t height = 1; height < kFloors.size(); ++height)
    for_each_line(kFloors[height], [&](const std::string& file, int number, const std::string& line) {
      const std::string text = directive(line);
      const bool conditional = text.rfind("#if", 0) == 0 || text.rfind("#elif", 0) == 0;
      CHECK_MESSAGE(!(conditional && contains(text, "CUDA")), file << ":" << number << ": " << line);
    });
}

TEST_CASE("layers: OpenMP stays in kernels/parallel.cpp, and its thread count in kernels/context.cpp") {
  for (const std::string& floor : kFloors)
    for_each_line(floor, [&](const std::string& file, int number, const std::string& line) {
      if (file == "kernels/parallel.cpp" || file == "kernels/context.cpp") return;
      const std::string code = without_comment(line);
      const bool openmp = directive(code).rfind("#pragma omp", 0) == 0 || contains(code, "omp.h") ||
                          contains(code, "omp_get_") || contains(code, "omp_set_");
      CHECK_MESSAGE(!openmp, file << ":" << number << ": " << line);
    });
}

TEST_CASE("layers: the names of tests survive CMake's lists, so that CTest runs each of them") {
  int names = 0;
  for_each_line("tests", [&](const std::string& file, int number, const std::string& line) {
    const std::string opening = "TEST_CASE(\"";
    if (line.rfind(opening, 0) != 0) return;
    ++names;
    INFO(file << ":" << number << ": " << line);
    CHECK(line.substr(0, line.rfind('"')).find_first_of(";[]", opening.size()) == std::string::npos);
  });
  CHECK(names > 200);
}

TEST_CASE("layers: kernels/cpu uses nothing of std::, whose inline functions the linker would share between ISAs") {
  for_each_line("kernels/cpu", [&](const std::string& file, int number, const std::string& line) {
    CHECK_MESSAGE(!contains(without_comment(line), "std::"), file << ":" << number << ": " << line);
  });
}

TEST_CASE("layers: objects of kernels/cpu define no weak symbols") {
  // build/bin/test_kernels -> build/CMakeFiles/qinco_cpu_<isa>.dir/kernels/cpu/*.o
  const fs::path build = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
  std::string objects;
  for (const char* isa : {"avx2", "avx512", "amx"}) {
    const fs::path folder = build / "CMakeFiles" / (std::string("qinco_cpu_") + isa + ".dir") / "kernels" / "cpu";
    if (!fs::is_directory(folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.path().extension() == ".o") objects += " '" + entry.path().string() + "'";
  }
  if (objects.empty() || std::system("nm --version >/dev/null 2>&1") != 0) {
    MESSAGE("skipped: no objects of kernels/cpu beside this program, or no nm");
    return;
  }
  FILE* const nm = popen(("nm -C -A --defined-only" + objects).c_str(), "r");
  REQUIRE(nm != nullptr);
  int symbols = 0;
  // V and W are weak, u is unique across the program. Two kinds hold no code and do no harm: the reference to the C++
  // runtime's personality routine, and the types that UndefinedBehaviorSanitizer describes.
  for (std::array<char, 8192> line; std::fgets(line.data(), line.size(), nm);) {
    const std::string text(line.data());
    ++symbols;
    const bool weak = contains(text, " V ") || contains(text, " W ") || contains(text, " u ");
    const bool data = contains(text, " DW.ref.") || contains(text, " V typeinfo ");
    CHECK_MESSAGE((!weak || data), text);
  }
  CHECK(pclose(nm) == 0);
  CHECK(symbols > 0);
}

}  // namespace qinco::kernels::tests
