// What the fuzz targets share: an input as a file, and touching all that a reader returned.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <unistd.h>

#include "kernels/check.h"
#include "tensor/safetensors.h"

namespace qinco::fuzz {

/// A file of the input's bytes, in memory where the system has such a place; removed at the end of the scope.
class InputFile {
 public:
  InputFile(const uint8_t* data, size_t size, const std::string& extension) {
    const char* const directory = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : "/tmp";
    path_ = fmt::format("{}/qinco-fuzz-{}{}", directory, ::getpid(), extension);
    std::FILE* const file = std::fopen(path_.c_str(), "wb");
    if (file == nullptr || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0) std::abort();
  }
  ~InputFile() { std::remove(path_.c_str()); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Reads every element.
inline void touch(const TensorMap& tensors) {
  for (const auto& [name, tensor] : tensors) tensor.to(DType::f32).clone();
}

/// Runs `body`; an Error must be one line that begins with the file's path.
template <class Body>
void expect_result_or_error(const InputFile& file, Body&& body) {
  try {
    body(file.path());
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(file.path() + ": ", 0) != 0 || message.find('\n') != std::string::npos) {
      std::fprintf(stderr, "a message that is not one line naming the file: %s\n", message.c_str());
      std::abort();
    }
  }
}

}  // namespace qinco::fuzz
