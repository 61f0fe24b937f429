// How bin/qinco is called: usage errors are exit code 2 and one line that points to --help.
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

void expect_usage(const Arguments& arguments, std::initializer_list<std::string> parts) {
  const TemporaryDirectory directory;
  expect_error(directory.path(), arguments, 2, parts);
}

TEST_CASE("usage: nothing, an unknown subcommand and unknown options") {
  expect_usage({}, {"subcommand", "(see qinco --help)"});
  expect_usage({"frobnicate"}, {"unknown subcommand 'frobnicate'"});
  expect_usage({"--frobnicate"}, {"(see qinco --help)"});
  for (const char* command :
       {"train", "encode", "decode", "eval", "baseline", "kmeans", "search", "pq", "index", "info"}) {
    expect_usage({command}, {fmt::format("(see qinco {} --help)", command)});
    expect_usage({command, "--frobnicate", "1"}, {fmt::format("qinco {}:", command)});
  }
}

TEST_CASE("usage: an unknown option beside all required ones is named") {
  const Workspace space;
  for (Arguments arguments : {space.encode(), space.decode(), space.eval(), space.baseline(), space.train(1)}) {
    arguments.push_back("--frobnicate");
    expect_error(space.path(), arguments, 2, {"--frobnicate", arguments.front()});
  }
}

TEST_CASE("usage: values of the wrong kind") {
  const Workspace space;
  expect_error(space.path(), with(space.encode(), "--threads", "many"), 2, {"--threads"});
  expect_error(space.path(), with(space.encode(), "--threads", "0"), 2, {"--threads"});
  expect_error(space.path(), with(space.encode(), "--threads", "-3"), 2, {"--threads"});
  expect_error(space.path(), with(space.encode(), "--seed", "1.5"), 2, {"--seed"});
  expect_error(space.path(), with(space.decode(), "--M_used", "two"), 2, {"--M_used"});
  expect_error(space.path(), with(space.baseline(), "--method", "lsq"), 2, {"--method lsq: expected pq, opq or rq"});
}

TEST_CASE("usage: values that are missing, or no whole number") {
  const Workspace space;
  for (const char* option : {"--K", "--nt", "--db_scale", "--lr", "--seed"})
    expect_error(space.path(), with(space.train(1), option, ""), 2, {option});
  expect_error(space.path(), with(space.encode(), "--M_used", ""), 2, {"--M_used", "expected a value"});
  for (const char* count : {"010", "0x10", "9223372036854775808", "--threads"})
    expect_error(space.path(), with(space.train(1), "--batch_size", count), 2, {"--batch_size", count});
  for (const char* seed : {"-1", "1e3", "010", "99999999999999999999999"})
    expect_error(space.path(), with(space.encode(), "--seed", seed), 2, {"--seed", seed});
}

TEST_CASE("usage: parts of a group name their own help") {
  check_error(run({"index", "add", "--unknown", "1"}), 2, {"qinco index add --help"});
  check_error(run({"index", "ad"}), 2, {"qinco index: unknown subcommand 'ad'", "qinco index --help"});
}

TEST_CASE("usage: a learning rate, or a number of epochs, at which training would end at once") {
  const Workspace space;
  expect_error(space.path(), with(space.train(1), "--lr", "1e-6"), 1, {"lr", "2e-06", "1e-06"});
  CHECK(run(with(with(space.train(1), "--lr", "1e-6"), "--lr_schedule", "cosine")).code == 0);
  const Arguments endless = with(space.train(1), "--max_epochs", "9223372036854775807");
  expect_error(space.path(), with(endless, "--lr_schedule", "cosine"), 1, {"max_epochs: expected 1 to 2147483647"});
}

TEST_CASE("usage: training in parts and recombining") {
  const Workspace space;
  Arguments opq = space.train(1);
  opq.push_back("--opq");
  expect_error(space.path(), opq, 2, {"--opq requires --nsub"});
  expect_error(space.path(), with(opq, "--nsub", "1"), 2, {"--opq: expected --nsub 2 or more"});
  expect_error(space.path(), with(space.train(1), "--nsub", "0"), 2, {"--nsub"});
  expect_error(space.path(), with(space.train(1), "--nsub", "3"), 1, {"dimension 8 is not a multiple of --nsub 3"});
  expect_error(space.path(), {"pq", "split", "--models", space.model(), "--o", space.file("o")}, 2, {"subcommand"});
}

TEST_CASE("usage: devices that this build or machine has not") {
  const Workspace space;
  const char* const reason = kernels::device_count(DeviceType::cuda) > 0 ? "this machine has" : "has";
  for (const char* device : {"cuda:98", "cuda:99"})
    expect_error(space.path(), with(space.encode(), "--device", device), 1, {device, reason, "CUDA"});
  if (kernels::device_count(DeviceType::cuda) == 0)
    expect_error(space.path(), with(space.encode(), "--device", "cuda"), 1, {"device cuda:0", "CUDA"});
  expect_error(space.path(), with(space.encode(), "--device", "tpu"), 1, {"tpu"});
  expect_error(space.path(), with(space.encode(), "--device", "cuda:x"), 1, {"cuda:x"});
  CHECK(run(with(space.encode(), "--device", "cpu")).code == 0);
}

TEST_CASE("usage: help and version go to stdout") {
  const Outcome help = run({"--help"});
  CHECK(help.code == 0);
  CHECK(help.err.empty());
  for (const char* part :
       {"train", "encode", "decode", "eval", "baseline", "kmeans", "search", "pq", "index", "info", "Examples:"})
    CHECK_MESSAGE(contains(help.out, part), part);
  const Outcome encode = run({"encode", "--help"});
  CHECK(encode.code == 0);
  for (const char* part : {"--model", "--i", "--o", "--raw", "--device", "--threads", "--seed", "--quiet", "--json"})
    CHECK_MESSAGE(contains(encode.out, part), part);
  const Outcome version = run({"--version"});
  CHECK(version.code == 0);
  CHECK(version.out.rfind("qinco ", 0) == 0);
}

TEST_CASE("usage: hyphens work wherever underscores do, in names only") {
  const Workspace space;
  Arguments arguments = {"decode",      "--model", space.model(),           "--i",
                         space.codes(), "--o",     space.file("a-b_c.npy"), "--M-used=2"};
  CHECK(run(arguments).code == 0);
  CHECK(std::filesystem::exists(space.file("a-b_c.npy")));
  expect_error(space.path(), with(space.decode(), "--M-used", "9"), 1, {"--M_used 9"});
}

TEST_CASE("usage: --quiet prints nothing, --json - leaves stdout to the JSON") {
  const Workspace space;
  Arguments quiet = space.encode();
  quiet.push_back("--quiet");
  const Outcome silent = run(quiet);
  CHECK(silent.code == 0);
  CHECK(silent.out.empty());
  CHECK(silent.err.empty());
  const Outcome json = run(with(space.encode(), "--json", "-"));
  CHECK(json.code == 0);
  CHECK(Json::parse(json.out).at("n") == Workspace::kN);
  CHECK(contains(json.err, "MSE"));
}

}  // namespace
}  // namespace qinco::tests
