// strided_copy: every view a tensor can have, element by element.
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(strided_copy);

struct View {
  std::vector<int64_t> shape, strides;
};

// The definition: element number e of the result, by the digits of e.
std::vector<float> expected_copy(const View& view, const std::vector<float>& x) {
  int64_t count = 1;
  for (const int64_t size : view.shape) count *= size;
  std::vector<float> y;
  for (int64_t e = 0; e < count; ++e) {
    int64_t offset = 0, rest = e;
    for (size_t i = view.shape.size(); i-- > 0; rest /= view.shape[i]) offset += rest % view.shape[i] * view.strides[i];
    y.push_back(x[static_cast<size_t>(offset)]);
  }
  return y;
}

void check_view(const View& view, const std::string& what) {
  int64_t extent = 1;
  for (size_t i = 0; i < view.shape.size(); ++i) extent += std::max<int64_t>(view.shape[i] - 1, 0) * view.strides[i];
  const std::vector<float> x = Data(1).normal(extent);
  const std::vector<float> expected = expected_copy(view, x);
  for_each_version_and_reference([&](const Table<float>& t, const Version&) {
    const auto run = [&](const Context& context) {
      Buffer<float> in(x), out(static_cast<int64_t>(expected.size()), 3);
      t.strided_copy(context, static_cast<int>(view.shape.size()), view.shape.data(), view.strides.data(), in.data(),
                     out.data());
      CHECK(out.guards_hold());
      return out.values();
    };
    CHECK_MESSAGE(same_bits(run(TestContext()), expected), what);
    check_any_thread_count(run, what);
  });
}

}  // namespace

TEST_CASE("strided_copy: contiguous, sliced, transposed, expanded, empty and scalar views") {
  check_view({{}, {}}, "scalar");
  check_view({{5}, {1}}, "contiguous");
  check_view({{5}, {3}}, "strided");
  check_view({{5}, {0}}, "expanded");
  check_view({{4, 0, 3}, {3, 3, 1}}, "empty");
  check_view({{7, 9}, {9, 1}}, "matrix");
  check_view({{7, 9}, {12, 1}}, "column slice");
  check_view({{7, 9}, {1, 7}}, "transpose");
  check_view({{7, 9}, {0, 1}}, "row repeated");
  check_view({{7, 9}, {1, 0}}, "column repeated");
  check_view({{1, 7, 1, 9, 1}, {63, 9, 9, 1, 1}}, "ones");
  check_view({{2, 3, 4, 5}, {60, 5, 15, 1}}, "middle swap");
  check_view({{5, 4, 3, 2}, {1, 5, 20, 60}}, "all reversed");
  check_view({{2, 2, 2, 2, 2, 2, 2, 2}, {1, 2, 4, 8, 16, 32, 64, 128}}, "eight dimensions");
}

TEST_CASE("strided_copy: transposes of every tail size, and large ones in bands") {
  for (const int64_t rows : kTailSizes)
    for (const int64_t cols : kTailSizes) check_view({{rows, cols}, {1, rows}}, fmt::format("{}x{}", rows, cols));
  check_view({{333, 257}, {1, 333}}, "333x257 transposed");
  check_view({{5, 333, 65}, {333 * 65, 1, 333}}, "batch of transposes");
}

}  // namespace qinco::kernels::tests
