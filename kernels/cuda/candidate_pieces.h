// The weights of a step as Hopper's screen takes them (candidate_screen_hopper.cuh): pieces of 16 KiB, each of 64
// hidden units of one matrix, in the order in which they are taken. Plain C++.
#pragma once

#include "kernels/cuda/candidate_layout.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/operand_layout.h"

namespace qinco::kernels::cuda {

constexpr int kPieceWidth = 128;       // the width of the steps that are packed so
constexpr int kPieceHidden = 64;       // hidden units of a piece
constexpr int kPieceBytes = 16 << 10;  // a piece is W_up [64,128] or W_down [128,64], a SwizzledOperand

/// Pieces of a step with H hidden units.
QINCO_HOST_DEVICE constexpr int piece_count(int H, int L) {
  return (2 * L - 1) * (H / kPieceHidden);
}

/// Where chunk c of a matrix comes among the pieces of its block of the step, of `chunks` a matrix. The first block has
/// only W_down. In the others the up product of a chunk comes before the down product of the chunk before: up 0, up 1,
/// down 0, up 2, down 1, .., down chunks - 1.
QINCO_HOST_DEVICE constexpr int piece_place(bool first_block, bool up, int c, int chunks) {
  if (first_block) return c;
  if (up) return c == 0 ? 0 : 2 * c - 1;
  return c == chunks - 1 ? 2 * chunks - 1 : 2 * c + 2;
}

/// Whether steps of these sizes can be packed in pieces. They take the place of the slabs and are as large.
QINCO_HOST_DEVICE constexpr bool fits_pieces(const CandidateLayout& p) {
  return p.D() == kPieceWidth && p.h % kPieceHidden == 0;
}

/// Whether devices that have warpgroup products use them; tests clear it, to compare with the other screen.
inline bool use_wgmma = true;

/// Whether a step is packed in pieces and screened by warpgroup products, which 9.0 has and no other capability.
inline bool takes_pieces(Device device, const CandidateLayout& p) {
  return use_wgmma && fits_pieces(p) && compute_capability(device.index) == 90;
}

}  // namespace qinco::kernels::cuda
