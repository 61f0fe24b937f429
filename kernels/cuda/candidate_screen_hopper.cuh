// The screen of the candidate search (candidate_screen.cuh) with Hopper's warpgroup products, for steps of width 128
// whose hidden layers are multiples of 64. It gives the same bits.
//
// A warpgroup takes 64 rows, 16 candidates of 4 vectors, through the step in its registers: z in float as the
// accumulator of the down products, and 64 hidden units at a time, whose sums become, rounded, the operand A of the
// down product. Two warpgroups compute, bound to each other by the weights alone, so that one's products fill the
// other's pauses; and while a warpgroup rounds hidden units, its down product of the 64 before is under way.
//
// Weights are pieces of 16 KiB (candidate_pieces.h), which products read from shared memory once for 64 rows. A third
// warpgroup copies them, one thread of it, into a ring. Where all pieces of a step fit they are copied once and stay.
//
// Two things that the compiler does not see decide the speed. Table values for the next 64 hidden units are fetched
// after a down product was begun: before it, the product would wait for them. And no wait for a piece lies between an
// up product and the down product that follows: both pieces are waited for first.
//
// Floor, d = 128, h = 256, L = 2, K = 256, per vector: 50.3 MFLOP, at the 989 TFLOP/s of an H100's data sheet 19.7
// million vectors/s, 416 us for 8,192. docs/gpu.md has what was measured.
#pragma once

#include "kernels/cuda/candidate_pieces.h"
#include "kernels/cuda/candidate_screen.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace qinco::kernels::cuda {

constexpr int kTileVectors = 8;   // of a tile: one for each warp that computes
constexpr int kMostPieces = 13;   // that fit in shared memory
constexpr int kStreamPieces = 8;  // of the ring when they do not all fit
constexpr int kComputeThreads = 256;
constexpr int kScreenThreads = 384;

constexpr int ring_pieces(int H, int L) {
  return piece_count(H, L) <= kMostPieces ? piece_count(H, L) : kStreamPieces;
}
constexpr int ring_bytes(int pieces) {
  return pieces * (kPieceBytes + 16);
}
static_assert(ring_bytes(kMostPieces) <= 227 << 10);

/// The ring in shared memory: stages, then for each a barrier that says it is full, then one that says it is free.
struct Ring {
  uint32_t base;
  int length;
  bool streams;  // else it is filled once

  __device__ uint32_t full(int stage) const { return base + length * kPieceBytes + stage * 8; }
  __device__ uint32_t free(int stage) const { return full(length + stage); }
};

/// What a warp that computes sees of the ring.
class PieceReader {
 public:
  __device__ explicit PieceReader(const Ring& ring) : ring_(ring) {}

  /// The next piece, once it is there: its stage.
  __device__ int take() {
    const int stage = next_;
    barrier_wait(ring_.full(stage), phase_);
    if (++next_ == ring_.length) next_ = 0, phase_ ^= ring_.streams;
    return stage;
  }
  /// This warp's products with a piece are done.
  __device__ void release(int stage) {
    if (ring_.streams && threadIdx.x % kWarp == 0) barrier_arrive(ring_.free(stage));
  }
  /// The descriptor of an operand [N][..] in a stage, for product s.
  template <int N>
  __device__ uint64_t operand(int stage, int s) const {
    constexpr uint64_t kRest = SwizzledOperand::kDescriptor;  // its low word has room for the sum
    const uint32_t low = (ring_.base >> 4) + stage * (kPieceBytes / 16) + SwizzledOperand::step(N, s) / 16;
    return kRest >> 32 << 32 | (static_cast<uint32_t>(kRest) + low);
  }

 private:
  Ring ring_;
  int next_ = 0;
  uint32_t phase_ = 0;
};

// Copies all pieces that the block's tiles take, `period` to a tile. One thread.
__device__ inline void copy_pieces(const Ring& ring, const unsigned char* pieces, int period, int64_t total) {
  int stage = 0, source = 0;
  uint32_t phase = 0;
  for (int64_t i = 0; i < total; ++i) {
    if (i >= ring.length) barrier_wait(ring.free(stage), phase ^ 1);
    barrier_expect(ring.full(stage), kPieceBytes);
    copy_bulk(ring.base + stage * kPieceBytes, pieces + int64_t{source} * kPieceBytes, kPieceBytes, ring.full(stage));
    if (++source == period) source = 0;
    if (++stage == ring.length) stage = 0, phase ^= 1;
  }
}

