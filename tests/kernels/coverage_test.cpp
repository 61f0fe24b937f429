// Every kernel of the table has test cases, and every table holds every kernel.
#include <doctest/doctest.h>
#include <set>
#include <string>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

TEST_CASE("coverage: every kernel has a test") {
#define QINCO_CHECK_COVERED(kernel) CHECK_MESSAGE(covered().count(#kernel) == 1, "no QINCO_COVERS(" #kernel ")");
  QINCO_KERNELS(QINCO_CHECK_COVERED)
#undef QINCO_CHECK_COVERED
}

// The screen of chosen candidates, which only the reference and the registers have.
bool may_be_missing(const std::string& kernel, const Version& version) {
  return (version.cuda || version.matrix_unit) && kernel.starts_with("candidate_screen");
}

TEST_CASE("coverage: every table is full, and QINCO_KERNELS names all of it") {
  size_t count = 0;
#define QINCO_COUNT(kernel) ++count;
  QINCO_KERNELS(QINCO_COUNT)
#undef QINCO_COUNT
  CHECK(sizeof(Table<float>) == count * sizeof(void (*)()));

  for (const Version& version : versions()) {
#define QINCO_CHECK_FULL(kernel) \
  CHECK_MESSAGE(bool(version.table->kernel) != may_be_missing(#kernel, version), #kernel " on " << version.name);
    QINCO_KERNELS(QINCO_CHECK_FULL)
#undef QINCO_CHECK_FULL
  }
#define QINCO_CHECK_FULL(kernel) CHECK_MESSAGE(bool(table<double>().kernel), #kernel " in double");
  QINCO_KERNELS(QINCO_CHECK_FULL)
#undef QINCO_CHECK_FULL
}

TEST_CASE("coverage: what kernels/cpu has is not the reference") {
  for_each_version([](const Table<float>& t, const Version& version) {
    const Table<float>& reference = table<float>(Isa::reference);
    // One version serves all.
    const std::set<std::string> shared = {"strided_copy", "strided_write", "gather_sum", "extend_beams"};
#define QINCO_CHECK_OWN(kernel)                   \
  if (version.cuda || shared.count(#kernel) == 0) \
    CHECK_MESSAGE(bool(t.kernel != reference.kernel), #kernel " on " << version.name);
    QINCO_KERNELS(QINCO_CHECK_OWN)
#undef QINCO_CHECK_OWN
  });
}

}  // namespace qinco::kernels::tests
