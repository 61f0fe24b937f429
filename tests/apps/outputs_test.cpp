// Outputs that cannot be written: one line, exit code 1, nothing half-written under the final name, nothing lost.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>
#include <unistd.h>

#include "tensor/npy.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

using std::chrono::milliseconds;

/// Every subcommand that writes a file, writing to `path`.
std::vector<Arguments> writers(const Workspace& space, const std::string& path) {
  return {with(space.encode(), "--o", path), with(space.baseline(), "--o", path),
          with(space.train(1), "--model", path)};
}

TEST_CASE("outputs: directories that are missing, read-only or given as the file") {
  const Workspace space;
  for (const std::string& path : {space.file("missing/out"), std::string("/proc/out"), space.path().string()})
    for (const Arguments& arguments : writers(space, path)) expect_error(space.path(), arguments, 1, {"cannot write"});
  expect_error(space.path(), with(space.decode(), "--o", space.file("missing/out.fvecs")), 1, {"cannot write"});
  expect_error(space.path(), with(space.decode(), "--o", space.file("out.bvecs")), 1, {"out.bvecs", "cannot hold f32"});
  // A setting of the kernel's can be read, but no file can take its place; the reason is that, whatever failed before.
  const std::string why = run(with(space.encode(), "--o", "/proc/sys/kernel/ostype")).err;
  CHECK_MESSAGE((contains(why, "cannot write: Permission denied") || contains(why, "cannot write: Read-only")), why);
  if (geteuid() == 0) return;  // root writes anywhere
  std::filesystem::create_directory(space.file("locked"));
  std::filesystem::permissions(space.file("locked"), std::filesystem::perms::owner_read);
  for (const Arguments& arguments : writers(space, space.file("locked/out")))
    expect_error(space.path(), arguments, 1, {"cannot write"});
}

TEST_CASE("outputs: a full device") {
  const Workspace space;
  expect_error(space.path(), with(space.encode(), "--o", "/dev/full"), 1, {"/dev/full: cannot write: No space left"});
  Arguments raw = with(space.encode(), "--o", "/dev/full");
  raw.push_back("--raw");
  expect_error(space.path(), raw, 1, {"/dev/full: cannot write: No space left"});
  expect_error(space.path(), with(space.baseline(), "--o", "/dev/full"), 1, {"/dev/full: cannot write: No space left"});
}

TEST_CASE("outputs: results that cannot be written are an error too") {
  const Workspace space;
  for (const std::string& path : {space.file("missing/r.json"), space.path().string()})
    for (const Arguments& arguments : {space.encode(), space.eval(), space.baseline(), space.train(1)})
      expect_error(space.path(), with(arguments, "--json", path), 1, {"cannot write"});
  const Outcome full = run(with({"info", space.model(), "--quiet"}, "--json", "/dev/full"));
  check_error(full, 1, {"/dev/full: cannot write: No space left"});
  Limits limits;
  limits.out = "/dev/full";
  check_error(run({"info", space.model()}, limits), 1, {"cannot write to the standard output"});
  check_error(run({"info", space.model(), "--quiet", "--json", "-"}, limits), 1, {"standard output"});
}

TEST_CASE("outputs: a disk that fills up leaves the old file and no temporary one") {
  const Workspace space;
  Limits limits;
  limits.file_size = 2000;  // the codes need 7200 bytes, the decoded vectors and the models more
  write_bytes(space.file("out.npy"), "old");
  write_bytes(space.file("out.fvecs"), "old");
  write_bytes(space.file("trained.safetensors"), "old");
  const Arguments kmeans = {"kmeans", "--training_data", space.base(), "--k", "100", "--o", space.file("out.fvecs")};
  for (const Arguments& arguments :
       {space.encode(), space.decode(), space.train(1), kmeans, {"convert", space.model(), space.file("out.pt")}})
    expect_error(space.path(), arguments, 1, {"cannot write: File too large"}, limits);
  for (const char* name : {"out.npy", "out.fvecs", "trained.safetensors"}) CHECK(read_bytes(space.file(name)) == "old");
}

TEST_CASE("outputs: input given as output is replaced only by a whole file") {
  const Workspace space;
  const std::string before = read_bytes(space.codes());
  CHECK(run(with(space.decode(), "--o", space.base())).code == 0);  // any existing file may be replaced
  Limits limits;
  limits.file_size = 2000;
  expect_error(space.path(), with(space.encode(), "--o", space.codes()), 1, {"codes.npy"}, limits);
  CHECK(read_bytes(space.codes()) == before);
}

TEST_CASE("outputs: kill -9 during training leaves a whole model under the name at any moment") {
  const Workspace space;
  const std::string path = space.file("trained.safetensors");
  save_model(path, Workspace::make_model());
  int killed = 0;
  for (int i = 0; i < 8; ++i) {
    Process process(with(space.train(100000), "--checkpoint", space.file(fmt::format("checkpoint{}", i))));
    const auto before = std::filesystem::last_write_time(path);
    while (process.running() && std::filesystem::last_write_time(path) == before)
      std::this_thread::sleep_for(milliseconds(1));
    std::this_thread::sleep_for(milliseconds(7 * i));
    process.send(SIGKILL);
    killed += process.finish().signal == SIGKILL;
    const QincoConfig config = load_model(path).config();  // throws unless it is whole
    CHECK(config.d == Workspace::kD);
    CHECK(run(with(space.encode(), "--model", path)).code == 0);
  }
  CHECK(killed == 8);
}

TEST_CASE("outputs: Ctrl-C during encode leaves nothing behind") {
  const Workspace space;
  QincoConfig config;
  config.d = 16, config.M = 2, config.K = 16, config.L = 1, config.h = 16;
  Random random(1);
  save_model(space.file("small.safetensors"), Qinco(config, random));
  const int64_t n = 1 << 26;  // takes seconds on any processor, a block much less; sparse: all zeros
  const std::string header = npy_header(DType::u8, {n, config.d});
  write_bytes(space.file("many.npy"), header);
  std::filesystem::resize_file(space.file("many.npy"), header.size() + static_cast<size_t>(n * config.d));
  const std::set<std::string> before = listing(space.path());
  for (const int signal : {SIGINT, SIGTERM}) {
    Process process({"encode", "--model", space.file("small.safetensors"), "--i", space.file("many.npy"), "--o",
                     space.file("out.npy")});
    while (process.running() && listing(space.path()) == before) std::this_thread::sleep_for(milliseconds(1));
    std::this_thread::sleep_for(milliseconds(50));
    process.send(signal);
    check_error(process.finish(), 128 + signal, {"qinco encode: stopped by a signal; no output was written"});
    CHECK(listing(space.path()) == before);
  }
}

}  // namespace
}  // namespace qinco::tests
