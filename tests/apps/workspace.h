// A directory with small valid inputs for the subcommands: vectors, queries, ground truth, a model and codes.
#pragma once

#include <string>
#include <vector>

#include "qinco/io/codes.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/model/qinco.h"
#include "qinco/search/flat.h"
#include "tensor/npy.h"
#include "tensor/random.h"
#include "tests/apps/program.h"

namespace qinco::tests {

inline void write_vectors(const std::string& path, const Tensor& x) {
  VectorWriter writer(path, x.size(0), x.size(1));
  writer.write(x.size(0), x.data<float>());
  writer.commit();
}

/// Writes a model with M = 1 and K = 65536 whose codebook, all 0, is a hole on disk; returns the file's size, 2^18 * d
/// bytes and the header.
inline int64_t write_hollow_model(const std::string& path, int64_t d) {
  constexpr int64_t kK = 65536;
  const int64_t bytes = kK * d * 4;
  QincoConfig config;
  config.d = d, config.M = 1, config.K = kK, config.L = 1, config.h = 1;
  const Json header = {{"__metadata__", model_metadata(config)},
                       {"codebook0.weight", {{"dtype", "F32"}, {"shape", {kK, d}}, {"data_offsets", {0, bytes}}}}};
  std::string text = header.dump();
  text.resize((text.size() + 63) / 64 * 64 + 56, ' ');
  const uint64_t length = text.size();
  write_bytes(path, std::string(reinterpret_cast<const char*>(&length), sizeof length) + text);
  const auto size = static_cast<int64_t>(sizeof length + length) + bytes;
  std::filesystem::resize_file(path, static_cast<uintmax_t>(size));
  return size;
}

class Workspace {
 public:
  static constexpr int64_t kD = 8, kM = 3, kK = 16, kN = 600;

  Workspace() {
    Random random(5);
    base_ = Tensor::empty({kN, kD});
    random.normal(base_);
    const Tensor queries = Tensor::empty({20, kD});
    random.normal(queries);
    write_vectors(base(), base_);
    write_vectors(this->queries(), queries);
    write_npy(groundtruth(), flat_search(kernels::Context::cpu(), base_, queries, 10));
    save_model(model(), make_model());
    const Tensor codes = Tensor::empty({kN, kM}, DType::i32);
    for (int64_t i = 0; i < codes.numel(); ++i) codes.data<int32_t>()[i] = static_cast<int32_t>(random.below(kK));
    write_npy(this->codes(), codes);
  }

  static QincoConfig config() {
    QincoConfig config;
    config.d = kD, config.M = kM, config.K = kK, config.L = 1, config.h = 4, config.db_scale = 2.5f;
    return config;
  }
  static Qinco make_model() {
    Random random(6);
    Qinco model(config(), random);
    for (int64_t m = 0; m < kM; ++m) random.normal(model.codebook(m).value(), 0, 0.5 / static_cast<double>(m + 1));
    return model;
  }

  std::string file(const std::string& name) const { return directory_.file(name); }
  const std::filesystem::path& path() const { return directory_.path(); }
  std::string base() const { return file("base.fvecs"); }
  std::string queries() const { return file("queries.fvecs"); }
  std::string groundtruth() const { return file("groundtruth.npy"); }
  std::string model() const { return file("model.safetensors"); }
  std::string codes() const { return file("codes.npy"); }
  const Tensor& base_vectors() const { return base_; }

  Arguments encode() const { return {"encode", "--model", model(), "--i", base(), "--o", file("out.npy")}; }
  Arguments decode() const { return {"decode", "--model", model(), "--i", codes(), "--o", file("out.fvecs")}; }
  Arguments eval() const {
    return {"eval", "--model", model(), "--base", base(), "--queries", queries(), "--groundtruth", groundtruth()};
  }
  Arguments baseline() const {
    return {"baseline", "--method", "rq",   "--training_data", base(),    "--M",           "2",          "--K",
            "16",       "--base",   base(), "--queries",       queries(), "--groundtruth", groundtruth()};
  }
  Arguments search() const {
    return {"search", "--model",   model(),   "--training_data", base(),       "--base",
            base(),   "--queries", queries(), "--groundtruth",   groundtruth()};
  }
  /// A run of seconds at most: `epochs` epochs of 8 batches.
  Arguments train(int epochs) const {
    return {"train",
            "--training_data",
            base(),
            "--model",
            file("trained.safetensors"),
            "--nt",
            "512",
            "--nval",
            "80",
            "--M",
            "3",
            "--K",
            "16",
            "--L",
            "1",
            "--h",
            "8",
            "--batch_size",
            "64",
            "--max_epochs",
            std::to_string(epochs)};
  }

 private:
  TemporaryDirectory directory_;
  Tensor base_;
};

/// `arguments` with the value of option `name` replaced, or with both appended.
inline Arguments with(Arguments arguments, const std::string& name, const std::string& value) {
  const auto found = std::find(arguments.begin(), arguments.end(), name);
  if (found == arguments.end()) {
    arguments.insert(arguments.end(), {name, value});
  } else {
    *(found + 1) = value;
  }
  return arguments;
}

}  // namespace qinco::tests
