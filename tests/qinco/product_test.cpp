// PQ-QINCo: each block is coded by its own model, files keep every bit, prefixes decode, hostile files are refused.
#include <algorithm>
#include <vector>

#include "qinco/codec/product_codec.h"
#include "qinco/io/model_file.h"
#include "qinco/io/product_file.h"
#include "qinco/quantizers/linear_algebra.h"
#include "qinco/quantizers/pq.h"
#include "tensor/safetensors.h"
#include "tests/qinco/model_fixtures.h"

namespace qinco {
namespace {

using kernels::Context;
using testing::random_model;
using testing::TemporaryDirectory;
using tests::contains;
using tests::error_of;
using tests::same_bits;

constexpr int64_t kM = 3, kK = 8;

/// Parts of 4 and 6 dimensions with different networks and scales.
QincoConfig part_config(int64_t j) {
  QincoConfig config;
  config.d = j == 0 ? 4 : 6, config.M = kM, config.K = kK, config.L = 1 + j, config.h = 5;
  config.lowrank = j == 1;
  config.db_scale = j == 0 ? 2.0f : 0.5f;
  return config;
}

ProductQinco make_model(bool rotated) {
  ProductQinco model;
  for (int64_t j = 0; j < 2; ++j) model.parts.push_back(random_model(part_config(j), 10 + static_cast<uint64_t>(j)));
  if (!rotated) return model;
  const Tensor random = Tensor::empty({10, 10});
  Random(3).normal(random);
  model.rotation = procrustes(random);
  return model;
}

Tensor vectors(int64_t n) {
  const Tensor x = Tensor::empty({n, 10});
  Random(4).normal(x);
  return x;
}

struct Coded {
  std::vector<int32_t> codes;
  Tensor xhat;
};

Coded encode(const ProductCodec& codec, const Tensor& x, int64_t M_used) {
  Coded coded{std::vector<int32_t>(static_cast<size_t>(x.size(0) * codec.codes_per_vector(M_used))),
              Tensor::empty(x.shape())};
  codec.encode(x.size(0), x.data<float>(), M_used, coded.codes.data(), coded.xhat.data<float>());
  return coded;
}

TEST_CASE("product codec: each block has the codes and the reconstruction of its own model") {
  const int64_t n = 5000;  // more than one block of rows
  const ProductCodec codec(make_model(false));
  CHECK(codec.d() == 10);
  CHECK(codec.codes_per_vector(kM) == 2 * kM);
  const Tensor x = vectors(n);
  const Coded all = encode(codec, x, kM);
  for (int64_t j = 0; j < 2; ++j) {
    const Codec part(random_model(part_config(j), 10 + static_cast<uint64_t>(j)));
    const Tensor block = x.slice(1, 4 * j, 4 + 6 * j).clone(), xhat = Tensor::empty(block.shape());
    std::vector<int32_t> codes(static_cast<size_t>(n * kM));
    part.encode(n, block.data<float>(), codes.data(), xhat.data<float>());
    bool equal = true;
    for (int64_t i = 0; i < n; ++i)
      equal &=
          std::equal(codes.begin() + i * kM, codes.begin() + (i + 1) * kM, all.codes.begin() + i * 2 * kM + j * kM);
    CHECK(equal);
    CHECK(same_bits(all.xhat.slice(1, 4 * j, 4 + 6 * j).clone(), xhat));
  }
}

TEST_CASE("product codec: a rotation turns vectors before, and back after") {
  const int64_t n = 60;
  const ProductQinco model = make_model(true);
  const Tensor x = vectors(n), rotated = Tensor::empty(x.shape()), back = Tensor::empty(x.shape());
  rotate(Context::cpu(), model.rotation, n, x.data<float>(), rotated.data<float>());
  const Coded turned = encode(ProductCodec(model), x, kM);
  const Coded plain = encode(ProductCodec(make_model(false)), rotated, kM);
  CHECK(turned.codes == plain.codes);
  rotate_back(Context::cpu(), model.rotation, n, plain.xhat.data<float>(), back.data<float>());
  CHECK(same_bits(turned.xhat, back));
}

TEST_CASE("product codec: fewer codes, stored or used, decode to the same prefix") {
  const int64_t n = 40;
  for (const bool rotated : {false, true}) {
    const ProductCodec codec(make_model(rotated));
    const Tensor x = vectors(n), xhat = Tensor::empty(x.shape());
    const Coded all = encode(codec, x, kM);
    for (int64_t used = 1; used <= kM; ++used) {
      const Coded few = encode(codec, x, used);
      codec.decode(n, all.codes.data(), kM, used, xhat.data<float>());
      CHECK(same_bits(few.xhat, xhat));
      codec.decode(n, few.codes.data(), used, used, xhat.data<float>());
      CHECK(same_bits(few.xhat, xhat));
    }
  }
}

TEST_CASE("product codec: a negative number of vectors is an error") {
  const ProductCodec codec(make_model(true));
  CHECK(error_of([&] { codec.encode(-1, nullptr, kM, nullptr); }) == "encode: -1 vectors");
  CHECK(error_of([&] { codec.decode(-1, nullptr, kM, kM, nullptr); }) == "decode: -1 vectors");
}

TEST_CASE("product codec: a code out of range names its row of all that are given, if it is used") {
  const int64_t n = 5000;  // more than one block of rows
  const ProductCodec codec(make_model(false));
  const Tensor xhat = Tensor::empty({n, 10});
  std::vector<int32_t> codes(static_cast<size_t>(n * 2 * kM));
  codes[2 * kM * 4500 + kM + 1] = kK;
  const auto decode = [&](int64_t used) { codec.decode(n, codes.data(), kM, used, xhat.data<float>()); };
  CHECK(contains(error_of([&] { decode(2); }), "decode: row 4500: expected codes in [0,8), found 8"));
  decode(1);
}

TEST_CASE("product codec: a plain model is the case of one part") {
  const int64_t n = 50;
  ProductQinco model;
  model.parts.push_back(random_model(part_config(0), 10));
  const Tensor x = vectors(n).slice(1, 0, 4).clone(), xhat = Tensor::empty(x.shape());
  const Coded coded = encode(ProductCodec(model), x, kM);
  std::vector<int32_t> codes(static_cast<size_t>(n * kM));
  Codec(model.parts.front()).encode(n, x.data<float>(), codes.data(), xhat.data<float>());
  CHECK(coded.codes == codes);
  CHECK(same_bits(coded.xhat, xhat));
  const Coded prefix = encode(ProductCodec(model), x, 2);
  CHECK(prefix.codes[2 * 7 + 1] == codes[3 * 7 + 1]);
}

TEST_CASE("product files: what is written is read back, a plain model too") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("pq.safetensors");
  for (const bool rotated : {false, true}) {
    save_product(path, make_model(rotated));
    const ProductQinco loaded = load_product(path);
    CHECK(loaded.nsub() == 2);
    CHECK(loaded.rotation.defined() == rotated);
    CHECK(std::string(loaded.variant()) == "pq-qinco");
    CHECK(loaded.parts[1].config().lowrank);
    const Tensor x = vectors(20);
    const Coded expected = encode(ProductCodec(make_model(rotated)), x, kM),
                found = encode(ProductCodec(loaded), x, kM);
    CHECK(found.codes == expected.codes);
    CHECK(same_bits(found.xhat, expected.xhat));
    CHECK(contains(error_of([&] { load_model(path); }), "pq-qinco"));
  }
  ProductQinco plain;
  plain.parts.push_back(random_model(part_config(1), 5));
  save_product(path, plain);
  CHECK(load_model(path).config().same_sizes(part_config(1)));
  CHECK(std::string(load_product(path).variant()) == "qinco-lr");
}

TEST_CASE("product files: whatever is not whole and valid is refused") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("pq.safetensors");
  save_product(path, make_model(true));
  const SafetensorsFile read = read_safetensors(path);
  SafetensorsFile good{{}, read.metadata};
  for (const auto& [name, tensor] : read.tensors) good.tensors.emplace(name, tensor.clone());
  const auto message = [&](const std::function<void(SafetensorsFile&)>& change) {
    SafetensorsFile file = good;
    change(file);
    write_safetensors(path, file);
    const std::string text = error_of([&] { load_product(path); });
    CHECK_MESSAGE(text.rfind(path + ":", 0) == 0, text);
    return text;
  };
  CHECK(contains(message([](auto& f) { f.metadata["nsub"] = std::string("0"); }), "nsub: expected 1 to 4096, found 0"));
  CHECK(contains(message([](auto& f) { f.metadata["nsub"] = std::string("3"); }), "no 'variant'"));
  CHECK(contains(message([](auto& f) { f.metadata.erase("nsub"); }), "no 'nsub'"));
  CHECK(contains(message([](auto& f) { f.metadata["d"] = std::string("11"); }),
                 "metadata 'd' says 11, the sub-quantizers have 10"));
  CHECK(contains(message([](auto& f) { f.metadata["sub_quantizer_1.M"] = std::string("2"); }), "parameters"));
  CHECK(contains(message([](auto& f) { f.tensors.erase("sub_quantizer_0.codebook0.weight"); }), "parameters"));
  CHECK(contains(message([](auto& f) { f.tensors["extra"] = zeros({2}); }), "unexpected tensor \"extra\""));
  CHECK(contains(message([](auto& f) { f.tensors["opq_matrix"] = zeros({9, 10}); }), "expected [10,d]"));
  CHECK(contains(message([](auto& f) { f.tensors["opq_matrix"] = full({10, 10}, NAN); }), "NaN"));
}

TEST_CASE("product model: parts that do not fit together are refused") {
  ProductQinco model;
  CHECK(contains(error_of([&] { ProductCodec{model}; }), "no sub-quantizers"));
  QincoConfig other = part_config(1);
  other.K = 16;
  model.parts.push_back(random_model(part_config(0), 1));
  model.parts.push_back(random_model(other, 2));
  CHECK(contains(error_of([&] { ProductCodec{model}; }), "sub-quantizer 1 has M=3 K=16, expected M=3 K=8"));
}

}  // namespace
}  // namespace qinco
