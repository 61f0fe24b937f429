// Vectors known by their codes and scored by look-up tables from fixed codebooks: the first stage of two-stage search.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/context.h"
#include "kernels/kernels.h"
#include "qinco/codec/packed_linear.h"
#include "qinco/quantizers/additive.h"
#include "tensor/tensor.h"

namespace qinco {

/// The codes of many vectors, `width` bytes each, as the scan kernel reads them: [ceil(n/32),width,32].
class PackedCodes {
 public:
  explicit PackedCodes(int64_t width) : width_(width) {}

  /// Appends codes [n,width].
  void add(int64_t n, const uint8_t* codes);
  /// Makes room for n vectors in all, so that adding them takes no more memory than they do.
  void reserve(int64_t n) { bytes_.reserve(bytes_of(n)); }
  /// Byte m of vector i.
  uint8_t at(int64_t i, int64_t m) const { return bytes_[static_cast<size_t>(kernels::scan_place(i, m, width_))]; }
  int64_t size() const { return n_; }
  const uint8_t* data() const { return bytes_.data(); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  size_t bytes_of(int64_t n) const;

  int64_t width_;
  int64_t n_ = 0;
  std::vector<uint8_t> bytes_;
};

/// What turns queries into look-up tables, and codes into the bytes that the tables are read with: one a code and, with
/// a norm quantizer, one for the norm.
class ScanTables {
 public:
  /// codebooks f32 [M,K,d], on any device; tables are made on `device`. Throws Error when K > 256: codes are bytes
  /// here.
  ScanTables(const Tensor& codebooks, std::optional<NormQuantizer> norms, Device device = {});

  int64_t M() const { return M_; }
  int64_t d() const { return product_.k(); }
  /// Bytes a vector and tables a query: M, or M + 1.
  int64_t width() const { return M_ + (norms_ ? 1 : 0); }
  const std::optional<NormQuantizer>& norms() const { return norms_; }

  /// tables [nq,width,256] of queries [nq,d], both in the device's memory: -2 <q, T_m[k]>, as by `linear` at
  /// Precision::fast, and the levels of the norms.
  void make(const kernels::Context& context, int64_t nq, const float* queries, float* tables) const;
  /// bytes [n,width] of codes [n,M] and, with a norm quantizer, norms [n].
  void to_bytes(int64_t n, const int32_t* codes, const float* norms, uint8_t* bytes) const;

 private:
  int64_t M_;
  const kernels::Table<float>* kernels_;
  PackedLinear product_;  // with -2 T [M*256,d], rows beyond K are 0
  Tensor levels_;         // on the device: f32 [256] with a norm quantizer
  std::optional<NormQuantizer> norms_;
};

/// Codes are packed and kept in the host's memory; `device` scans, if it is not the CPU a copy that the first search
/// after an add makes: then one thread may search at a time.
class AdditiveIndex {
 public:
  /// Norms ||x_AQ||^2 are kept as float32, or as one byte where a quantizer for them is given. Throws as ScanTables.
  explicit AdditiveIndex(const Tensor& codebooks, std::optional<NormQuantizer> norms = {}, Device device = {});

  // Contexts are of the index's device, pointers to the host's memory.

  /// Adds n vectors by their codes [n,M]; ids go on from those before. At most 2^32 - 2 in all. Throws Error naming the
  /// row when a code is not in [0,K), and adds none.
  void add(const kernels::Context& context, int64_t n, const int32_t* codes);

  /// Makes room for n vectors in all, so that adding them takes no more memory than they do.
  void reserve(int64_t n);

  int64_t size() const { return codes_.size(); }
  int64_t M() const { return tables_.M(); }
  int64_t d() const { return tables_.d(); }
  const Tensor& codebooks() const { return codebooks_; }
  /// Bytes a vector takes: its codes and its norm.
  int64_t bytes_per_vector() const { return M() + (tables_.norms() ? 1 : static_cast<int64_t>(sizeof(float))); }
  /// The codes [M] of vector `id`.
  void codes(int64_t id, int32_t* out) const;

  /// The k vectors of least ||q - x_AQ||^2 for each of queries [nq,d], ascending: ids [nq,k], -1 where there are fewer,
  /// and scores [nq,k], that distance less ||q||^2 (+infinity beside -1), both by the tables of ScanTables. Throws
  /// Error unless k is 1 or more.
  void search(const kernels::Context& context, int64_t nq, const float* queries, int64_t k, int64_t* ids,
              float* scores) const;

 private:
  void copy_to_device(Device device) const;

  Tensor codebooks_;  // on the device: [M,K,d]
  ScanTables tables_;
  PackedCodes codes_;
  std::vector<float> norms_;                    // [n] without a norm quantizer
  mutable Tensor device_codes_, device_norms_;  // copies of both ..
  mutable int64_t on_device_ = -1;              // .. when there were so many vectors
};

}  // namespace qinco
