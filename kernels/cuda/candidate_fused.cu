// The order of work of the candidate search on tensor cores. The host never waits: what the screen leaves open is
// listed and counted on the device, in a list with room for all.
#include "kernels/cuda/candidate_pack.cuh"
#include "kernels/cuda/candidate_screen.cuh"
#include "kernels/cuda/candidate_screen_hopper.h"
#include "kernels/cuda/candidate_wide.cuh"
#include "kernels/cuda/float_kernels.h"

namespace qinco::kernels::cuda {

namespace {

// body(std::integral_constant<int, D/16>) for the width that the kernels are compiled for.
template <class Body>
void with_tiles(const CandidateLayout& p, Body body) {
  switch (p.D()) {
    case 32:
      return body(std::integral_constant<int, 2>{});
    case 64:
      return body(std::integral_constant<int, 4>{});
    case 96:
      return body(std::integral_constant<int, 6>{});
    case 128:
      return body(std::integral_constant<int, 8>{});
    case 192:
      return body(std::integral_constant<int, 12>{});
    default:
      return body(std::integral_constant<int, 16>{});
  }
}

unsigned blocks_at_once(const Context& context, int per_processor) {
  return static_cast<unsigned>(processors(context) * per_processor);
}

void run_screen(const Context& context, const CandidateLayout& p, const float* packed, const CandidateChunk& c) {
  if (p.wide()) return run_wide_screen(context, p, packed, c);
  Screen s{};
  s.n = c.n, s.K = c.K, s.L = static_cast<int>(p.L);
  s.candidate_tiles = static_cast<int>(p.Kp() / kMmaTile);
  s.hidden_tiles = c.H / static_cast<int>(kMmaTile);
  s.z_table = reinterpret_cast<const float4*>(packed + p.z_table());
  s.a_table = reinterpret_cast<const float4*>(packed + p.a_table());
  s.slabs = reinterpret_cast<const uint4*>(packed + p.slabs());
  s.row = c.row, s.target = c.target, s.up_row = c.up_row, s.distances = c.distances;
  if (takes_pieces(context.device, p)) return run_screen_hopper(context, s);
  with_tiles(p, [&](auto tiles) {
    constexpr int kTiles = tiles;
    static_assert(ScreenStream<kTiles>::kBytes <= kSharedBytes);
    launch(context, screen_kernel<kTiles, vectors_per_warp(16 * kTiles)>, blocks_at_once(context, kTiles <= 2 ? 2 : 1),
           kBlock, ScreenStream<kTiles>::kBytes, s);
  });
}

// The distances of counts[round] pairs; or their outputs, into z.
void run_rescore(const Context& context, const CandidateLayout& p, const float* packed, const CandidateChunk& c,
                 int round, float* z = nullptr) {
  Rescore s{};
  s.K = c.K, s.d = c.d, s.D = c.D, s.H = c.H, s.L = static_cast<int>(p.L);
  s.matrix = p.H128() * p.D();
  s.hidden_chunks = static_cast<int>(p.H128() / kHiddenChunk);
  s.bound = packed, s.candidate_norms = packed + p.norms();
  s.z_table = packed + p.z_table(), s.a_table = packed + p.a_table();
  s.weights = reinterpret_cast<const float4*>(packed + p.floats());
  s.row = c.row, s.target = c.target, s.up_row = c.up_row;
  s.vector_norms = c.vector_norms, s.distances = c.distances;
  s.pairs = c.pairs, s.count = c.counts + round;
  s.best = c.best, s.doubted = round == 0 ? c.doubted : nullptr;
  s.z = z;
  if (p.wide()) return run_wide_rescore(context, p, int64_t{c.n} * c.K, s);
  const int64_t most = (int64_t{c.n} * c.K + 15) / 16;  // tiles
  with_tiles(p, [&](auto tiles) {
    constexpr int kTiles = tiles, kShared = RescoreTile<kTiles, kMostRescoreRows<kTiles>>::kBytes;
    static_assert(kShared <= kSharedBytes);
    const unsigned blocks = blocks_at_once(context, kRescoreBlocks<kTiles>);
    s.few = static_cast<int>(pairs_of_small_tiles * blocks);
    launch(context, rescore_kernel<kTiles>, most < blocks ? static_cast<unsigned>(most) : blocks, kBlock, kShared, s);
  });
}

// Memory for chunks of n vectors.
CandidateChunk take_chunk(ScratchFrame& frame, const CandidateLayout& p, int64_t n) {
  const int64_t rows = round_up(n, group_vectors(p.D())), K = p.K;
  CandidateChunk c{};
  c.n = static_cast<int>(n), c.K = static_cast<int>(K);
  c.d = static_cast<int>(p.d), c.h = static_cast<int>(p.h);
  c.D = static_cast<int>(p.D()), c.H = static_cast<int>(p.H());
  c.row = frame.get<float>(rows * c.D);
  c.target = frame.get<float>(rows * c.D);
  c.up_row = frame.get<float>(rows * c.H);
  c.vector_norms = frame.get<float>(n);
  c.distances = frame.get<float>(n * K);
  c.best = frame.get<Key>(n);
  c.doubted = frame.get<int>(n);
  c.pairs = frame.get<uint32_t>(n * K);
  c.counts = frame.get<int>(2);
  return c;
}

void search_chunk(const Context& context, const CandidateLayout& p, const float* packed, const CandidateChunk& c,
                  const CandidateSearch<float>& s) {
  const unsigned blocks = blocks_for(c.n, kWarps);
  const int rows = static_cast<int>(round_up(c.n, group_vectors(p.D())));
  launch(context, prepare_kernel, blocks_for(rows, kWarps), kBlock, 0, c, s, rows);
  run_screen(context, p, packed, c);
  if (s.precision == Precision::fast) {
    launch(context, take_screened_kernel, blocks, kBlock, 0, c);
  } else {
    launch(context, choose_kernel, blocks, kBlock, 0, c, packed, packed + p.norms());
    run_rescore(context, p, packed, c, 0);
    launch(context, widen_kernel, blocks, kBlock, 0, c);
    run_rescore(context, p, packed, c, 1);
  }
  launch(context, finish_kernel, blocks_for(c.n), kBlock, 0, c.n, c.best, s.codes, s.distances);
}

// Matrix number m of the step's weights: down 1, up 2, down 2, .., down L.
PackedWeights packed_weights(const CandidateLayout& p, const CandidateStep<float>& step, int64_t m) {
  const bool up = m % 2 == 1;
  const int64_t l = (m + 1) / 2;
  if (p.wide())
    return {up ? step.w_up[l] : step.w_down[l], up, p.slabs() + m * p.H() * p.D() / 2,
            p.floats() + m * p.H128() * p.D(),  1,  0};
  const int64_t before = l == 0 ? 0 : 2 * l - 1;  // matrices before the block's
  const int64_t block = p.slabs() + before * p.H() * p.D() / 2;
  const int64_t turn = l > 0 && !up;  // of a block's two, piece by piece
  const int64_t slab = kMmaTile * p.D() / 2, chunk = kHiddenChunk * p.D();
  return {up ? step.w_up[l] : step.w_down[l],
          up,
          block + turn * slab,
          p.floats() + before * p.H128() * p.D() + turn * chunk,
          l == 0 ? 1 : 2,
          block};
}

void pack_weights(const Context& context, const CandidateLayout& p, const CandidateStep<float>& step, float* packed) {
  const int64_t matrices = 2 * p.L - 1;
  for (int64_t first = 0; first < matrices; first += kMatrices) {
    const int64_t count = matrices - first < kMatrices ? matrices - first : kMatrices;
    PackedMatrices all{};
    all.in_pieces = takes_pieces(context.device, p);
    for (int64_t m = 0; m < count; ++m) all.matrix[m] = packed_weights(p, step, first + m);
    launch(context, pack_weights_kernel, dim3(blocks_for(p.H128() * p.D()), static_cast<unsigned>(count)), kBlock, 0, p,
           all, packed);
  }
}

}  // namespace

void fused_candidate_pack(const Context& context, const CandidateStep<float>& step, float* packed) {
  const CandidateLayout p{step.K, step.d, step.h, step.L};
  launch(context, pack_tables_kernel, blocks_for(p.Kp(), kWarps), kBlock, 0, p, step.z_table, step.a_table, packed);
  pack_weights(context, p, step, packed);
  if (step.precision == Precision::fast) return;
  ScratchFrame frame(context);
  const CandidateChunk c = take_chunk(frame, p, margin::kProbes);
  float* const squares = frame.get<float>(margin::kProbes * kProbeParts);
  launch(context, probe_kernel, dim3(margin::kProbes, kProbeParts), kBlock, p.D() * sizeof(float), c, step.z_table,
         step.w_up[0], squares);
  run_rescore(context, p, packed, c, 0, c.target);
  run_screen(context, p, packed, c);
  launch(context, bound_kernel, 1, kWarp, 0, c, squares, packed + p.norms(), packed);
}

void fused_candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                            const CandidateSearch<float>& s) {
  const CandidateLayout p{K, d, h, L};
  const int64_t most = chunk_vectors(p);
  if (s.n <= 0) return;
  ScratchFrame frame(context);
  CandidateChunk c = take_chunk(frame, p, s.n < most ? s.n : most);
  for (int64_t begin = 0; begin < s.n; begin += most) {
    CandidateSearch<float> part = s;
    part.n = s.n - begin < most ? s.n - begin : most;
    part.target += begin * d, part.row += begin * d, part.up_row += begin * h, part.codes += begin;
    if (part.distances) part.distances += begin;
    c.n = static_cast<int>(part.n);
    search_chunk(context, p, packed, c, part);
  }
}

}  // namespace qinco::kernels::cuda
