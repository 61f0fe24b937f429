// What the fused candidate search takes, and where things stand in a packed step and in its scratch memory. Plain C++.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace qinco::kernels::cuda {

constexpr int64_t kMmaTile = 16;        // candidates of a tile; hidden units of a slab of the screen's weights
constexpr int64_t kHiddenChunk = 128;   // hidden units that are computed together in float: 16 by each of 8 warps
constexpr int64_t kLargestWidth = 256;  // of z in a warp's registers; that of wider steps passes through memory
constexpr int64_t kWidePairs = 8;       // pairs of a wide step that are compared together in float
constexpr int kSharedBytes = 99 << 10;  // that a block can have on every supported GPU
constexpr int64_t kPackHeader = 16;     // floats

QINCO_HOST_DEVICE constexpr int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

/// The width that the kernels are compiled for; that of wide steps (candidate_wide.cuh) is free.
QINCO_HOST_DEVICE constexpr int64_t padded_width(int64_t d) {
  return d <= 128 ? round_up(d, 32) : d <= 192 ? 192 : d <= kLargestWidth ? kLargestWidth : round_up(d, 8);
}

/// Vectors of one warp: their z, and for L > 1 its rounded copy, stay in registers.
QINCO_HOST_DEVICE constexpr int vectors_per_warp(int64_t width) {
  return width <= 128 ? 2 : 1;
}

/// Vectors of a tile of the screen: its 8 warps'; a wide one has none.
QINCO_HOST_DEVICE constexpr int64_t group_vectors(int64_t width) {
  return width <= kLargestWidth ? 8 * vectors_per_warp(width) : 1;
}

/// A packed step, in floats from its beginning. Rows of K, d and h are padded with zeros to Kp, D and H.
///   [0]       the bound on the screen's rounding (kernels/candidate_margin.h)
///   norms     [Kp]  ||(a_k, z_k)||
///   z_table   [Kp/16][D/8][32 lanes][4]  as fragments C (mma.cuh), a_table [Kp/16][H/8][32][4] likewise
///   slabs     bfloat16 fragments B for 16 hidden units each: [H/16] of down 1, then [H/16][2] of up l, down l, l
///             = 2..L. Where Hopper's screen takes the step, its pieces (candidate_pieces.h), which are as large
///   floats    the same weights in float, in pieces of 128 hidden units: [H128/128] of down 1, then [H128/128][2] of
///             up l, down l. A piece is [8 warps][D/8][32 lanes][4]: for each load of a warp, lane 4 g + t has the
///             weights between outer index g of 8 and inner ones 4 t .. 4 t + 3 of 16. Warp w's loads are, of up,
///             [D/16] 16 columns for [2] 8 of the hidden units from 16 w on; of down, [4] 16 of the hidden units from
///             w / 4 * 64 on for [D/32] 8 of the columns from w % 4 * D/4 on.
/// A wide step has its tables as plain rows; for slabs the matrices down 1, up 2, down 2, .. in bfloat16, W_down [D,H],
/// W_up [H,D]; for floats the same transposed, W_down [H,D], W_up [D,H], each in the room of [H128,D].
struct CandidateLayout {
  int64_t K, d, h, L;

  QINCO_HOST_DEVICE constexpr bool wide() const { return d > kLargestWidth; }
  QINCO_HOST_DEVICE constexpr int64_t Kp() const { return round_up(K, kMmaTile); }
  QINCO_HOST_DEVICE constexpr int64_t D() const { return padded_width(d); }
  QINCO_HOST_DEVICE constexpr int64_t H() const { return round_up(h, kMmaTile); }
  QINCO_HOST_DEVICE constexpr int64_t H128() const { return round_up(h, kHiddenChunk); }

  QINCO_HOST_DEVICE constexpr int64_t norms() const { return kPackHeader; }
  QINCO_HOST_DEVICE constexpr int64_t z_table() const { return norms() + Kp(); }
  QINCO_HOST_DEVICE constexpr int64_t a_table() const { return z_table() + Kp() * D(); }
  QINCO_HOST_DEVICE constexpr int64_t slabs() const { return a_table() + Kp() * H(); }
  QINCO_HOST_DEVICE constexpr int64_t floats() const { return slabs() + (2 * L - 1) * H() * D() / 2; }
  QINCO_HOST_DEVICE constexpr int64_t size() const { return floats() + (2 * L - 1) * H128() * D(); }

  /// Shared memory of the rescoring of a wide step.
  QINCO_HOST_DEVICE constexpr int64_t wide_bytes() const { return kWidePairs * (D() + H()) * 4; }
  /// Whether the search on tensor cores takes this step.
  QINCO_HOST_DEVICE constexpr bool fused() const { return !wide() || wide_bytes() <= kSharedBytes - 1024; }
  /// Slabs that a tile of candidates goes through.
  QINCO_HOST_DEVICE constexpr int slabs_per_tile() const { return static_cast<int>((2 * L - 1) * H() / kMmaTile); }
};

/// Distances that are held at once, 8 bytes each with what is listed of them; tests lower it.
inline int64_t most_distances = int64_t{1} << 21;

/// The rescoring takes 16 pairs at a time where a block has no more than so many, else 32; tests change it.
inline int64_t pairs_of_small_tiles = 16;

/// Memory that the screen of a wide step passes its vectors through at a time, one of them at least; tests lower it.
inline int64_t wide_screen_bytes = int64_t{32} << 20;

/// Vectors that are searched together; their inputs take 64 MiB at most.
inline int64_t chunk_vectors(const CandidateLayout& p) {
  const int64_t by_distances = most_distances / p.K, by_inputs = (int64_t{1} << 24) / (2 * p.D() + p.H());
  const int64_t most = by_distances < by_inputs ? by_distances : by_inputs;
  return most < 1 ? 1 : most;
}

}  // namespace qinco::kernels::cuda
