// What the tests of the codec's two searches share.
#pragma once

#include <optional>

#include "qinco/codec/codec.h"
#include "tests/qinco/model_fixtures.h"

namespace qinco::testing {

/// The same model with parameters in double.
inline Qinco in_double(const Qinco& model) {
  Random unused(0);
  Qinco exact(model.config(), unused, DType::f64);
  TensorMap parameters;
  for (const auto& [name, tensor] : model.state()) parameters.emplace(name, tensor.to(DType::f64));
  exact.load(parameters);
  return exact;
}

struct Encoded {
  Tensor codes, xhat;  // i32 [n,M_used] and f32 [n,d]
};

/// Codec::encode of x [n,d].
inline Encoded encode(const Codec& codec, const Tensor& x, std::optional<int64_t> M_used = {},
                      const int32_t* first = nullptr) {
  const int64_t n = x.size(0), M = M_used.value_or(codec.config().codes());
  Encoded out{Tensor::empty({n, M}, DType::i32), Tensor::empty({n, codec.config().d})};
  codec.encode(n, x.data<float>(), out.codes.data<int32_t>(), out.xhat.data<float>(), first, M);
  return out;
}

}  // namespace qinco::testing
