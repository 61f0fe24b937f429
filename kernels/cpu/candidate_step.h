// One packed QINCo step in float, and the products of its chain over tiles of candidates.
//
// Activations are held feature-major, [feature][lane] with candidates as lanes: then the output of one product is laid
// out as the operand of the next, weights are broadcast scalars, and relu, residual and distance act on registers.
// Nothing per candidate leaves the tile: a tile's features stay in L1/L2 from the tables to the distance.
#pragma once

#include "kernels/cpu/candidate_panel.h"
#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kFirstLevel = 8192;         // floats of activations that a panel's sweep may touch and stay in L1
constexpr int64_t kWeightBlock = 64 * 1024;   // floats of weights reused from L2 by a group of tiles
constexpr int64_t kGroupFloats = 192 * 1024;  // floats of activations that a group of tiles may hold in L2
constexpr int64_t kResident = 320 * 1024;     // floats of weights and tables that stay in L2 by themselves
constexpr int64_t kMaxGroup = 16;             // tiles per group

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
struct StepLayout {
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

void pack_step(const Context& context, const CandidateStep<float>& s, float* packed) {
  const StepLayout layout{s.K, s.d, s.h, s.L};
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
void measure(const StepLayout& layout, const float* packed, const Tile* tiles, int64_t count) {
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
int64_t group_size(const StepLayout& layout) {
  if (layout.size() <= kResident) return 1;
  const int64_t fitting = kGroupFloats / ((layout.d + layout.h) * kTileWidth);
  return larger(1, smaller(fitting, kMaxGroup));
}

// What unit `block` of vector i of a search reads.
Unit make_unit(const StepLayout& layout, const float* packed, const CandidateSearch<float>& s, int64_t block,
               int64_t i) {
  return {packed + block * layout.h * kLanes, packed + layout.z_table() + block * layout.d * kLanes,
          s.up_row + i * layout.h, s.row + i * layout.d, s.target + i * layout.d};
}

QINCO_CPU_NAMESPACE_END
