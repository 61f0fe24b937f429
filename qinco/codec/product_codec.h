// The fast path of a PQ-QINCo model, or of a plain one: its parts' codecs side by side.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "qinco/codec/codec.h"
#include "qinco/model/product.h"

namespace qinco {

class ProductCodec {
 public:
  /// Compiles `model` for `device`, on the CPU for the ISA that is active now. Copies what it needs. Throws Error as
  /// ProductQinco::validate. `precision` and `beam` are those of every part (Codec). A rotation, and the cutting into
  /// parts, are done by the CPU: d^2 multiply-adds a vector, as nothing beside the parts' networks.
  explicit ProductCodec(const ProductQinco& model, kernels::Precision precision = kernels::Precision::exact,
                        Device device = {}, const BeamSearch& beam = {});

  /// Codec::set_poll of every part.
  void set_poll(const std::function<void()>& poll, int64_t rows = 0);

  kernels::Precision precision() const { return parts_.front().precision(); }
  /// How every part searches, with a beam of its own.
  const BeamSearch& beam() const { return parts_.front().beam(); }

  int64_t d() const { return d_; }
  Device device() const { return parts_.front().device(); }
  int64_t M() const { return parts_.front().config().codes(); }  // codes a part
  int64_t K() const { return parts_.front().config().K; }
  /// The codec of a model that is a plain one, else null.
  const Codec* plain_codec() const { return plain() ? &parts_.front() : nullptr; }
  /// What a code's first entry is below: K, or in IVF-QINCo K_ivf.
  int64_t K0() const { return parts_.front().config().K0(); }
  /// Entries at the front of a code that are a coarse quantizer's: 1 in IVF-QINCo, else 0.
  int64_t coarse() const { return parts_.front().config().K_ivf > 0 ? 1 : 0; }
  int64_t nsub() const { return static_cast<int64_t>(parts_.size()); }
  /// FLOP that encoding takes per vector, about.
  double encode_flops() const;
  /// Codes a vector when M_used of each part are kept: part by part, nsub * M_used.
  int64_t codes_per_vector(int64_t M_used) const { return nsub() * M_used; }

  /// x [n,d] -> the first M_used (1..M) codes of each part, codes [n,nsub*M_used], and unless null the reconstruction
  /// xhat [n,d] from them, both x and xhat in the original space. Needs bounded memory besides.
  void encode(int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat = nullptr) const;

  /// codes [n,nsub*M_stored] -> x [n,d] from the first M_used (1..M_stored) codes of each part, M_stored <= M. Throws
  /// Error naming the row when a code is outside [0,K). Needs bounded memory besides.
  void decode(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const;
  /// The same with x in the device's memory; codes are the host's.
  void decode_to_device(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const;

 private:
  bool plain() const { return nsub() == 1 && !rotation_.defined(); }
  void encode_block(int64_t n, const float* x, int64_t M_used, int32_t* codes, float* xhat) const;
  void decode_block(int64_t n, const int32_t* codes, int64_t M_stored, int64_t M_used, float* x) const;

  std::vector<Codec> parts_;
  Tensor rotation_;  // f32 [d_out,d], or undefined
  int64_t d_, d_out_;
};

}  // namespace qinco
