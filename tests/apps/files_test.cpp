// Options that name files: no output takes an input's place or another output's, none ends like a file of another kind,
// and nobody's file is taken for a checkpoint.
#include <csignal>
#include <fcntl.h>
#include <sys/file.h>
#include <thread>
#include <unistd.h>

#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

/// Checks that nothing starts: an error that names the option, and the file at `path` unchanged.
void check_kept(const Workspace& space, const std::string& path, const Arguments& arguments,
                const std::string& option) {
  const std::string before = read_bytes(path);
  expect_error(space.path(), arguments, 2, {path, "given as", option});
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
  expect_error(space.path(), with(space.encode(), "--o", around), 2, {around, "given as", "--i"});
  std::filesystem::create_symlink(space.base(), space.file("link.npy"));
  expect_error(space.path(), with(space.encode(), "--o", space.file("link.npy")), 2, {"link.npy", "given as", "--i"});
  CHECK(read_bytes(space.base()) == before);
}

TEST_CASE("files: no two outputs are one, but for devices") {
  const Workspace space;
  expect_error(space.path(), with(space.encode(), "--json", space.file("out.npy")), 2, {"out.npy", "--json"});
  expect_error(space.path(), with(with(space.encode(), "--o", "new"), "--json", "./new"), 2, {"new", "given as"});
  expect_error(space.path(), with(space.train(1), "--json", space.file("trained.safetensors.checkpoint")), 1,
               {"--json", "where the checkpoint"});
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
  expect_error(space.path(), with(space.baseline(), "--o", space.file("rq.fvecs")), 2, {"rq.fvecs", ".safetensors"});
  Arguments raw = space.encode();
  raw.push_back("--raw");
  expect_error(space.path(), raw, 2, {"out.npy", "packed bits"});
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
  write_bytes(path, "");
  const Outcome outcome = run(space.train(1));
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK_FALSE(std::filesystem::exists(path));
}

/// A training of real vectors: no matter of milliseconds, nor of minutes with the reference kernels.
Arguments longer_training(const Workspace& space) {
  const Arguments arguments = with(with(space.train(10), "--nt", "20000"), "--K", "64");
  return with(with(arguments, "--M", "8"), "--training_data",
              std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs");
}

/// Waits until the training has claimed its checkpoint, which it does before anything else.
std::string wait_for_claim(const Workspace& space, Process& training) {
  const std::string checkpoint = space.file("trained.safetensors.checkpoint");
  while (training.running() && !std::filesystem::exists(checkpoint + ".lock")) std::this_thread::yield();
  return checkpoint;
}

TEST_CASE("files: one model has one training at a time") {
  const Workspace space;
  Process first(longer_training(space));
  const std::string checkpoint = wait_for_claim(space, first);
  check_error(run(space.train(1)), 1, {checkpoint, "another training uses"});
  const std::string model = space.file("trained.safetensors");
  while (first.running() && !std::filesystem::exists(model + ".lock")) std::this_thread::yield();
  const Arguments elsewhere = with(space.train(1), "--checkpoint", space.file("other"));
  check_error(run(elsewhere), 1, {model + ":", "another training uses"});
}

TEST_CASE("files: a training that was saved, or resumed, keeps others away until it is killed") {
  const Workspace space;
  const Arguments begun = with(space.train(1000000), "--lr_schedule", "cosine");
  Arguments resumed = begun;
  resumed.push_back("--resume");
  const std::string checkpoint = space.file("trained.safetensors.checkpoint");
  for (const Arguments& arguments : {begun, resumed}) {
    Process training(arguments);
    training.wait_for_output(arguments == begun ? "epoch   2" : "going on in epoch");
    check_error(run(begun), 1, {checkpoint, "another training uses"});
    check_error(run(resumed), 1, {checkpoint, "another training uses"});
    training.send(SIGKILL);
    CHECK(training.finish().signal == SIGKILL);
  }
  const int lock = ::open((checkpoint + ".lock").c_str(), O_RDWR);  // left, and free
  REQUIRE(lock >= 0);
  CHECK(::flock(lock, LOCK_EX | LOCK_NB) == 0);
  ::close(lock);
  std::filesystem::remove(checkpoint);
  CHECK(run(space.train(1)).code == 0);
  CHECK_FALSE(std::filesystem::exists(checkpoint + ".lock"));
}

TEST_CASE("files: the parts of PQ-QINCo have their checkpoints and models for themselves too") {
  for (const char* name : {"trained.safetensors.sub1.checkpoint", "trained.safetensors.sub1"}) {
    const Workspace space;
    const std::string part = space.file(name);
    const int lock = ::open((part + ".lock").c_str(), O_RDWR | O_CREAT, 0666);
    REQUIRE(::flock(lock, LOCK_EX | LOCK_NB) == 0);
    check_error(run(with(space.train(1), "--nsub", "2")), 1, {part + ":", "another training uses"});
    ::close(lock);
  }
}

TEST_CASE("files: the parts of PQ-QINCo take nobody's file for theirs") {
  const Workspace space;
  const Arguments arguments = with(space.train(1), "--nsub", "2");
  Arguments rotated = arguments;
  rotated.push_back("--opq");
  const std::string model = space.file("trained.safetensors"), data = model + ".opq.npy";
  write_vectors(data, space.base_vectors());
  const std::string before = read_bytes(data);
  expect_error(space.path(), with(rotated, "--training_data", data), 1, {data, "--training_data", "a part of"});
  expect_error(space.path(), rotated, 1, {data, "would be replaced by a part"});
  CHECK(read_bytes(data) == before);
  CHECK(run(with(arguments, "--training_data", data)).code == 0);  // no rotation, no file of one
  CHECK(read_bytes(data) == before);
  std::filesystem::remove(model);
  write_bytes(model + ".sub1", "notes");
  expect_error(space.path(), arguments, 1, {model + ".sub1", "would be replaced by a part"});
  CHECK(read_bytes(model + ".sub1") == "notes");
  expect_error(space.path(), with(arguments, "--json", model + ".sub0.checkpoint"), 1, {"--json", "checkpoint"});
  expect_error(space.path(), with(arguments, "--checkpoint", model + ".sub0"), 1, {"--checkpoint", "a part of"});
}

TEST_CASE("files: a training that is stopped before its first batch leaves no checkpoint") {
  const Workspace space;
  Process process(longer_training(space));
  const std::string checkpoint = wait_for_claim(space, process);
  process.send(SIGTERM);
  check_error(process.finish(), 128 + SIGTERM, {"nothing to go on from"});
  CHECK_FALSE(std::filesystem::exists(checkpoint));
}

TEST_CASE("files: nor does one of parts leave its rotation") {
  const Workspace space;
  Arguments arguments = with(longer_training(space), "--nsub", "2");
  arguments.push_back("--opq");
  const std::set<std::string> before = listing(space.path());
  Process process(arguments);
  while (process.running() && !std::filesystem::exists(space.file("trained.safetensors.opq.npy")))
    std::this_thread::yield();
  process.send(SIGTERM);
  check_error(process.finish(), 128 + SIGTERM, {"nothing to go on from"});
  CHECK(listing(space.path()) == before);
}

}  // namespace
}  // namespace qinco::tests
