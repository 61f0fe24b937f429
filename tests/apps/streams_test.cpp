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

}  // namespace
}  // namespace qinco::tests