// 64 hidden units as operands A.
using Hidden = uint32_t[4][4];

// z += W_down hidden, begun.
__device__ inline void begin_down(const PieceReader& pieces, int stage, const Hidden& hidden, float (&z)[16][4]) {
#pragma unroll
  for (int s = 0; s < 4; ++s) wgmma_add_128(z, hidden[s], pieces.operand<128>(stage, s));
}

// sum = W_up y, begun.
__device__ inline void begin_up(const PieceReader& pieces, int stage, const uint32_t (&y)[8][4], float (&sum)[8][4]) {
  wgmma_add_64<true>(sum, y[0], pieces.operand<64>(stage, 0));
#pragma unroll
  for (int s = 1; s < 8; ++s) wgmma_add_64<false>(sum, y[s], pieces.operand<64>(stage, s));
}

__device__ inline void round_hidden(const float (&sum)[8][4], Hidden& hidden) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    hidden[j / 2][j % 2 * 2] = pack_relu_bf16(sum[j][0], sum[j][1]);
    hidden[j / 2][j % 2 * 2 + 1] = pack_relu_bf16(sum[j][2], sum[j][3]);
  }
}

// The first block of the step: hidden = relu(a_table + up_row). `even` and `odd`: as long as one is an operand under
// way, the other is written. The pointers are the lane's.
__device__ inline void screen_first(PieceReader& pieces, const float4* a_table, const float* up_row, int chunks,
                                    float (&z)[1][16][4]) {
  ScreenBegin<1> ahead[4];
  const auto fetch = [&] {
#pragma unroll
    for (int s = 0; s < 4; ++s) ahead[s].fetch(a_table, up_row, 0, s, 0);
  };
  Hidden even, odd;
  int before = -1;
  const auto step = [&](int c, Hidden& hidden) {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      uint32_t out[1][4];
      ahead[s].hidden(out);
#pragma unroll
      for (int i = 0; i < 4; ++i) hidden[s][i] = out[0][i];
    }
    pin(hidden);
    const int stage = pieces.take();
    wgmma_fence();
    begin_down(pieces, stage, hidden, z[0]);
    wgmma_commit();
    if (c + 1 < chunks) {
      a_table = opaque(a_table + kPieceHidden / 8 * kWarp);
      up_row = opaque(up_row + kPieceHidden);
      fetch();
    }
    wgmma_wait<1>();
    if (before >= 0) pieces.release(before);
    before = stage;
  };
  fetch();
  pin(z[0]);
  int c = 0;
  for (; c + 1 < chunks; c += 2) {
    step(c, even);
    step(c + 1, odd);
  }
  if (c < chunks) step(c, even);
  wgmma_wait<0>();
  pin(z[0]);
  pieces.release(before);
}

// The up product of a block's first chunk: nothing to do beside it.
__device__ inline void screen_first_up(PieceReader& pieces, const uint32_t (&y)[8][4], float (&sum)[8][4],
                                       Hidden& hidden) {
  const int stage = pieces.take();
  wgmma_fence();
  begin_up(pieces, stage, y, sum);
  wgmma_commit();
  wgmma_wait<0>();
  pin(sum);
  pieces.release(stage);
  round_hidden(sum, hidden);
  pin(hidden);
}

// The down product of a block's last chunk.
__device__ inline void screen_last_down(PieceReader& pieces, const Hidden& hidden, float (&z)[16][4]) {
  const int stage = pieces.take();
  wgmma_fence();
  begin_down(pieces, stage, hidden, z);
  wgmma_commit();
  wgmma_wait<0>();
  pin(z);
  pieces.release(stage);
}

