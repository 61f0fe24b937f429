// The fused candidate search of one QINCo step.
//
// Activations are held feature-major, [feature][lane] with candidates as lanes: then the output of one product is laid
// out as the operand of the next, weights are broadcast scalars, and relu, residual and distance act on registers.
// Nothing per candidate leaves the tile: a tile's features stay in L1/L2 from the tables to the distance.
#include "kernels/cpu/candidate_panel.h"
#include "kernels/cpu/denormals.h"
#include "kernels/cpu/pack.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kFirstLevel = 8192;             // floats of activations that a panel's sweep may touch and stay in L1
constexpr int64_t kWeightBlock = 64 * 1024;       // floats of weights reused from L2 by a group of tiles
constexpr int64_t kGroupFloats = 192 * 1024;      // floats of activations that a group of tiles may hold in L2
constexpr int64_t kResident = 320 * 1024;         // floats of weights and tables that stay in L2 by themselves
constexpr int64_t kMaxGroup = 16;                 // tiles per group
constexpr int64_t kMaxGrain = 64;                 // vectors per chunk
constexpr int64_t kChunkWork = int64_t{1} << 27;  // multiply-adds per chunk, about a millisecond

// The last panel is cut to an even height.
int panel_height(int64_t rows_left) {
  return static_cast<int>(smaller(kPanelRows, (rows_left + 1) / 2 * 2));
}

int64_t matrix_size(int64_t rows, int64_t inner) {
  return (rows + 1) / 2 * 2 * inner;
}

// One step's pack: a_table and z_table as blocks [K/kLanes][feature][kLanes] (candidates from K on are zero),
// then W_down,1, W_up,2, W_down,2, .. W_down,L, each as panels [rows/kPanelRows][inner][height] (rows past the end are
// zero). Tables first: their registers are loaded aligned.
struct Layout {
  int64_t K, d, h, L;

  int64_t blocks() const { return blocks_of(K, kLanes); }
  int64_t z_table() const { return blocks() * h * kLanes; }
  int64_t w_down(int64_t l) const {
    return z_table() + blocks() * d * kLanes + l * (matrix_size(d, h) + matrix_size(h, d));
  }
  int64_t w_up(int64_t l) const { return w_down(l) - matrix_size(h, d); }
  int64_t size() const { return w_down(L - 1) + matrix_size(d, h); }
};

// out[c * width + r] = x[r * cols + c] for r < rows, 0 for rows <= r < width.
void interleave(const float* x, int64_t rows, int64_t cols, int width, float* out) {
  for (int64_t c = 0; c < cols; ++c, out += width) {
    for (int r = 0; r < width; ++r) out[r] = r < rows ? x[r * cols + c] : 0.0f;
  }
}

void pack_table(const Context& context, const float* x, int64_t K, int64_t cols, float* out) {
  parallel_for(context, blocks_of(K, kLanes), 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t k = b * kLanes;
      interleave(x + k * cols, smaller(K - k, kLanes), cols, kLanes, out + k * cols);
    }
  });
}

void pack_matrix(const Context& context, const float* x, int64_t rows, int64_t inner, float* out) {
  parallel_for(context, blocks_of(rows, kPanelRows), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t i = p * kPanelRows;
      interleave(x + i * inner, smaller(rows - i, kPanelRows), inner, panel_height(rows - i), out + i * inner);
    }
  });
}

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return Layout{K, d, h, L}.size();
}

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed) {
  const Layout layout{s.K, s.d, s.h, s.L};
  pack_table(context, s.a_table, s.K, s.h, packed);
  pack_table(context, s.z_table, s.K, s.d, packed + layout.z_table());
  for (int64_t l = 0; l < s.L; ++l) {
    if (l > 0) pack_matrix(context, s.w_up[l], s.h, s.d, packed + layout.w_up(l));
    pack_matrix(context, s.w_down[l], s.d, s.h, packed + layout.w_down(l));
  }
}

// One product of the chain for a whole tile: z (+)= W_down hidden, or hidden = relu(W_up z).
struct Product {
  const float* weights;
  int64_t rows, inner;
  bool up;  // reads z and writes hidden; else the reverse
  Start start;
  Finish finish;
};

void multiply(const Product& product, int64_t first, int64_t last, const Tile& tile) {
  const float* const x = product.up ? tile.z : tile.hidden;
  float* const out = product.up ? tile.hidden : tile.z;
  // The inner dimension is cut evenly so that the features read by all panels stay in L1.
  const int64_t cuts = blocks_of(product.inner * kTileWidth, kFirstLevel);
  for (int64_t cut = 0; cut < cuts; ++cut) {
    const int64_t k0 = product.inner * cut / cuts, k1 = product.inner * (cut + 1) / cuts;
    Panel panel{};
    panel.x = x + k0 * kTileWidth;
    panel.inner = k1 - k0;
    panel.start = cut == 0 ? product.start : Start::stored;
    panel.finish = cut == cuts - 1 ? product.finish : Finish::store;
    for (int64_t i = first; i < last; i += kPanelRows) {
      const int height = panel_height(product.rows - i);
      panel.weights = product.weights + i * product.inner + k0 * height;
      panel.rows = static_cast<int>(smaller(product.rows - i, height));
      panel.first = i;
      float* const place = out + i * kTileWidth;
      if (height == kPanelRows)
        multiply_panel<kPanelRows>(panel, tile, place);
      else if (height == 2)
        multiply_panel<2>(panel, tile, place);
      else if (height == 4)
        multiply_panel<4>(panel, tile, place);
      else
        multiply_panel<6>(panel, tile, place);
    }
  }
}

