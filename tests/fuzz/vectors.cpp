// Files of vectors and ids in every format; the input's first byte chooses which.
#include "qinco/io/vectors.h"

#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr const char* kExtensions[] = {".fvecs", ".bvecs", ".ivecs", ".npy", ".fbin", ".u8bin"};
  if (size == 0) return 0;
  const qinco::fuzz::InputFile file(data + 1, size - 1, kExtensions[data[0] % std::size(kExtensions)]);
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) { qinco::read_all(path); });
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) { qinco::read_ids(path, 1000); });
  return 0;
}
