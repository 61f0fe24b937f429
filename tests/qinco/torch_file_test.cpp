// Files of real PyTorch versions: tests/golden/make_torch_files.py made them and says what is in them.
#include "qinco/io/torch_file.h"

#include <doctest/doctest.h>

#include "qinco/codec/product_codec.h"
#include "qinco/io/product_file.h"
#include "qinco/io/vectors.h"
#include "tensor/create.h"
#include "tests/qinco/model_fixtures.h"

using namespace qinco;
using namespace qinco::testing;
using tests::contains;
using tests::error_of;

namespace {

std::string golden(const std::string& name) {
  return std::string(QINCO_SOURCE_DIR) + "/tests/golden/torch/" + name;
}

/// The parameters of a file of expected values.
TensorMap expected_parameters(const SafetensorsFile& expected) {
  TensorMap parameters;
  for (const auto& [name, tensor] : expected.tensors)
    if (name.rfind("param.", 0) == 0) parameters.emplace(name.substr(6), tensor);
  return parameters;
}

void check_same(const TensorMap& found, const TensorMap& expected, DType stored = DType::f32) {
  REQUIRE(found.size() == expected.size());
  for (const auto& entry : expected) {
    const std::string& name = entry.first;
    CAPTURE(name);
    REQUIRE(found.count(name) == 1);
    CHECK(found.at(name).dtype() == stored);
    CHECK(testing::same_bits(found.at(name), entry.second.to(stored)));
  }
}

/// Encodes and decodes as PyTorch did: models of every variant.
void check_codec(const std::string& model, const std::string& expected_file) {
  CAPTURE(model);
  const SafetensorsFile expected = read_safetensors(golden(expected_file));
  const Tensor& codes = expected.tensors.at("codes");
  const int64_t n = codes.size(0);
  REQUIRE(n >= 1000);
  const ProductCodec codec(load_product(golden(model)));
  const std::string learn = std::string(QINCO_SOURCE_DIR) + "/data/sift-sample/learn.bvecs";
  const Tensor x = read_rows(learn, 0, n).slice(1, 0, codec.d()).contiguous();
  const Tensor found = Tensor::empty(codes.shape(), DType::i32), decoded = Tensor::empty(x.shape());
  REQUIRE(codes.size(1) == codec.codes_per_vector(codec.M()));
  codec.encode(n, x.data<float>(), codec.M(), found.data<int32_t>());
  int64_t other = 0;
  for (int64_t i = 0; i < codes.numel(); ++i) other += found.data<int32_t>()[i] != codes.data<int32_t>()[i];
  CHECK(static_cast<double>(other) <= 1e-3 * static_cast<double>(codes.numel()));
  codec.decode(n, codes.data<int32_t>(), codec.M(), codec.M(), decoded.data<float>());
  CHECK(relative_difference(decoded, expected.tensors.at("decoded")) <= 1e-5);
}

}  // namespace

TEST_CASE("torch files: models saved whole, by old and new PyTorch and NumPy, wrapped, from a GPU, in protocol 4") {
  const TensorMap expected = expected_parameters(read_safetensors(golden("expected_qinco.safetensors")));
  for (const char* name :
       {"qinco.pt", "qinco_old.pt", "qinco_wrapped.pt", "qinco_distributed.pt", "qinco_gpu.pt", "qinco_protocol4.pt"}) {
    CAPTURE(name);
    const ModelContents contents = read_model_file(golden(name));
    CHECK(contents.source == "PyTorch module model_qinco.QINCo");
    CHECK(contents.metadata == std::map<std::string, std::string>{{"format", "qinco"},
                                                                  {"variant", "qinco"},
                                                                  {"d", "8"},
                                                                  {"M", "3"},
                                                                  {"K", "16"},
                                                                  {"L", "2"},
                                                                  {"h", "12"},
                                                                  {"db_scale", "203.5"}});
    check_same(contents.tensors, expected);
    CHECK(load_model(golden(name)).config().db_scale == 203.5F);
  }
}

