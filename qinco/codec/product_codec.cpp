#include "qinco/codec/product_codec.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "qinco/quantizers/pq.h"

namespace qinco {
namespace {

constexpr int64_t kBlock = 4096;  // vectors that go through all parts together

/// Copies columns: out [n,width] at leading dimension out_ld = in [n,width] at in_ld.
template <class T>
void copy_columns(int64_t n, int64_t width, const T* in, int64_t in_ld, T* out, int64_t out_ld) {
  for (int64_t i = 0; i < n; ++i) std::copy_n(in + i * in_ld, width, out + i * out_ld);
}

}  // namespace

ProductCodec::ProductCodec(const ProductQinco& model, kernels::Precision precision, Device device,
                           const BeamSearch& beam) {
  model.validate();
  for (const Qinco& part : model.parts) parts_.emplace_back(part, precision, device, beam);
  if (model.rotation.defined()) rotation_ = model.rotation.clone();
  d_ = model.d();
  d_out_ = model.d_out();
}

void ProductCodec::set_poll(const std::function<void()>& poll, int64_t rows) {
  for (Codec& part : parts_) part.set_poll(poll, rows);
}

double ProductCodec::encode_flops() const {
  double flops = 0;
  for (const Codec& part : parts_) flops += part.encode_flops();
  return flops;
}

void ProductCodec::encode(int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat) const {
  check(n >= 0, "encode: {} vectors", n);
  check(M_used >= 1 && M_used <= M(), "encode: expected 1 to {} codes a vector, found {}", M(), M_used);
  if (plain()) return parts_.front().encode(n, x, codes, xhat, nullptr, M_used);
  for (int64_t begin = 0; begin < n; begin += kBlock)
    encode_block(std::min(kBlock, n - begin), x + begin * d_, M_used, codes + begin * codes_per_vector(M_used),
                 xhat ? xhat + begin * d_ : nullptr);
}

void ProductCodec::encode_block(int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat) const {
  const kernels::Context& context = kernels::Context::cpu();
  std::vector<float> rotated(rotation_.defined() ? static_cast<size_t>(n * d_out_) : 0);
  if (rotation_.defined()) rotate(context, rotation_, n, x, rotated.data());
  const float* const rows = rotation_.defined() ? rotated.data() : x;
  std::vector<float> block(static_cast<size_t>(n * d_out_));
  std::vector<int32_t> some(static_cast<size_t>(n * M_used));
  int64_t column = 0;
  for (int64_t j = 0; j < nsub(); ++j) {
    const Codec& part = parts_[static_cast<size_t>(j)];
    copy_columns(n, part.config().d, rows + column, d_out_, block.data(), part.config().d);
    part.encode(n, block.data(), some.data(), nullptr, nullptr, M_used);
    copy_columns(n, M_used, some.data(), M_used, codes + j * M_used, nsub() * M_used);
    column += part.config().d;
  }
  if (xhat) decode_block(n, codes, M_used, M_used, xhat);
}

void ProductCodec::decode(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const {
  check(M_stored >= 1 && M_stored <= M(), "decode: expected 1 to {} codes a vector, found {}", M(), M_stored);
  check(M_used >= 1 && M_used <= M_stored, "decode: expected 1 to {} codes a vector, found {}", M_stored, M_used);
  if (plain()) return parts_.front().decode(n, codes, M_stored, M_used, x);
  for (int64_t j = 0; j < nsub(); ++j)  // all, before they are decoded in blocks, to name the row
    parts_[static_cast<size_t>(j)].check_codes(n, codes + j * M_stored, codes_per_vector(M_stored), M_used);
  for (int64_t begin = 0; begin < n; begin += kBlock)
    decode_block(std::min(kBlock, n - begin), codes + begin * codes_per_vector(M_stored), M_stored, M_used,
                 x + begin * d_);
}

void ProductCodec::decode_to_device(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const {
  if (device().type == DeviceType::cpu) return decode(n, codes, M_stored, M_used, x);
  if (plain()) return parts_.front().decode_to_device(n, codes, M_stored, M_used, x);
  std::vector<float> rows(static_cast<size_t>(n * d_));
  decode(n, codes, M_stored, M_used, rows.data());
  kernels::copy_bytes(device(), x, Device{}, rows.data(), rows.size() * sizeof(float));
}

void ProductCodec::decode_block(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const {
  std::vector<float> rotated(rotation_.defined() ? static_cast<size_t>(n * d_out_) : 0);
  float* const rows = rotation_.defined() ? rotated.data() : x;
  std::vector<float> block(static_cast<size_t>(n * d_out_));
  int64_t column = 0;
  for (int64_t j = 0; j < nsub(); ++j) {
    const Codec& part = parts_[static_cast<size_t>(j)];
    part.decode(n, codes + j * M_stored, nsub() * M_stored, M_used, block.data());
    copy_columns(n, part.config().d, block.data(), part.config().d, rows + column, d_out_);
    column += part.config().d;
  }
  if (rotation_.defined()) rotate_back(kernels::Context::cpu(), rotation_, n, rotated.data(), x);
}

}  // namespace qinco
