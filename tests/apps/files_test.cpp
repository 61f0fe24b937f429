// Options that name files: no output takes an input's place or another output's, none ends like a file of another kind,
// and nobody's file is taken for a checkpoint.
#include <csignal>

#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// Checks that nothing starts: an error that names the option, and the file at `path` unchanged.
void check_kept(const Workspace& space, const std::string& path, const Arguments& arguments,
                const std::string& option) {
  const std::string before = read_bytes(path);
  expect_error(space.path(), arguments, 1, {path, "given as", option});
  CHECK(read_bytes(path) == before);
}

TEST_CASE("files: no output takes the place of an input") {
  const Workspace space;
  const Arguments kmeans = {"kmeans", "--training_data", space.base(), "--k", "4", "--o", space.base()};
  check_kept(space, space.model(), with(space.encode(), "--o", space.model()), "--model");
  check_kept(space, space.base(), with(space.encode(), "--o", space.base()), "--i");
  check_kept(space, space.codes(), with(space.decode(), "--o", space.codes()), "--i");
  check_kept(space, space.base(), kmeans, "--training_data");
  check_kept(space, space.base(), with(space.baseline(), "--o", space.base()), "--training_data");
  check_kept(space, space.queries(), with(space.eval(), "--json", space.queries()), "--queries");
  check_kept(space, space.model(), {"info", space.model(), "--json", space.model()}, "file");
  check_kept(space, space.model(), {"convert", space.model(), space.model()}, "input");
  check_kept(space, space.base(), with(space.train(1), "--checkpoint", space.base()), "--training_data");
  Arguments ivf = with(with(space.train(1), "--IVF_centroids", space.queries()), "--model", space.queries());
  ivf.push_back("--ivf");
  check_kept(space, space.queries(), ivf, "--IVF_centroids");
}

TEST_CASE("files: the same file is known by other names too") {
  const Workspace space;
  const std::string around = space.file("../") + space.path().filename().string() + "/base.fvecs";
  const std::string before = read_bytes(space.base());
  expect_error(space.path(), with(space.encode(), "--o", around), 1, {around, "given as", "--i"});
  std::filesystem::create_symlink(space.base(), space.file("link.npy"));
  expect_error(space.path(), with(space.encode(), "--o", space.file("link.npy")), 1, {"link.npy", "given as", "--i"});
  CHECK(read_bytes(space.base()) == before);
}

TEST_CASE("files: no two outputs are one, but for devices") {
  const Workspace space;
  expect_error(space.path(), with(space.encode(), "--json", space.file("out.npy")), 1, {"out.npy", "--o", "--json"});
  CHECK(run(with(with(space.encode(), "--o", "/dev/null"), "--json", "/dev/null")).code == 0);
}

TEST_CASE("files: a model may take the place of the one that training goes on from") {
  const Workspace space;
  Arguments arguments = with(space.train(1), "--init_model", space.model());
  arguments = with(with(arguments, "--h", "4"), "--model", space.model());
  const Outcome outcome = run(arguments);
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
}

TEST_CASE("files: outputs that end like another kind of file") {
  const Workspace space;
  expect_error(space.path(), with(space.encode(), "--o", space.file("c.ivecs")), 2, {"c.ivecs", ".npy", ".ivecs"});
  expect_error(space.path(), with(space.train(1), "--model", space.file("m.pt")), 2, {"m.pt", ".safetensors", ".pt"});
  CHECK(run(with(space.encode(), "--o", space.file("codes.v2"))).code == 0);
}

TEST_CASE("files: raw codes and .npy are told apart") {
  const Workspace space;
  Arguments raw = space.decode();
  raw.push_back("--raw");
  expect_error(space.path(), raw, 1, {"codes.npy", "leave out --raw"});
  Arguments packed = with(space.encode(), "--o", space.file("codes.bin"));
  packed.push_back("--raw");
  REQUIRE(run(packed).code == 0);
  expect_error(space.path(), with(space.decode(), "--i", space.file("codes.bin")), 1, {"codes.bin", "--raw"});
}

TEST_CASE("files: somebody's file is no checkpoint, and an empty one is nobody's") {
  const Workspace space;
  const std::string path = space.file("trained.safetensors.checkpoint");
  write_bytes(path, "notes");
  expect_error(space.path(), space.train(1), 1, {path, "would be replaced"});
  CHECK(read_bytes(path) == "notes");
  write_bytes(path, "");  // of a run that was killed before it saved any
  const Outcome outcome = run(space.train(1));
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("files: one model has one training at a time") {
  const Workspace space;
  Process first(with(with(space.train(1000), "--lr_schedule", "cosine"), "--batch_size", "1"));
  first.wait_for_output("RQ 3x16");
  const Outcome second = run(space.train(1));
  check_error(second, 1, {"trained.safetensors.checkpoint"});
  first.send(SIGTERM);
  CHECK(first.finish().code == 128 + SIGTERM);
}

}  // namespace
}  // namespace qinco::tests
