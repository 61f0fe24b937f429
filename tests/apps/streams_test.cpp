// Standard output and error: closed, or given to what is written.
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

TEST_CASE("streams: where they are closed, no text goes into the files that are written") {
  const Workspace space;
  REQUIRE(run(space.encode()).code == 0);
  const std::string codes = read_bytes(space.file("out.npy")), out = space.file("raw");
  const Arguments encode = with(space.encode(), "--o", out);
  for (const char* closed : {">&-", ">/dev/null 2>&-", "<&- >&- 2>&-"}) {
    CAPTURE(closed);
    CHECK(run_by_shell(encode, closed) == 0);
    CHECK(read_bytes(out) == codes);
  }
}

TEST_CASE("streams: index search writes its ids once, so that a pipe holds those of the last setting") {
  const Workspace space;
  QincoConfig config = Workspace::config();
  config.K_ivf = 8;
  Random random(9);
  const std::string model = space.file("ivf.safetensors"), index = space.file("i"), ids = space.file("ids.npy");
  save_model(model, Qinco(config, random));
  CHECK(run({"index", "build", "--model", model, "--training_data", space.base(), "--o", index}).code == 0);
  CHECK(run({"index", "add", "--index", index, "--model", model, "--i", space.base()}).code == 0);
  const Arguments search = {"index",     "search",        "--index",  index,   "--model", model,
                            "--queries", space.queries(), "--nshort", "10,20", "--quiet"};
  CHECK(run(with(search, "--o", ids)).code == 0);
  CHECK(run_by_shell(with(search, "--o", "/dev/stdout"), "| cat >'" + space.file("piped") + "'") == 0);
  CHECK(read_bytes(space.file("piped")) == read_bytes(ids));
}

TEST_CASE("streams: one output may be stdout, and text for people then goes to stderr") {
  const Workspace space;
  REQUIRE(run(space.encode()).code == 0);
  const Arguments piped = with(space.encode(), "--o", "/dev/stdout");
  CHECK(run_by_shell(piped, "2>'" + space.file("text") + "' | cat >'" + space.file("codes") + "'") == 0);
  CHECK(read_bytes(space.file("codes")) == read_bytes(space.file("out.npy")));
  CHECK(contains(read_bytes(space.file("text")), "MSE"));
  for (const char* json : {"-", "/dev/stdout"}) {
    const Arguments both = with(piped, "--json", json);
    CHECK(run_by_shell(both, ">/dev/null 2>&1") == 0);  // where nobody reads either
    const std::string error = space.file("error");
    CHECK(run_by_shell(both, "2>'" + error + "' | cat >'" + space.file("nothing") + "'") == 0);
    CHECK(contains(read_bytes(error), "standard output given as"));
    CHECK(read_bytes(space.file("nothing")).empty());
  }
}

}  // namespace
}  // namespace qinco::tests