// Blocks of weights outside, tiles inside: a block is read from memory once for the whole group.
void multiply(const Product& product, const Tile* tiles, int64_t count) {
  const int64_t panels = larger(1, kWeightBlock / (kPanelRows * product.inner));
  const int64_t block = count == 1 ? product.rows : panels * kPanelRows;
  for (int64_t i = 0; i < product.rows; i += block) {
    for (int64_t g = 0; g < count; ++g) multiply(product, i, smaller(product.rows, i + block), tiles[g]);
  }
}

// hidden = relu(a_table + up_row), distances = 0.
void begin_tile(int64_t h, const Tile& tile) {
  for (int v = 0; v < kUnits; ++v) {
    const Unit& unit = tile.unit[v];
    float* const out = tile.hidden + v * kLanes;
    for (int64_t j = 0; j < h; ++j) {
      const Vec sum = load(unit.a_block + j * kLanes) + Vec(unit.up_row[j]);
      store(out + j * kTileWidth, relu(sum));
    }
    store(tile.distances + v * kLanes, Vec(0.0f));
  }
}

// The distances of all candidates of a group of tiles.
void measure(const Layout& layout, const float* packed, const Tile* tiles, int64_t count) {
  const int64_t d = layout.d, h = layout.h, L = layout.L;
  for (int64_t g = 0; g < count; ++g) begin_tile(h, tiles[g]);
  for (int64_t l = 0; l < L; ++l) {
    if (l > 0) multiply({packed + layout.w_up(l), h, d, true, Start::zero, Finish::relu}, tiles, count);
    const Start start = l > 0 ? Start::stored : Start::table;
    const Finish finish = l < L - 1 ? Finish::store : Finish::add_distance;
    multiply({packed + layout.w_down(l), d, h, false, start, finish}, tiles, count);
  }
}

// Tiles that go through the step together. One stays in L1 from end to end; where the step's data does not stay in L2
// between tiles, several share each read of it.
int64_t group_size(const Layout& layout) {
  if (layout.size() <= kResident) return 1;
  const int64_t fitting = kGroupFloats / ((layout.d + layout.h) * kTileWidth);
  return larger(1, smaller(fitting, kMaxGroup));
}

// Searches for the vectors [begin, end). Units run over the vectors first, then over the blocks of candidates, so that
// a block of the tables is read once for all of them and each vector meets its candidates in ascending order.
[[gnu::noinline]] void search_chunk(const Layout& layout, const float* packed, const CandidateSearch<float>& s,
                                    int64_t begin, int64_t end, float* scratch) {
  const int64_t d = layout.d, h = layout.h, vectors = end - begin, units = vectors * layout.blocks();
  const int64_t group = group_size(layout);
  alignas(64) float distances[kMaxGroup * kTileWidth];
  float best[kMaxGrain];
  for (int64_t i = 0; i < vectors; ++i) {
    best[i] = __builtin_inff();
    s.codes[begin + i] = 0;
  }
  for (int64_t u0 = 0; u0 < units; u0 += group * kUnits) {
    Tile tiles[kMaxGroup];
    const int64_t here = smaller(group * kUnits, units - u0), count = blocks_of(here, kUnits);
    for (int64_t t = 0; t < count * kUnits; ++t) {
      Tile& tile = tiles[t / kUnits];
      const int64_t u = smaller(u0 + t, units - 1);  // an odd last unit is computed twice and counted once
      const int64_t block = u / vectors, i = begin + u % vectors;
      tile.unit[t % kUnits] = {packed + block * h * kLanes, packed + layout.z_table() + block * d * kLanes,
                               s.up_row + i * h, s.row + i * d, s.target + i * d};
      tile.hidden = scratch + t / kUnits * (d + h) * kTileWidth;
      tile.z = tile.hidden + h * kTileWidth;
      tile.distances = distances + t / kUnits * kTileWidth;
    }
    measure(layout, packed, tiles, count);
    for (int64_t t = 0; t < here; ++t) {
      const int64_t k = (u0 + t) / vectors * kLanes, i = (u0 + t) % vectors;
      const float* const unit = distances + t * kLanes;
      for (int64_t j = 0; j < smaller(kLanes, layout.K - k); ++j) {
        if (unit[j] < best[i]) {
          best[i] = unit[j];
          s.codes[begin + i] = static_cast<int32_t>(k + j);
        }
      }
    }
  }
  for (int64_t i = 0; i < vectors && s.distances; ++i) s.distances[begin + i] = best[i];
}

void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& s) {
  const Layout layout{K, d, h, L};
  // Several vectors a chunk, so that they share the tables; at least 32 chunks, so that threads end together.
  const int64_t work = layout.blocks() * kLanes * d * h * (2 * L - 1);
  const int64_t grain = larger(1, smaller(s.n / 32, smaller(kMaxGrain, larger(4, kChunkWork / work))));
  const int64_t scratch_size = group_size(layout) * (d + h) * kTileWidth;
  ScratchFrame frame(context);
  float* const scratch = frame.get<float>(context.threads * scratch_size);
  parallel_for(context, s.n, grain, [&](int64_t begin, int64_t end, int worker) {
    const FlushDenormals flush;
    search_chunk(layout, packed, s, begin, end, scratch + worker * scratch_size);
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_candidate(Table<float>& t) {
  t.candidate_packed_size = candidate_packed_size;
  t.candidate_pack = candidate_pack;
  t.candidate_search = candidate_search;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
