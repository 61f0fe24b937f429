// A small IVF-QINCo model with vectors, and the bytes of files, for the tests of the index.
#pragma once

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "qinco/search/ivf_index.h"
#include "tests/qinco/model_fixtures.h"

namespace qinco::testing {

inline constexpr int64_t kD = 6, kN = 900;

inline QincoConfig ivf_config() {
  QincoConfig config;
  config.d = kD, config.M = 3, config.K = 16, config.L = 1, config.h = 5, config.db_scale = 2, config.K_ivf = 20;
  return config;
}

/// A built index, vectors, and their decoded form.
struct World {
  World() : coder(std::make_shared<IvfCoder>(random_model(ivf_config(), 1))), x(random_vectors(ivf_config(), kN, 2)) {
    IvfBuilder builder(coder);
    builder.add(kN, x.data<float>());
    builder.write(path());
    decoded = Tensor::empty(x.shape());
    codes.resize(static_cast<size_t>(kN * 4));
    coder->codec().encode(kN, x.data<float>(), codes.data(), decoded.data<float>());
  }
  std::string path() const { return directory.file("a.index"); }
  std::span<const float> rows(int64_t begin, int64_t end) const {
    return {x.data<float>() + begin * kD, static_cast<size_t>((end - begin) * kD)};
  }
  /// An index of all vectors, added in three batches.
  IvfIndex full() const {
    IvfIndex index(path(), coder);
    for (int64_t begin = 0; begin < kN; begin += 350) index.add(rows(begin, std::min(kN, begin + 350)), begin);
    return index;
  }

  TemporaryDirectory directory;
  std::shared_ptr<const IvfCoder> coder;
  Tensor x, decoded;
  std::vector<int32_t> codes;
};

inline std::span<const float> span_of(const Tensor& x) {
  return {x.data<float>(), static_cast<size_t>(x.numel())};
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace qinco::testing
