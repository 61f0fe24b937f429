// A pairwise additive decoder: codes decoded approximately by tables that pairs of codes index, far nearer to the
// network than fixed codebooks and cheaper by far than the network. (The idea is QINCo2's, Vallaeys et al., ICLR 2025,
// which fits its tables to vectors; these are made by the network itself.)
#pragma once

#include <cstdint>
#include <vector>

#include "qinco/codec/codec.h"
#include "tensor/tensor.h"

namespace qinco {

/// x ~ first[i_0] + sum_m table_m[g(i_0), i_m], with g the group of the first code: the code itself or, of more than K
/// of them, their nearest of K k-means centroids. What step m adds to a reconstruction depends on the reconstruction,
/// which a group knows the mean of: table_m[g, k] = f_m(codeword k, mean of the reconstructions before step m whose
/// first code is of g). What that leaves is fitted by additive codebooks of the group and of every code, which are
/// added into the tables.
class PairwiseDecoder {
 public:
  static constexpr int64_t kMostFitted = 1 << 17;

  /// Makes the tables on the codec's device. The means and the fit are those of typical codes [n,entries], the host's:
  /// a few hundred times as many as a code has values; of more than kMostFitted so many, evenly spread. `entries` of
  /// the codec's codes are decoded, from 2 on. Takes about the time of decoding these and K min(K, K0) vectors, and
  /// k-means of the K0 first codewords where they are more than K; memory for these and 2.5 (entries - 1) K min(K, K0)
  /// + 2 K0 vectors, and (entries K)^2 doubles. Throws Error for other entries, without vectors, naming the row when a
  /// code is out of range, and when one decodes to what is not finite. Codec and codes may go afterwards.
  PairwiseDecoder(const Codec& codec, int64_t n, const int32_t* codes, int64_t entries);

  int64_t entries() const { return tables_.size(0) + 1; }

  /// codes [n,entries()], the host's -> x [n,d] in the original space, in the memory of the codec's device. Throws
  /// Error naming the row when a code is out of range.
  void decode_to_device(int64_t n, const int32_t* codes, float* x) const;

 private:
  int64_t K_;
  std::vector<int32_t> groups_;  // [K0] of the first codes
  Tensor first_;                 // f32 [K0,d]
  Tensor tables_;                // bf16 [entries-1,groups*K,d], infinity above 3.38e38: memory is what limits decoding
};

}  // namespace qinco
