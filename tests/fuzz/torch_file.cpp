// PyTorch's files: the ZIP reader, the pickle machine, tensors, and the mapping to models. Checksums are not checked in
// this build, else no mutation would get past them.
#include "qinco/io/torch_file.h"

#include "qinco/io/product_file.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const qinco::fuzz::InputFile file(data, size, ".pt");
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) {
    const qinco::ModelContents contents = qinco::read_torch_file(qinco::MappedFile::open(path));
    qinco::fuzz::touch(contents.tensors);
    qinco::check_model(path, contents);
  });
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) { qinco::load_product(path); });
  return 0;
}
