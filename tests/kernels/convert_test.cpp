// to_f16, from_f16, to_bf16, from_bf16: the bits of half.h, NaN's too, in every version. That those are the nearest
// values is tested with the dtypes (tests/tensor).
#include <bit>
#include <doctest/doctest.h>

#include "kernels/half.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(to_f16);
QINCO_COVERS(from_f16);
QINCO_COVERS(to_bf16);
QINCO_COVERS(from_bf16);

struct Format {
  const char* name;
  decltype(Table<float>::to_f16) Table<float>::*to;
  decltype(Table<float>::from_f16) Table<float>::*from;
  uint16_t (*bits)(float);
  float (*value)(uint16_t);
};

constexpr Format kFormats[] = {{"f16", &Table<float>::to_f16, &Table<float>::from_f16, f16_bits, f16_value},
                               {"bf16", &Table<float>::to_bf16, &Table<float>::from_bf16, bf16_bits, bf16_value}};

// Every sign, exponent and beginning of a fraction, each with ends at, around and between what is rounded to: ties of
// bf16 at 0x8000, of f16 at 0x1000 and above.
std::vector<float> floats_of_all_kinds() {
  std::vector<float> all;
  for (uint32_t high = 0; high < 65536; ++high)
    for (const uint32_t low : {0x0000, 0x0001, 0x0fff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x2fff, 0x3000, 0x3001, 0x7fff,
                               0x8000, 0x8001, 0xf000, 0xffff})
      all.push_back(std::bit_cast<float>(high << 16 | low));
  return all;
}

std::vector<uint16_t> all_halves() {
  std::vector<uint16_t> all;
  for (uint32_t bits = 0; bits < 65536; ++bits) all.push_back(static_cast<uint16_t>(bits));
  return all;
}

template <class To, class From>
std::vector<To> run_kernel(void (*kernel)(const Context&, int64_t, const From*, To*), const Context& context,
                           const std::vector<From>& x, int64_t offset = 1) {
  Buffer<From> in(x, offset);
  Buffer<To> out(in.size(), offset);
  kernel(context, in.size(), in.data(), out.data());
  CHECK(out.guards_hold());
  return out.values();
}

// The same bits as value(x[i]), aligned and not, for all of x, for sizes around its multiples, and with several
// threads.
template <class To, class From>
void check_each(void (*kernel)(const Context&, int64_t, const From*, To*), const std::vector<From>& x,
                To (*value)(From), const std::string& what) {
  std::vector<To> expected;
  for (const From each : x) expected.push_back(value(each));
  const auto run = [&](const Context& context) { return run_kernel(kernel, context, x); };
  for (const int64_t offset : {0, 1})
    CHECK_MESSAGE(same_bits(run_kernel(kernel, TestContext(), x, offset), expected), what);
  check_any_thread_count(run, what);
  for (const int64_t n : kTailSizes)
    for (const int64_t offset : {0, 1}) {
      const size_t begin = x.size() / 3, end = begin + static_cast<size_t>(n);  // among large numbers
      const std::vector<From> part(x.begin() + static_cast<int64_t>(begin), x.begin() + static_cast<int64_t>(end));
      const std::vector<To> of_part(expected.begin() + static_cast<int64_t>(begin),
                                    expected.begin() + static_cast<int64_t>(end));
      CHECK_MESSAGE(same_bits(run_kernel(kernel, TestContext(), part, offset), of_part), what << " n=" << n);
    }
  CHECK(run_kernel(kernel, TestContext(), std::vector<From>()).empty());
}

}  // namespace

TEST_CASE("to_f16 and to_bf16: the definition, bit for bit, of floats of all kinds") {
  const std::vector<float> x = floats_of_all_kinds();
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const Format& format : kFormats) check_each(t.*format.to, x, format.bits, version.name + format.name);
  });
}

TEST_CASE("from_f16 and from_bf16: the definition, bit for bit, of all values") {
  const std::vector<uint16_t> x = all_halves();
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    for (const Format& format : kFormats) check_each(t.*format.from, x, format.value, version.name + format.name);
  });
}

TEST_CASE("to and from 16-bit floats: values worked out by hand, and double by way of float") {
  const std::vector<float> x = {1, -2, 65504, 65519, 65520, 0x1p-24f, 0x1p-25f, -0x1.8p-25f, 1 + 0x1p-11f, kInf, -kNan};
  const std::vector<uint16_t> f16 = {0x3c00, 0xc000, 0x7bff, 0x7bff, 0x7c00, 1, 0, 0x8001, 0x3c00, 0x7c00, 0xfe00};
  const std::vector<float> y = {1, -2, 1 + 0x1p-8f, 1 + 0x1.8p-7f, 3.4e38f, 0x1p-133f, -kInf};
  const std::vector<uint16_t> bf16 = {0x3f80, 0xc000, 0x3f80, 0x3f82, 0x7f80, 1, 0xff80};
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    check_equal(run_kernel(t.to_f16, TestContext(), x), f16, version.name);
    check_equal(run_kernel(t.to_bf16, TestContext(), y), bf16, version.name);
    check_equal(run_kernel(t.from_f16, TestContext(), std::vector<uint16_t>{0x3555, 0x8001, 0xfc00, 0x7e00}),
                {0x1.554p-2f, -0x1p-24f, -kInf, kNan}, version.name);
    check_equal(run_kernel(t.from_bf16, TestContext(), std::vector<uint16_t>{0x3eab, 0x8001, 0xff80, 0x7fc0}),
                {0x1.56p-2f, -0x1p-133f, -kInf, kNan}, version.name);
  });
  const Table<double>& wide = table<double>();
  // The nearest float is halfway between two halves, the double above it.
  check_equal(run_kernel(wide.to_f16, TestContext(), std::vector<double>{1 + 0x1p-11 + 0x1p-40, 1e300}),
              {0x3c00, 0x7c00}, "double");
  check_equal(run_kernel(wide.to_bf16, TestContext(), std::vector<double>{1 + 0x1p-8 + 0x1p-40, 1e300}),
              {0x3f80, 0x7f80}, "double");
  check_equal(run_kernel(wide.from_f16, TestContext(), std::vector<uint16_t>{0x3555}), {0x1.554p-2}, "double");
  check_equal(run_kernel(wide.from_bf16, TestContext(), std::vector<uint16_t>{0x3eab}), {0x1.56p-2}, "double");
}

}  // namespace qinco::kernels::tests
