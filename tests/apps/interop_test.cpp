// docs/interop.md against the PyTorch of this machine, where there is one: QINCO_TEST_PYTHON, or python3.
#include <cstdlib>

#include "tensor/npy.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// The only ```python block of the page.
std::string snippet() {
  const std::string page = read_bytes(std::string(QINCO_SOURCE_DIR) + "/docs/interop.md");
  const std::string fence = "\n```python\n";
  const size_t begin = page.find(fence);
  REQUIRE(begin != std::string::npos);
  return page.substr(begin + fence.size(), page.find("\n```\n", begin + fence.size()) - begin - fence.size() + 1);
}

/// Runs a shell command within the workspace; its exit status.
int shell(const Workspace& space, const std::string& command) {
  return std::system(fmt::format("cd '{}' && {} >output 2>&1", space.path().string(), command).c_str());
}

TEST_CASE("interop: the page's program loads a converted model into PyTorch and decodes as we do") {
  const Workspace space;
  const char* const chosen = std::getenv("QINCO_TEST_PYTHON");
  const std::string python = chosen != nullptr ? chosen : "python3";
  if (shell(space, python + " -c 'import torch, numpy'") != 0) {
    MESSAGE("skipped: " << python << " has no torch (QINCO_TEST_PYTHON names another Python)");
    return;
  }
  REQUIRE(run(with(space.encode(), "--o", space.file("codes.npy"))).code == 0);
  REQUIRE(run(with(space.decode(), "--o", space.file("decoded.npy"))).code == 0);
  REQUIRE(run({"convert", space.model(), space.file("model.pt")}).code == 0);
  write_bytes(space.file("snippet.py"), snippet());
  const int status = shell(space, python + " snippet.py");
  CHECK_MESSAGE(status == 0, read_bytes(space.file("output")));
  REQUIRE(status == 0);
  const Tensor ours = read_npy(space.file("decoded.npy")), theirs = read_npy(space.file("from_torch.npy"));
  CHECK(ours.size(0) == Workspace::kN);
  CHECK(worst_difference(theirs, ours) <= 1e-5);
}

}  // namespace
}  // namespace qinco::tests
