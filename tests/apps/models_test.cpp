// Corrupted, truncated and hostile model files: one line that names the file, exit code 1, bounded memory.
#include <cmath>
#include <cstring>

#include "tensor/create.h"
#include "tensor/safetensors.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

const Limits kSmall = {.seconds = 60, .memory = 1LL << 30, .file_size = 0, .out = {}};

class BadModels {
 public:
  BadModels() : good_(read_bytes(space_.model())), path_(space_.file("bad.safetensors")) {}

  const std::string& good() const { return good_; }

  void expect_refused(const std::string& bytes, std::initializer_list<std::string> parts = {}) const {
    write_bytes(path_, bytes);
    expect_path_refused(parts);
  }

  void expect_refused(const SafetensorsFile& file, std::initializer_list<std::string> parts) const {
    write_safetensors(path_, file);
    expect_path_refused(parts);
  }

  /// The model with one metadata value changed.
  void expect_metadata_refused(const std::string& key, const std::string& value) const {
    SafetensorsFile file = contents();
    file.metadata[key] = value;
    CAPTURE(key);
    CAPTURE(value);
    expect_refused(file, {"bad.safetensors"});
  }

  SafetensorsFile contents() const { return read_safetensors(space_.model()); }

  /// Runs `info`, which must say what is wrong or succeed; anything else fails the test.
  void expect_no_crash(const std::string& bytes) const {
    write_bytes(path_, bytes);
    const Outcome outcome = run({"info", path_}, kSmall);
    if (outcome.code == 0) return;
    check_error(outcome, 1, {"bad.safetensors"});
  }

 private:
  void expect_path_refused(std::initializer_list<std::string> parts) const {
    expect_error(space_.path(), {"info", path_}, 1, {"bad.safetensors"}, kSmall);
    expect_error(space_.path(), with(space_.encode(), "--model", path_), 1, parts, kSmall);
  }

  Workspace space_;
  std::string good_, path_;
};

std::string raw_safetensors(uint64_t header_size, const std::string& header, const std::string& data) {
  std::string bytes(reinterpret_cast<const char*>(&header_size), sizeof(header_size));
  return bytes + header + data;
}

std::string raw_safetensors(const std::string& header, const std::string& data) {
  return raw_safetensors(header.size(), header, data);
}

TEST_CASE("models: truncated at any place, or over-long") {
  const BadModels models;
  const size_t size = models.good().size();
  for (const size_t kept : {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{9}, size_t{100}, size / 2, size - 1})
    models.expect_refused(models.good().substr(0, kept), {"bad.safetensors"});
  models.expect_refused(models.good() + "x", {"bad.safetensors"});
}

TEST_CASE("models: header lengths that lie") {
  const BadModels models;
  const std::string rest = models.good().substr(8);
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 31, uint64_t{1} << 40, uint64_t{1} << 63,
                                ~uint64_t{0}, ~uint64_t{0} - 7, static_cast<uint64_t>(models.good().size())})
    models.expect_refused(raw_safetensors(length, rest, ""), {"bad.safetensors"});
}

TEST_CASE("models: headers that are no JSON object of tensors") {
  const BadModels models;
  for (const std::string& header :
       {std::string("not JSON at all"), std::string("[]"), std::string("null"), std::string("{\"a\":1}"),
        std::string("{\"a\":{}}"), std::string("{\"__metadata__\":[]}"), std::string(100000, '['),
        std::string("{\"a\":") + std::string(50000, '{'), std::string("\xff\xfe{}")})
    models.expect_refused(raw_safetensors(header, ""), {"bad.safetensors"});
}

TEST_CASE("models: tensor ranges that overlap, leave the file, run backwards or do not fit the shape") {
  const BadModels models;
  const auto refused = [&](const std::string& a, const std::string& b) {
    const std::string header = fmt::format(
        R"({{"__metadata__":{{"format":"qinco"}},"a":{{"dtype":"F32",{}}},"b":{{"dtype":"F32",{}}}}})", a, b);
    CAPTURE(header);
    models.expect_refused(raw_safetensors(header, std::string(32, '\0')), {"bad.safetensors"});
  };
  const std::string first = R"("shape":[4],"data_offsets":[0,16])";
  refused(first, R"("shape":[4],"data_offsets":[8,24])");
  refused(first, R"("shape":[4],"data_offsets":[0,16])");
  refused(first, R"("shape":[5],"data_offsets":[16,36])");
  refused(first, R"("shape":[4],"data_offsets":[32,16])");
  refused(first, R"("shape":[4],"data_offsets":[-16,0])");
  refused(first, R"("shape":[4],"data_offsets":[16,18446744073709551615])");
  refused(first, R"("shape":[4],"data_offsets":[9223372036854775800,9223372036854775816])");
  refused(first, R"("shape":[3],"data_offsets":[16,32])");
  refused(first, R"("shape":[-4],"data_offsets":[16,32])");
  refused(first, R"("shape":[4294967296,4294967296,4],"data_offsets":[16,32])");
  refused(first, R"("shape":[4],"data_offsets":[16])");
  refused(first, R"("shape":"four","data_offsets":[16,32])");
  refused(first, R"("shape":[1,1,1,1,1,1,1,1,1,4],"data_offsets":[16,32])");
}

