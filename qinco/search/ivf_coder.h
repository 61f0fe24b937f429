// What building and searching an IVF-QINCo index share: the model, ready to code, and what is fitted to its codes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qinco/codec/codec.h"
#include "qinco/quantizers/additive.h"
#include "tensor/tensor.h"

namespace qinco {

/// An IVF-QINCo model, ready to code and to decode.
class IvfCoder {
 public:
  /// Compiles `model` as Codec; throws Error as that does, and unless it has a coarse quantizer and K <= 256.
  explicit IvfCoder(const Qinco& model, kernels::Precision precision = kernels::Precision::exact, Device device = {},
                    const BeamSearch& beam = {});

  /// Codec::set_poll of its codec.
  void set_poll(std::function<void()> poll, int64_t rows = 0) { codec_.set_poll(std::move(poll), rows); }

  const QincoConfig& config() const { return codec_.config(); }
  const Codec& codec() const { return codec_; }
  Device device() const { return codec_.device(); }
  /// f32 [K_ivf,d] in the original space, in the host's memory.
  const Tensor& centroids() const { return centroids_; }
  /// Tells one model from another.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  Codec codec_;
  Tensor centroids_;
  uint64_t fingerprint_;
};

/// The coder that an index was given; throws Error for none.
std::shared_ptr<const IvfCoder> given_coder(std::shared_ptr<const IvfCoder> coder);

/// Throws Error naming the row unless codes [n,entries], the list's and those that follow, are ones that the model
/// gives.
void check_codes(const QincoConfig& config, int64_t n, const int32_t* codes, int64_t entries);

/// Splits such codes into lists [n] and the first M_kept codes within them [n,M_kept].
void split_codes(int64_t entries, int64_t M_kept, int64_t n, const int32_t* codes, int32_t* lists, int32_t* within);

/// What a list's entries add to ||q - c||^2 - 2 <q,r> for the residual r that the fixed codebooks f32 [M,K,d] give:
/// norms [n] = 2 <c,r> + ||r||^2, for lists [n] and codes within them [n,M]. By the CPU, as little beside encoding.
void residual_norms(const IvfCoder& coder, const Tensor& codebooks, int64_t n, const int32_t* lists,
                    const int32_t* within, float* norms);

/// Fits what an index needs beside the model: fixed codebooks of the residuals, and levels of their norms. The coder's
/// device encodes, the CPU does the rest.
class IvfBuilder {
 public:
  /// The index will keep the first M_kept of the model's M codes of every vector, or all. Throws Error unless M_kept is
  /// in 1..M, or without a coder.
  explicit IvfBuilder(std::shared_ptr<const IvfCoder> coder, std::optional<int64_t> M_kept = {});

  /// Takes in n more training vectors x [n,d] with their codes [n,M+1], or null to encode them here. Throws Error after
  /// write(), on a value that is not finite or a code out of range.
  void add(int64_t n, const float* x, const int32_t* codes = nullptr);
  /// Throws Error where `path` is an index that holds entries, or that somebody adds to: what write() would say after
  /// long work.
  static void check_output(const std::string& path);
  /// Writes the empty index, atomically, also in the place of another empty one. With `links` > 0 the coarse quantizer
  /// is an HNSW graph of that many links a centroid, else flat. `poll`, if set, is called while the least squares are
  /// solved and while linking, and last before the file is written: it may throw, and nothing is; where it ends the
  /// least squares, the vectors to fit to have gone. Throws Error as check_output, and when nothing was added.
  void write(const std::string& path, int64_t links = 0, int64_t ef_construction = 200,
             const std::function<void()>& poll = {});

 private:
  std::shared_ptr<const IvfCoder> coder_;
  int64_t M_kept_;
  AdditiveFit fit_;
  std::vector<int32_t> lists_, within_;  // of all vectors
  Tensor codebooks_;                     // once they are fitted
};

}  // namespace qinco
