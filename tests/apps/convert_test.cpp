// qinco convert and info through the real program: every model format in every subcommand; vectors and codes there and
// back.
#include <cmath>
#include <functional>

#include "qinco/io/rows.h"
#include "tensor/create.h"
#include "tests/apps/workspace.h"

namespace qinco::tests {
namespace {

std::string golden(const std::string& name) {
  return std::string(QINCO_SOURCE_DIR) + "/tests/golden/torch/" + name;
}

void succeed(const Arguments& arguments) {
  const Outcome outcome = run(arguments);
  CHECK_MESSAGE(outcome.err.empty(), outcome.err);
  REQUIRE(outcome.code == 0);
}

TEST_CASE("convert: a model there and back gives the same codes and vectors, and every subcommand takes either") {
  const Workspace space;
  const std::string torch = space.file("model.pt"), back = space.file("back.safetensors");
  succeed({"convert", space.model(), torch});
  succeed({"convert", torch, back});
  CHECK(read_bytes(back) == read_bytes(space.model()));
  succeed(space.encode());
  const std::string codes = read_bytes(space.file("out.npy"));
  succeed(with(space.encode(), "--model", torch));
  CHECK(read_bytes(space.file("out.npy")) == codes);
  succeed(space.decode());
  const std::string decoded = read_bytes(space.file("out.fvecs"));
  succeed(with(space.decode(), "--model", torch));
  CHECK(read_bytes(space.file("out.fvecs")) == decoded);
  CHECK(results_of(with(space.eval(), "--model", torch))["mse"] == results_of(space.eval())["mse"]);
  Arguments train = space.train(1);
  train.insert(train.end(), {"--init_model", torch});
  for (const char* option : {"--M", "--K", "--L", "--h"}) {
    const auto at = std::find(train.begin(), train.end(), option);
    train.erase(at, at + 2);
  }
  succeed(train);
}

TEST_CASE("convert: PyTorch's models of every variant keep all their parameters") {
  const Workspace space;
  for (const char* name :
       {"qinco.pt", "qinco_old.pt", "qinco_lr.pt", "ivf_qinco.pt", "pq_qinco.pt", "pq_qinco_opq.pt"}) {
    CAPTURE(name);
    const std::string out = space.file("out.safetensors");
    succeed({"convert", golden(name), out});
    const ModelContents from = read_model_file(golden(name)), to = read_model_file(out);
    CHECK(to.metadata == from.metadata);
    REQUIRE(to.tensors.size() == from.tensors.size());
    for (const auto& [tensor_name, tensor] : from.tensors) CHECK(same_bits(to.tensors.at(tensor_name), tensor));
    succeed({"convert", out, space.file("again.pt")});
    CHECK(read_model_file(space.file("again.pt")).metadata == from.metadata);
    const Json before = results_of({"info", golden(name)}), after = results_of({"info", out});
    CHECK(before["parameters"] == after["parameters"]);
    CHECK(before["variant"] == after["variant"]);
  }
}

TEST_CASE("convert: a state dict needs its db_scale") {
  const Workspace space;
  const std::string out = space.file("out.safetensors");
  expect_error(space.path(), {"convert", golden("state_dict.pt"), out}, 2, {"state_dict.pt", "--db_scale"});
  expect_error(space.path(), with(space.encode(), "--model", golden("state_dict.pt")), 1, {"--db_scale"});
  expect_error(space.path(), {"convert", golden("state_dict.pt"), out, "--db_scale", "0"}, 2, {"--db_scale"});
  succeed({"convert", golden("state_dict.pt"), out, "--db_scale", "203.5"});
  succeed({"convert", golden("qinco.pt"), space.file("whole.safetensors")});
  CHECK(read_bytes(out) == read_bytes(space.file("whole.safetensors")));
}

TEST_CASE("convert and info: models that nothing else uses, other formats and bad places are named") {
  const Workspace space;
  const std::string out = space.file("out.safetensors");
  expect_error(space.path(), {"convert", golden("qinco2.pt"), out}, 1, {"qinco2.pt", "QINCo2"});
  expect_error(space.path(), {"convert", golden("legacy.pt"), out}, 1, {"legacy.pt", "before 1.6"});
  expect_error(space.path(), {"convert", space.model(), space.file("model.onnx")}, 1, {"model.onnx", ".pt"});
  expect_error(space.path(), {"convert", space.model(), space.file("none/model.pt")}, 1, {"none/model.pt"});
  expect_error(space.path(), with(space.encode(), "--model", golden("qinco2.pt")), 1, {"qinco2.pt", "QINCo2"});
}

TEST_CASE("convert and info: IVF and PQ models that are not whole and valid are refused") {
  const Workspace space;
  const std::string bad = space.file("bad.safetensors"), out = space.file("out.safetensors");
  using Change = std::function<void(SafetensorsFile&)>;
  const auto refused = [&](const char* name, const char* part, const Change& change) {
    const ModelContents good = read_model_file(golden(name));
    SafetensorsFile file{good.tensors, good.metadata};
    change(file);
    write_safetensors(bad, file);
    for (const Arguments& arguments : {Arguments{"info", bad}, {"convert", bad, out}, {"convert", bad, out + ".pt"}})
      expect_error(space.path(), arguments, 1, {"bad.safetensors", part});
  };
  for (const char* name : {"pq_qinco_opq.pt", "ivf_qinco.pt"}) {
    CAPTURE(name);
    const bool ivf = std::string(name) == "ivf_qinco.pt";
    const std::string prefix = ivf ? "" : "sub_quantizer_1.", bias = prefix + "step1.MLPconcat.bias";
    refused(name, "NaN", [&](SafetensorsFile& file) {
      Tensor& codebook = file.tensors.at(prefix + "codebook0.weight");
      codebook = codebook.clone();
      codebook.data<float>()[3] = NAN;
    });
    refused(name, "parameters", [&](SafetensorsFile& file) { file.tensors.erase(bias); });
    refused(name, "extra", [&](SafetensorsFile& file) { file.tensors[prefix + "extra"] = zeros({0}); });
    refused(name, "bias", [&](SafetensorsFile& file) {
      file.tensors[bias] = file.tensors.at(bias).reshape({1, file.tensors.at(bias).numel()});
    });
    refused(name, "codebook", [&](SafetensorsFile& file) {
      Tensor& codebook = file.tensors.at(prefix + "step1.codebook.weight");
      codebook = codebook.reshape({codebook.size(1), codebook.size(0)});
    });
    refused(name, "i64", [&](SafetensorsFile& file) {
      Tensor& codebook = file.tensors.at(prefix + "codebook0.weight");
      codebook = codebook.to(DType::i64);
    });
    refused(name, "db_scale", [&](SafetensorsFile& file) { file.metadata[prefix + "db_scale"] = "inf"; });
  }
  refused("pq_qinco_opq.pt", "NaN", [](SafetensorsFile& file) { file.tensors.at("opq_matrix") = full({8, 8}, NAN); });
  refused("pq_qinco_opq.pt", "i64",
          [](SafetensorsFile& file) { file.tensors.at("opq_matrix") = file.tensors.at("opq_matrix").to(DType::i64); });
  refused("pq_qinco.pt", "unexpected tensor", [](SafetensorsFile& file) { file.tensors["other"] = zeros({1}); });
  refused("pq_qinco.pt", "nsub", [](SafetensorsFile& file) { file.metadata["nsub"] = "1000000000000"; });
}

TEST_CASE("convert: every part of a PQ model needs its db_scale, and none is replaced by another") {
  const Workspace space;
  const std::string some = space.file("some.safetensors"), out = space.file("out.safetensors");
  const ModelContents good = read_model_file(golden("pq_qinco.pt"));
  SafetensorsFile file{good.tensors, good.metadata};
  file.metadata.erase("sub_quantizer_1.db_scale");
  write_safetensors(some, file);
  expect_error(space.path(), {"convert", some, out}, 2, {"some.safetensors", "sub_quantizer_1.db_scale", "--db_scale"});
  expect_error(space.path(), {"convert", some, out, "--db_scale", "99"}, 1,
               {"some.safetensors", "--db_scale is 99", "sub_quantizer_0.db_scale in the file is 203.5"});
  expect_error(space.path(), {"convert", golden("qinco.pt"), out, "--db_scale", "99"}, 1,
               {"qinco.pt", "--db_scale is 99", "203.5"});
  succeed({"convert", some, out, "--db_scale", "203.5"});
  CHECK(read_model_file(out).metadata == good.metadata);
}

TEST_CASE("info: what a file says of itself is one printable line, and replaces nothing that was found") {
  const Workspace space;
  const std::string path = space.file("x.safetensors");
  SafetensorsFile file = read_safetensors(space.model());
  file.metadata["parameters"] = file.metadata["bytes"] = file.metadata["bytes_per_vector"] = "1";
  file.metadata["note\x1b"] = "a\nb\x1b[31m";
  write_safetensors(path, file);
  const Json about = results_of({"info", path}), before = results_of({"info", space.model()});
  CHECK(about["parameters"] == before["parameters"]);
  CHECK(about["bytes_per_vector"] == before["bytes_per_vector"]);
  CHECK(about["bytes"] == std::filesystem::file_size(path));
  const auto printed = [&](const char* text) {
    const Outcome outcome = run({"info", path});
    CHECK(outcome.code == 0);
    CHECK(contains(outcome.out, text));
    CHECK_FALSE(contains(outcome.out, "\x1b"));
  };
  printed("\"a\\x0ab\\x1b[31m\"");
  file.metadata["format"] = "a checkpoint";
  write_safetensors(path, file);
  printed("\"a\\x0ab\\x1b[31m\"");
  CHECK(results_of({"info", path})["bytes"] == std::filesystem::file_size(path));
}

TEST_CASE("info: a checkpoint's variant, sizes, db_scale, parameters, bytes and source") {
  const Json about = results_of({"info", golden("checkpoint.pt")});
  CHECK(about["variant"] == "qinco");
  CHECK(about["d"] == 8);
  CHECK(about["K"] == 16);
  CHECK(about["L"] == 2);
  CHECK(about["M"] == 3);
  CHECK(about["h"] == 12);
  CHECK(about["db_scale"].is_null());
  CHECK(about["parameters"] == 16 * 8 + 2 * (16 * 8 + 8 * 16 + 8 + 2 * 2 * 12 * 8));
  CHECK(about["bytes"] == std::filesystem::file_size(golden("checkpoint.pt")));
  CHECK(about["source"] == "PyTorch training checkpoint, epoch 7");
  CHECK(results_of({"info", golden("qinco_gpu.pt")})["db_scale"] == 203.5);
  const Json ivf = results_of({"info", golden("ivf_qinco.pt")}), qinco2 = results_of({"info", golden("qinco2.pt")});
  CHECK(ivf["variant"] == "ivf-qinco");
  CHECK(ivf["K_ivf"] == 32);
  const Json opq = results_of({"info", golden("pq_qinco_opq.pt")});
  CHECK(opq["nsub"] == 2);
  CHECK(opq["opq"] == true);
  CHECK(opq["db_scale"] == Json{203.5, 203.5});
  CHECK(opq["L"] == 2);
  CHECK(qinco2["variant"] == "qinco2");
  CHECK(qinco2["parameters.de"] == 12);
  CHECK(qinco2["parameters"] == 16 * 8);
}

TEST_CASE("convert: vectors through every format come back, bit for bit") {
  const Workspace space;
  const Tensor bytes = from_vector<float>({1, 2, 3, 0, 255, 6}, {2, 3});
  write_vectors(space.file("a.fvecs"), bytes);
  std::string last = space.file("a.fvecs");
  for (const char* name : {"b.fbin", "c.npy", "d.bvecs", "e.u8bin", "f.ivecs", "g.fvecs"}) {
    CAPTURE(name);
    succeed({"convert", last, space.file(name)});
    last = space.file(name);
    CHECK(same_bits(read_all(last), bytes));
  }
  CHECK(read_bytes(last) == read_bytes(space.file("a.fvecs")));
  CHECK(read_bytes(space.file("e.u8bin")) == std::string("\2\0\0\0\3\0\0\0\1\2\3\0\xff\6", 14));
  succeed({"convert", space.base(), space.file("base.fbin")});
  CHECK(same_bits(read_all(space.file("base.fbin")), space.base_vectors()));
  succeed({"convert", space.groundtruth(), space.file("gt.ivecs")});  // ids stay integers
  succeed({"convert", space.file("gt.ivecs"), space.file("gt.npy")});
  CHECK(read_bytes(space.file("gt.npy")) == read_bytes(space.groundtruth()));
  CHECK(results_of({"info", space.file("base.fbin")})["n"] == Workspace::kN);
}

TEST_CASE("convert: values that the other format does not hold are refused with their row") {
  const Workspace space;
  const auto refused = [&](const Tensor& x, const char* out, std::initializer_list<std::string> parts) {
    write_npy(space.file("in.npy"), x);
    expect_error(space.path(), {"convert", space.file("in.npy"), space.file(out)}, 1, parts);
  };
  refused(from_vector<float>({1, 2, 256, 3}, {2, 2}), "out.bvecs", {"in.npy: row 1 holds 256", "u8"});
  refused(from_vector<float>({1, 2, -1, 3}, {2, 2}), "out.u8bin", {"row 1 holds -1"});
  refused(from_vector<float>({1, 2.5F, 1, 3}, {2, 2}), "out.ivecs", {"row 0 holds 2.5"});
  refused(from_vector<float>({1, 2, 3e9F, 3}, {2, 2}), "out.ivecs", {"row 1 holds"});
  refused(from_vector<float>({1, 2, NAN, 3}, {2, 2}), "out.fvecs", {"row 1 holds nan"});
  refused(from_vector<int32_t>({1, 2, 16777217, 3}, {2, 2}), "out.fvecs", {"row 1 holds 16777217"});
  refused(from_vector<double>({1, 2, 1e60, 3}, {2, 2}), "out.fbin", {"row 1 holds 1e+60"});
  refused(from_vector<float>({1, 2, 3, 4}, {4}), "out.fbin", {"in.npy", "[n,d]"});
  expect_error(space.path(), {"convert", space.base(), space.file("out.txt")}, 1, {"out.txt", ".fvecs"});
  write_bytes(space.file("lies.fbin"), std::string("\2\0\0\0\3\0\0\0\1\2\3\0", 12));
  expect_error(space.path(), {"convert", space.file("lies.fbin"), space.file("out.npy")}, 1,
               {"lies.fbin", "expected 32 bytes", "found 12"});
  write_bytes(space.file("lies.u8bin"), std::string(8, '\xff'));
  expect_error(space.path(), {"convert", space.file("lies.u8bin"), space.file("out.npy")}, 1, {"lies.u8bin"});
}

TEST_CASE("convert: codes to packed bits and back") {
  const Workspace space;
  const std::string raw = space.file("codes.bin"), back = space.file("back.npy");
  succeed({"convert", "--raw", "--K", "16", space.codes(), raw});
  CHECK(std::filesystem::file_size(raw) == Workspace::kN * 2);
  succeed({"convert", "--raw", "--K", "16", "--M", "3", raw, back});
  CHECK(read_bytes(back) == read_bytes(space.codes()));
  succeed({"convert", "--raw", "--K", "16", "--M", "3", raw, space.file("back.ivecs")});
  CHECK(same_bits(read_ids(space.file("back.ivecs"), 16), read_ids(back, 16)));
  expect_error(space.path(), {"convert", "--raw", "--K", "8", space.codes(), space.file("x")}, 1, {"codes.npy: row"});
  expect_error(space.path(), {"convert", "--raw", "--K", "16", "--M", "2", space.codes(), space.file("x")}, 1,
               {"codes.npy: 3 codes a row, expected 2"});
  expect_error(space.path(), {"convert", "--raw", space.codes(), space.file("x")}, 2, {"--K"});
  expect_error(space.path(), {"convert", "--raw", "--K", "16", raw, space.file("x.npy")}, 2, {"--M"});
  expect_error(space.path(), {"convert", "--raw", "--K", "16", raw, space.file("x")}, 2, {"--raw"});
  expect_error(space.path(), {"convert", "--raw", "--K", "16", "--M", "13", raw, space.file("x.npy")}, 1,
               {"codes.bin"});
}

TEST_CASE("convert: codes of IVF-QINCo are packed as encode does") {
  const Workspace space;
  QincoConfig config = Workspace::config();
  config.K_ivf = 300;
  Random random(9);
  const std::string model = space.file("ivf.safetensors"), packed = space.file("packed"), raw = space.file("raw");
  Qinco lists(config, random);
  const Tensor centroids = Tensor::empty({config.K_ivf, config.d});
  random.normal(centroids);
  lists.set_centroids(centroids);
  for (int64_t m = 1; m < config.codes(); ++m) random.normal(lists.codebook(m).value(), 0, 0.2);
  save_model(model, lists);
  Arguments encode = with(space.encode(), "--model", model);
  succeed(encode);
  encode.push_back("--raw");
  succeed(with(encode, "--o", packed));
  const std::string codes = space.file("out.npy"), back = space.file("back.npy");
  succeed({"convert", "--raw", "--K", "16", "--K_ivf", "300", codes, raw});
  CHECK(read_bytes(raw) == read_bytes(packed));
  succeed({"convert", "--raw", "--M", "4", "--K", "16", "--K_ivf", "300", packed, back});
  CHECK(read_bytes(back) == read_bytes(codes));
  expect_error(space.path(), {"convert", "--raw", "--K", "16", "--K_ivf", "30", codes, raw}, 1, {"outside 0 to 29"});
  expect_error(space.path(), {"convert", "--raw", "--K", "4", "--K_ivf", "300", codes, raw}, 1, {"outside 0 to 3"});
}

TEST_CASE("convert: options of other inputs are usage errors") {
  const Workspace space;
  const std::string out = space.file("out.npy");
  expect_error(space.path(), {"convert", space.base(), out, "--db_scale", "2"}, 2, {"--db_scale is for models"});
  expect_error(space.path(), {"convert", space.base(), out, "--M", "2"}, 2, {"--K_ivf need --raw"});
  expect_error(space.path(), {"convert", space.model(), space.file("out.pt"), "--K", "16"}, 2, {"need --raw"});
  expect_error(space.path(), {"convert", "--raw", "--K", "16", space.codes(), out + ".bin", "--db_scale", "2"}, 2,
               {"--db_scale is for models"});
}

TEST_CASE("convert: larger files than memory are streamed") {
  const Workspace space;
  const std::string big = space.file("big.bvecs"), out = space.file("big.fbin");
  constexpr int64_t kRows = 400'000, kDim = 128;
  std::string rows;
  for (int64_t i = 0; i < kRows; ++i) {
    rows += std::string("\x80\0\0\0", 4);
    rows.append(kDim, static_cast<char>(i));
  }
  write_bytes(big, rows);
  const Outcome outcome = run({"convert", "--quiet", big, out});
  CHECK_MESSAGE(outcome.code == 0, outcome.err);
  CHECK(std::filesystem::file_size(out) == 8 + kRows * kDim * 4);  // 205 MB
  CHECK(outcome.peak_bytes < 100 << 20);
}

TEST_CASE("info: hostile PyTorch files end within 100 MB") {
  const Workspace space;
  const std::string path = space.file("bad.pt"), good = read_bytes(golden("qinco.pt"));
  write_bytes(path, good.substr(0, good.size() - 1));
  expect_error(space.path(), {"info", path}, 1, {"bad.pt"});
  std::string pickle("\x80\x02", 2);  // eight million nested lists
  pickle.append(8'000'000, ']');
  std::string zip("PK\3\4\x14\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
  const auto put = [&zip](auto value) { zip.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto size = static_cast<uint32_t>(pickle.size());
  put(size), put(size), put(uint32_t{10});
  zip += "m/data.pkl" + pickle;
  const auto directory = static_cast<uint32_t>(zip.size());
  zip += std::string("PK\1\2\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  put(size), put(size), put(uint16_t{10});
  zip += std::string(16, '\0') + "m/data.pkl" + std::string("PK\5\6\0\0\0\0\1\0\1\0", 12);
  put(static_cast<uint32_t>(zip.size() - 12 - directory)), put(directory), put(uint16_t{0});
  write_bytes(path, zip);
  const Outcome outcome = run({"info", path});
  check_error(outcome, 1, {"bad.pt", "memory"});
  CHECK(outcome.peak_bytes < 100 << 20);
}

}  // namespace
}  // namespace qinco::tests