TEST_CASE("torch files: state dicts of every floating type, of views of one storage, and checkpoints") {
  const TensorMap expected = expected_parameters(read_safetensors(golden("expected_qinco.safetensors")));
  const auto check_file = [&](const char* name, const char* source, DType stored = DType::f32) {
    CAPTURE(name);
    const ModelContents contents = read_model_file(golden(name));
    CHECK(contents.source == source);
    CHECK(contents.metadata.at("L") == "2");
    CHECK(contents.metadata.count("db_scale") == 0);
    check_same(contents.tensors, expected, stored);
    const std::string message = error_of([&] { load_model(golden(name)); });
    CHECK(contains(message, "--db_scale"));
  };
  check_file("state_dict.pt", "PyTorch state dict");
  check_file("state_dict_views.pt", "PyTorch state dict");
  check_file("state_dict_wrapped.pt", "PyTorch state dict");
  check_file("state_dict_f64.pt", "PyTorch state dict", DType::f64);
  check_file("state_dict_f16.pt", "PyTorch state dict", DType::f16);
  check_file("state_dict_bf16.pt", "PyTorch state dict", DType::bf16);
  check_file("checkpoint.pt", "PyTorch training checkpoint, epoch 7");
}

TEST_CASE(
    "torch files: checkpoints of whole trainings, with optimisers, schedulers, options, arrays and random states") {
  const TensorMap expected = expected_parameters(read_safetensors(golden("expected_qinco.safetensors")));
  for (const std::string name : {"training.pt", "training_old.pt", "training_protocol5.pt"}) {
    CAPTURE(name);
    const ModelContents contents = read_model_file(golden(name));
    CHECK(contents.source ==
          (name == "training_protocol5.pt" ? "PyTorch training checkpoint" : "PyTorch training checkpoint, epoch 7"));
    CHECK(contents.metadata.at("db_scale") == "203.5");
    check_same(contents.tensors, expected);
    CHECK(load_model(golden(name)).config().M == 3);
  }
}

TEST_CASE("torch files: a db_scale among the tensors is the model's db_scale and no parameter") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.pt");
  TensorMap tensors = read_model_file(golden("state_dict.pt")).tensors;
  const size_t parameters = tensors.size();
  for (const Shape& shape : {Shape{}, Shape{1}}) {
    tensors["db_scale"] = full(shape, 2.5, DType::f64);  // a registered buffer, or put into the dict
    write_torch_file(path, {"", {}, tensors});
    CHECK(load_model(path).config().db_scale == 2.5F);
    CHECK(read_model_file(path).tensors.size() == parameters);
  }
  TensorMap wrapped, parts;
  for (const auto& [name, tensor] : tensors) wrapped["module." + name] = tensor;
  write_torch_file(path, {"", {}, wrapped});
  CHECK(load_model(path).config().db_scale == 2.5F);
  for (const char* prefix : {"sub_quantizer_0.", "sub_quantizer_1."})
    for (const auto& [name, tensor] : tensors) parts[prefix + name] = tensor;
  write_torch_file(path, {"", {}, parts});
  CHECK(load_product(path).parts[1].config().db_scale == 2.5F);
  tensors["db_scale"] = full({1}, -1);
  write_torch_file(path, {"", {}, tensors});
  CHECK(contains(error_of([&] { load_model(path); }), "db_scale: expected a finite float32 above 0, found -1"));
}

TEST_CASE("torch files: QINCo and QINCo-LR give PyTorch's codes and vectors") {
  check_codec("qinco.pt", "expected_qinco.safetensors");
  check_codec("qinco_old.pt", "expected_qinco.safetensors");
  check_codec("qinco_lr.pt", "expected_qinco_lr.safetensors");
}

