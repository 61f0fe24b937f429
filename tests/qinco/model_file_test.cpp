#include "qinco/io/model_file.h"

#include <cmath>
#include <doctest/doctest.h>
#include <filesystem>
#include <limits>

#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;

namespace {

const QincoConfig kConfig{.d = 4, .M = 3, .K = 8, .L = 2, .h = 3, .db_scale = 0.1F};

std::string load_error(const std::string& path) {
  try {
    load_model(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// The message, less "path: ", after `change` was made to a good file.
template <class Change>
std::string error_after(Change&& change) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  const Qinco model = random_model(kConfig, 1);
  SafetensorsFile file{model.state(), model_metadata(kConfig)};
  change(file);
  write_safetensors(path, file);
  const std::string message = load_error(path);
  if (message == "no error") return message;
  REQUIRE(message.rfind(fmt::format("{}: ", path), 0) == 0);
  CHECK(message.find('\n') == std::string::npos);
  return message.substr(path.size() + 2);
}

}  // namespace

TEST_CASE("a saved model reads back bit for bit") {
  const TemporaryDirectory directory;
  for (const bool lowrank : {false, true}) {
    QincoConfig config = kConfig;
    config.lowrank = lowrank;
    for (const float db_scale : {0.1F, 255.0F, 1e-30F, 16777217.0F, std::numeric_limits<float>::denorm_min()}) {
      config.db_scale = db_scale;
      const Qinco model = random_model(config, 2);
      const std::string path = directory.file("model.safetensors");
      save_model(path, model);
      const Qinco loaded = load_model(path);
      CHECK(loaded.config().same_sizes(config));
      CHECK(loaded.config().db_scale == db_scale);
      const TensorMap before = model.state(), after = loaded.state();
      REQUIRE(before.size() == after.size());
      for (const auto& [name, tensor] : before) CHECK(same_bits(after.at(name), tensor));
    }
  }
}

TEST_CASE("parameters stored in other floating types are converted") {
  CHECK(error_after([](SafetensorsFile& file) {
          for (auto& [name, tensor] : file.tensors) tensor = tensor.to(DType::f64);
        }) == "no error");
  CHECK(error_after([](SafetensorsFile& file) {
          for (auto& [name, tensor] : file.tensors) tensor = tensor.to(DType::f16);
        }) == "no error");
}

TEST_CASE("parameters beyond float32 are errors that name tensor and value, those below it become 0") {
  const auto with_value = [](double value) {
    return error_after([value](SafetensorsFile& file) {
      Tensor& w = file.tensors.at("step1.codebook.weight");
      w = w.to(DType::f64);
      w.data<double>()[5] = value;
    });
  };
  CHECK(with_value(1e60) == "tensor 'step1.codebook.weight' holds 1e+60, beyond float32");
  CHECK(with_value(-1e39) == "tensor 'step1.codebook.weight' holds -1e+39, beyond float32");
  CHECK(with_value(INFINITY) == "tensor 'step1.codebook.weight' holds NaN or infinity");
  CHECK(with_value(3.4e38) == "no error");
  CHECK(with_value(1e-60) == "no error");
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  SafetensorsFile file{random_model(kConfig, 1).state(), model_metadata(kConfig)};
  Tensor& w = file.tensors.at("codebook0.weight");
  w = full(w.shape(), 1e-60, DType::f64);
  write_safetensors(path, file);
  CHECK(same_bits(load_model(path).state().at("codebook0.weight"), zeros(w.shape())));
}

TEST_CASE("metadata out of range is an error that names the key") {
  const auto with = [](const char* key, const char* value) {
    return error_after([&](SafetensorsFile& file) { file.metadata[key] = value; });
  };
  CHECK(error_after([](SafetensorsFile& file) { file.metadata.erase("h"); }) == "no 'h' in the metadata");
  CHECK(with("format", "rq") == "expected a file of format 'qinco', found 'rq'");
  CHECK(with("variant", "pq") == "expected variant 'qinco', 'qinco-lr' or 'ivf-qinco', found 'pq'");
  CHECK(with("K", "7") == "K: expected a power of two from 2 to 65536, found 7");
  CHECK(with("K", "eight") == "metadata 'K': expected an integer, found 'eight'");
  CHECK(with("K", "8 ") == "metadata 'K': expected an integer, found '8 '");
  CHECK(with("d", "99999999999999999999") == "metadata 'd': expected an integer, found '99999999999999999999'");
  CHECK(with("d", "-4") == "d: expected 1 to 1048576, found -4");
  CHECK(with("M", "0") == "M: expected 1 to 1048576, found 0");
  CHECK(with("db_scale", "0") == "db_scale: expected a finite value above 0, found 0");
  CHECK(with("db_scale", "nan") == "db_scale: expected a finite value above 0, found nan");
  CHECK(with("db_scale", "1e99") == "metadata 'db_scale': expected a number, found '1e99'");
  CHECK(with("d", "5").rfind("expected ", 0) == 0);
  // As it happens, both variants have 264 parameters of these sizes: the names tell them apart.
  CHECK(with("variant", "qinco-lr").find("MLPconcat") != std::string::npos);
}

TEST_CASE("sizes that would need more memory than the file holds are refused before they are allocated") {
  const std::string message = error_after([](SafetensorsFile& file) {
    file.metadata["d"] = "1048576";
    file.metadata["h"] = "1048576";
    file.metadata["M"] = "1000";
  });
  CHECK(message.rfind("expected ", 0) == 0);
  CHECK(message.find("parameters for qinco d=1048576 M=1000 K=8 L=2 h=1048576, found 264") != std::string::npos);
  CHECK(error_after([](SafetensorsFile& file) {
          for (const char* key : {"d", "h", "L", "M"}) file.metadata[key] = "1048576";
        }).find("overflows") != std::string::npos);
}

TEST_CASE("tensors that do not fit the metadata are errors that name the tensor") {
  const auto mentions = [](const std::string& message, const char* text) {
    CAPTURE(message);
    CHECK(message.find(text) != std::string::npos);
  };
  mentions(error_after([](SafetensorsFile& file) {
             auto node = file.tensors.extract("step1.codebook.weight");
             node.key() = "step1.codebook.bias";
             file.tensors.insert(std::move(node));
           }),
           "step1.codebook.");
  mentions(error_after([](SafetensorsFile& file) {
             Tensor& w = file.tensors.at("step2.MLPconcat.weight");
             w = w.transpose(0, 1).contiguous();
           }),
           "step2.MLPconcat.weight");
  mentions(error_after([](SafetensorsFile& file) {
             file.tensors.at("step1.MLPconcat.bias").data<float>()[2] = std::numeric_limits<float>::infinity();
           }),
           "tensor 'step1.MLPconcat.bias' holds NaN or infinity");
  mentions(error_after([](SafetensorsFile& file) {
             Tensor& w = file.tensors.at("codebook0.weight");
             w = zeros(w.shape(), DType::i32);
           }),
           "tensor 'codebook0.weight': expected a floating dtype, found i32");
  mentions(error_after([](SafetensorsFile& file) { file.tensors.erase("codebook0.weight"); }), "found 232");
  mentions(error_after([](SafetensorsFile& file) { file.tensors["extra"] = zeros({2}); }), "found 266");
}

TEST_CASE("a model that cannot be saved leaves the old file and nothing else") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.safetensors");
  save_model(path, random_model(kConfig, 1));
  const auto size = std::filesystem::file_size(path);
  CHECK_THROWS_AS(save_model(directory.file("none/model.safetensors"), random_model(kConfig, 2)), Error);
  CHECK_THROWS_AS(save_model("/dev/full", random_model(kConfig, 2)), Error);
  CHECK(std::filesystem::file_size(path) == size);
  CHECK(std::distance(std::filesystem::directory_iterator(directory.file("")), {}) == 1);
}