// A later block. The up product of a chunk is begun before the down product of the chunk before.
__device__ inline void screen_block(PieceReader& pieces, int chunks, float (&z)[1][16][4]) {
  uint32_t y[1][8][4];
  screen_round<8, 1>(z, y);
  pin(y[0]);
  float sum[8][4];
  Hidden even, odd;
  int before = -1;
  const auto step = [&](const Hidden& hidden, Hidden& next) {
    const int up = pieces.take(), down = pieces.take();
    wgmma_fence();
    begin_up(pieces, up, y[0], sum);
    wgmma_commit();
    begin_down(pieces, down, hidden, z[0]);
    wgmma_commit();
    wgmma_wait<1>();
    pin(sum);
    pieces.release(up);
    if (before >= 0) pieces.release(before);
    before = down;
    round_hidden(sum, next);
    pin(next);
  };
  screen_first_up(pieces, y[0], sum, even);
  int c = 0;
  for (; c + 2 < chunks; c += 2) {
    step(even, odd);
    step(odd, even);
  }
  if (c + 1 < chunks) {
    step(even, odd);
    screen_last_down(pieces, odd, z[0]);
  } else {
    screen_last_down(pieces, even, z[0]);
  }
  if (before >= 0) pieces.release(before);
}

// What one warp does of a tile, with its warpgroup: 16 candidates of a vector.
__device__ inline void screen_tile(const Screen& s, PieceReader& pieces, int candidate, int vector) {
  const int lane = threadIdx.x % kWarp, H = 16 * s.hidden_tiles, chunks = H / kPieceHidden;
  float z[1][16][4];
  const float4* const z_table = opaque(s.z_table + int64_t{candidate} * 16 * kWarp + lane);
  const float4* const a_table = opaque(s.a_table + int64_t{candidate} * s.hidden_tiles * 2 * kWarp + lane);
  const float* const row = opaque(s.row + int64_t{vector} * kPieceWidth + lane % 4 * 2);
  const float* const up_row = opaque(s.up_row + int64_t{vector} * H + lane % 4 * 2);
  screen_begin<8, 1>(z_table, row, 0, z);
  screen_first(pieces, a_table, up_row, chunks, z);
  for (int l = 1; l < s.L; ++l) screen_block(pieces, chunks, z);
  if (vector >= s.n) return;
  screen_distances<8>(z[0], s.target + int64_t{vector} * kPieceWidth, lane, s.K - candidate * 16,
                      s.distances + int64_t{vector} * s.K + candidate * 16);
}

// How many tiles a block takes, of 16 candidates of 8 vectors each, candidates inside; and the first of them.
struct TileRange {
  int64_t count;
  int candidate, vector;
};
__device__ inline TileRange block_tiles(const Screen& s) {
  const int64_t tiles = int64_t{(s.n + kTileVectors - 1) / kTileVectors} * s.candidate_tiles;
  const int64_t begin = tiles * blockIdx.x / gridDim.x, end = tiles * (blockIdx.x + 1) / gridDim.x;
  return {end - begin, static_cast<int>(begin % s.candidate_tiles),
          static_cast<int>(begin / s.candidate_tiles) * kTileVectors};
}

/// s.slabs: the pieces. Dynamic shared memory: ring_bytes(ring_length).
__global__ void __launch_bounds__(kScreenThreads, 1)
    screen_hopper_kernel(const __grid_constant__ Screen s, int ring_length) {
  const int period = piece_count(16 * s.hidden_tiles, s.L);
  const Ring ring{shared_base(), ring_length, ring_length < period};
  TileRange range = block_tiles(s);

  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.length; ++i) {
      barrier_init(ring.full(i), 1);
      barrier_init(ring.free(i), kComputeThreads / kWarp);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (range.count == 0) return;

  if (threadIdx.x >= kComputeThreads) {
    give_registers<40>();
    if (threadIdx.x == kComputeThreads)
      copy_pieces(ring, reinterpret_cast<const unsigned char*>(s.slabs), period,
                  ring.streams ? range.count * period : period);
  } else {
    take_registers<232>();
    PieceReader pieces(ring);
    int vector = range.vector + threadIdx.x / kWarp;
    for (; range.count > 0; --range.count) {
      screen_tile(s, pieces, range.candidate, vector);
      if (++range.candidate == s.candidate_tiles) range.candidate = 0, vector += kTileVectors;
    }
  }
}

}  // namespace qinco::kernels::cuda