TEST_CASE("models: tensors missing, unexpected, of other shapes or types, or not finite") {
  const BadModels models;
  for (const auto& entry : models.contents().tensors) {
    const std::string& name = entry.first;
    const Tensor& tensor = entry.second;
    CAPTURE(name);
    SafetensorsFile file = models.contents();
    file.tensors.erase(name);
    models.expect_refused(file, {"bad.safetensors", "parameters"});
    file.tensors[name] = zeros({3, 5});
    models.expect_refused(file, {"bad.safetensors", "parameters"});
    file.tensors[name] = tensor.reshape({tensor.numel(), 1});  // as many, in another shape
    models.expect_refused(file, {"bad.safetensors", name});
    file.tensors.erase(name);
    file.tensors["other"] = tensor;
    models.expect_refused(file, {"bad.safetensors", name});
  }
  SafetensorsFile file = models.contents();
  file.tensors["step9.codebook.weight"] = zeros({2});
  models.expect_refused(file, {"bad.safetensors", "parameters"});
  for (const float bad : {NAN, INFINITY}) {
    file = models.contents();
    const Tensor weights = file.tensors["codebook0.weight"].clone();
    weights.data<float>()[3] = bad;
    file.tensors["codebook0.weight"] = weights;
    models.expect_refused(file, {"bad.safetensors", "codebook0.weight"});
  }
  file = models.contents();
  file.tensors["codebook0.weight"] = zeros({Workspace::kK, Workspace::kD}, DType::i32);
  models.expect_refused(file, {"bad.safetensors", "codebook0.weight"});
}

TEST_CASE("models: one that decodes to what is not finite is refused, by the row") {
  const Workspace space;
  SafetensorsFile file = read_safetensors(space.model());
  Tensor& bias = file.tensors.at("step1.MLPconcat.bias");
  bias = full(bias.shape(), 3e38);
  const std::string bad = space.file("bad.safetensors");
  write_safetensors(bad, file);
  for (const Arguments& arguments : {space.encode(), space.decode()})
    expect_error(space.path(), with(arguments, "--model", bad), 1, {"bad.safetensors: decodes row 0 to"});
}

TEST_CASE("models: metadata missing or out of range") {
  const BadModels models;
  for (const char* key : {"format", "variant", "d", "K", "L", "M", "h", "db_scale"}) {
    SafetensorsFile file = models.contents();
    file.metadata.erase(key);
    CAPTURE(key);
    models.expect_refused(file, {"bad.safetensors", key});
  }
  for (const char* key : {"d", "K", "L", "M", "h"})
    for (const char* value : {"0", "-1", "", "abc", "17", "8.5", "1e3", "99999999999999999999", "4611686018427387904"})
      models.expect_metadata_refused(key, value);
  for (const char* value : {"0", "-1", "nan", "inf", "", "abc", "1e60"})
    models.expect_metadata_refused("db_scale", value);
  models.expect_metadata_refused("variant", "ivf-qinco");
  models.expect_metadata_refused("variant", "qinco-lr");
}

TEST_CASE("models: other files given as a model are named") {
  const BadModels models;
  SafetensorsFile file = models.contents();
  file.metadata["format"] = "rq";
  models.expect_refused(file, {"bad.safetensors", "rq"});
  file.metadata.clear();
  models.expect_refused(file, {"bad.safetensors"});
}

TEST_CASE("models: no flipped byte of the header crashes the reader") {
  const BadModels models;
  uint64_t header_size = 0;
  std::memcpy(&header_size, models.good().data(), sizeof(header_size));
  Random random(3);
  for (int i = 0; i < 100; ++i) {
    std::string bytes = models.good();
    const uint64_t at = i < 16 ? static_cast<uint64_t>(i / 2) : random.below(8 + header_size);
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + random.below(255)));
    CAPTURE(at);
    models.expect_no_crash(bytes);
  }
}

}  // namespace
}  // namespace qinco::tests
