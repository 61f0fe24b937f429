// safetensors files, and models in them.
#include "qinco/io/product_file.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const qinco::fuzz::InputFile file(data, size, ".safetensors");
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) {
    const qinco::SafetensorsFile contents = qinco::read_safetensors(path);
    qinco::fuzz::touch(contents.tensors);
    qinco::check_model(path, {"safetensors", contents.metadata, contents.tensors, contents.file});
  });
  qinco::fuzz::expect_result_or_error(file, [](const std::string& path) { qinco::load_product(path); });
  return 0;
}
