// docs/interop.md against the PyTorch of this machine, where there is one: QINCO_TEST_PYTHON, or python3.
#include <cstdlib>

#include "tensor/npy.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// Runs a shell command within the workspace; its exit status.
int shell(const Workspace& space, const std::string& command) {
  return std::system(fmt::format("cd '{}' && {} >output 2>&1", space.path().string(), command).c_str());
}

/// The `index`-th ```python block of the page.
std::string block(int index) {
  const std::string page = read_bytes(std::string(QINCO_SOURCE_DIR) + "/docs/interop.md");
  const std::string fence = "\n```python\n";
  size_t begin = 0;
  for (int i = 0; i <= index; ++i) {
    begin = page.find(fence, begin);
    REQUIRE(begin != std::string::npos);
    begin += fence.size();
  }
  return page.substr(begin, page.find("\n```\n", begin) - begin + 1);
}

/// The page's program, the lines that set state and db_scale replaced by those for safetensors.
std::string program_for_safetensors() {
  std::string program = block(0);
  const size_t begin = program.find("state = "), end = program.find("K, d = ");
  REQUIRE(begin < end);
  return program.replace(begin, end - begin, block(1));
}

/// A Python that has `modules`; empty, saying so, if there is none.
std::string python_with(const Workspace& space, const std::string& modules) {
  const char* const chosen = std::getenv("QINCO_TEST_PYTHON");
  std::string python = chosen != nullptr ? chosen : "python3";
  if (shell(space, python + " -c 'import " + modules + "'") == 0) return python;
  MESSAGE("skipped: " << python << " has not all of " << modules << " (QINCO_TEST_PYTHON names another Python)");
  return {};
}

void run_python(const Workspace& space, const std::string& python, const std::string& program,
                const std::string& arguments = "") {
  write_bytes(space.file("program.py"), program);
  const int status = shell(space, python + " program.py " + arguments);
  CHECK_MESSAGE(status == 0, read_bytes(space.file("output")));
  REQUIRE(status == 0);
}

void decodes_as_we_do(const Workspace& space, const std::string& python, const std::string& program) {
  std::filesystem::remove(space.file("from_torch.npy"));
  run_python(space, python, program);
  const Tensor ours = read_npy(space.file("decoded.npy")), theirs = read_npy(space.file("from_torch.npy"));
  CHECK(ours.size(0) == Workspace::kN);
  CHECK(worst_difference(theirs, ours) <= 1e-5);
}

TEST_CASE("interop: the page's program loads a converted model into PyTorch and decodes as we do") {
  const Workspace space;
  const std::string python = python_with(space, "torch, numpy");
  if (python.empty()) return;
  REQUIRE(run(with(space.encode(), "--o", space.file("codes.npy"))).code == 0);
  REQUIRE(run(with(space.decode(), "--o", space.file("decoded.npy"))).code == 0);
  REQUIRE(run({"convert", space.model(), space.file("model.pt")}).code == 0);
  decodes_as_we_do(space, python, block(0));
  if (!python_with(space, "safetensors").empty()) decodes_as_we_do(space, python, program_for_safetensors());
}

TEST_CASE("interop: what convert writes of every variant opens with weights_only=True and fits into its module") {
  const Workspace space;
  const std::string python = python_with(space, "torch, numpy"), golden = QINCO_SOURCE_DIR "/tests/golden";
  if (python.empty()) return;
  const std::string program = R"(
import sys
import torch

sys.path.insert(0, sys.argv[1])
model = torch.load(sys.argv[2], weights_only=False)
state, written = model.state_dict(), torch.load(sys.argv[3], weights_only=True)
assert state.keys() == written.keys(), state.keys() ^ written.keys()
for name in state:
    assert state[name].dtype == written[name].dtype and torch.equal(state[name], written[name]), name
model.load_state_dict(written)
)";
  for (const std::string name : {"qinco.pt", "qinco_lr.pt", "ivf_qinco.pt", "pq_qinco.pt", "pq_qinco_opq.pt"}) {
    CAPTURE(name);
    const std::string model = golden + "/torch/" + name;
    REQUIRE(run({"convert", model, space.file("m.safetensors")}).code == 0);
    REQUIRE(run({"convert", space.file("m.safetensors"), space.file("m.pt")}).code == 0);
    run_python(space, python, program, fmt::format("'{}' '{}' m.pt", golden, model));
  }
}

}  // namespace
}  // namespace qinco::tests