TEST_CASE("torch files: IVF, PQ and QINCo2 models are described, and refused by name where they cannot be used") {
  const auto metadata = [](const char* name) { return read_model_file(golden(name)).metadata; };
  const auto ivf = metadata("ivf_qinco.pt"), pq = metadata("pq_qinco.pt"), opq = metadata("pq_qinco_opq.pt");
  CHECK(ivf.at("variant") == "ivf-qinco");
  CHECK(ivf.at("K_ivf") == "32");
  CHECK(ivf.at("K") == "16");
  CHECK(ivf.at("M") == "3");
  CHECK(pq.at("variant") == "pq-qinco");
  CHECK(pq.at("nsub") == "2");
  CHECK(pq.at("d") == "8");
  CHECK(pq.at("M") == "2");  // of one part
  CHECK(pq.at("sub_quantizer_1.variant") == "qinco");
  CHECK(pq.at("sub_quantizer_1.d") == "4");
  CHECK(pq.at("sub_quantizer_1.db_scale") == "203.5");
  CHECK(opq == pq);
  CHECK(read_model_file(golden("pq_qinco_opq.pt")).tensors.at("opq_matrix").shape() == Shape{8, 8});
  CHECK(metadata("qinco2.pt").at("data_dim") == "8");
  for (const char* name : {"pq_qinco.pt", "pq_qinco_opq.pt", "qinco2.pt"})
    CHECK(contains(error_of([&] { load_model(golden(name)); }), name));
  CHECK(load_model(golden("ivf_qinco.pt")).config().K_ivf == 32);
  CHECK(load_product(golden("pq_qinco_opq.pt")).rotation.defined());
  CHECK(load_product(golden("pq_qinco.pt")).nsub() == 2);
}

TEST_CASE("torch files: IVF and PQ models, with and without OPQ, code and decode as in PyTorch") {
  for (const std::string name : {"ivf_qinco", "pq_qinco", "pq_qinco_opq"})
    check_codec(name + ".pt", "expected_" + name + ".safetensors");
}

TEST_CASE("torch files: the format before PyTorch 1.6 is named") {
  CHECK(is_torch_file(*MappedFile::open(golden("legacy.pt"))));
  CHECK(contains(error_of([] { load_model(golden("legacy.pt")); }), "before 1.6"));
}

TEST_CASE("torch files: what is written reads back bit for bit, with its db_scale") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.pt");
  for (const bool lowrank : {false, true}) {
    const QincoConfig config{.d = 5, .M = 3, .K = 8, .L = 2, .h = 7, .lowrank = lowrank, .db_scale = 0.1F};
    const Qinco model = random_model(config, 4);
    write_torch_file(path, {"", model_metadata(config), model.state()});
    const Qinco back = load_model(path);
    CHECK(back.config().same_sizes(config));
    CHECK(back.config().db_scale == 0.1F);
    check_same(back.state(), model.state());
  }
  const TensorMap tensors = read_model_file(golden("state_dict_f16.pt")).tensors;
  write_torch_file(path, {"", {}, tensors});
  check_same(read_torch_file(MappedFile::open(path)).tensors, tensors, DType::f16);
  CHECK(read_torch_file(MappedFile::open(path)).metadata.count("db_scale") == 0);
}

TEST_CASE("torch files: a rotated IVF-QINCo reads back, whose codes are one more than its steps") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.pt"), ours = directory.file("model.safetensors");
  ProductQinco product;
  product.parts.push_back(random_model(small_config(4, false, 20), 4));
  product.rotation = random_vectors({.d = 12}, 12, 5);
  save_product(ours, product);
  const ModelContents contents = read_model_file(ours);
  write_torch_file(path, contents);
  CHECK(read_model_file(path).metadata == contents.metadata);
  const ProductQinco back = load_product(path);
  CHECK(back.M() == 5);
  CHECK(testing::same_bits(back.rotation, product.rotation));
  check_same(back.parts[0].state(), product.parts[0].state());
}

TEST_CASE("torch files: models with M = 1 keep L and h, and need none from others") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("model.pt"), ours = directory.file("model.safetensors");
  const QincoConfig config{.d = 5, .M = 1, .K = 8, .L = 3, .h = 7, .db_scale = 0.5F};
  const Qinco model = random_model(config, 4);
  write_torch_file(path, {"", model_metadata(config), model.state()});
  CHECK(load_model(path).config().same_sizes(config));
  check_same(load_model(path).state(), model.state());
  ProductQinco product;
  for (const int seed : {1, 2}) product.parts.push_back(random_model(config, seed));
  save_product(ours, product);
  const ModelContents contents = read_model_file(ours);
  write_torch_file(path, contents);
  CHECK(read_model_file(path).metadata == contents.metadata);
  TensorMap foreign = model.state();
  foreign["db_scale"] = full({1}, 2.5);
  write_torch_file(path, {"", {}, foreign});
  CHECK(load_model(path).config().L == 1);
  CHECK(load_model(path).config().h == 1);
}
