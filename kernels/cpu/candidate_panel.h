// The inner loop of the candidate search: one panel of output features times one tile of candidates.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

#if defined(QINCO_CPU_avx512)
constexpr int kPanelRows = 8;  // 16 sums in 32 registers
#else
constexpr int kPanelRows = 6;  // 12 sums in 16 registers
#endif

QINCO_INLINE Vec relu(Vec x) {
  return max(Vec(0.0f), x);  // NaN stays NaN
}

// A tile is kUnits registers wide; each register is one unit: kLanes consecutive candidates of one vector.
constexpr int kUnits = 2;
constexpr int kTileWidth = kUnits * kLanes;

// What is read for one unit: its block of the tables ([feature][kLanes]) and its vector's rows.
struct Unit {
  const float* a_block;  // [h][kLanes]
  const float* z_block;  // [d][kLanes]
  const float* up_row;   // [h]
  const float* row;      // [d]
  const float* target;   // [d]
};

struct Tile {
  Unit unit[kUnits];
  float* hidden;       // [h][kTileWidth]
  float* z;            // [d][kTileWidth]
  float* distances;    // [kTileWidth]
  int units = kUnits;  // computed, the first of them
};

enum class Start : uint8_t { zero, stored, table };         // the product is added to: 0, the output, z_table + row
enum class Finish : uint8_t { store, relu, add_distance };  // the sum is stored, stored after relu, or only measured

// A panel of weights times the features [inner][kTileWidth] at x, giving `rows` features from feature `first` on.
struct Panel {
  const float* weights;  // [inner][panel height]
  const float* x;
  int64_t inner;
  int rows;
  int64_t first;
  Start start;
  Finish finish;
};

// For the first V units. `out` is the tile's hidden or z at feature `first`; R is the panel's height, its rows from
// p.rows on are padding.
template <int R, int V>
[[gnu::noinline]] void multiply_panel(const Panel& p, const Tile& tile, float* out) {
  Vec sum[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[i][v] = Vec(0.0f);
  const float* w = p.weights;
  const float* x = p.x;
  for (int64_t k = 0; k < p.inner; ++k, w += R, x += kTileWidth) {
    Vec column[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) column[v] = load(x + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec weight = Vec(w[i]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[i][v] = fma(weight, column[v], sum[i][v]);
    }
  }

  Vec total[V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) total[v] = load(tile.distances + v * kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    if (i >= p.rows) break;
    const int64_t feature = p.first + i;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const Unit& unit = tile.unit[v];
      float* const place = out + i * kTileWidth + v * kLanes;
      Vec value = sum[i][v];
      if (p.start == Start::stored) {
        value = load(place) + value;
      } else if (p.start == Start::table) {
        const Vec begin = load(unit.z_block + feature * kLanes) + Vec(unit.row[feature]);
        value = begin + value;
      }
      if (p.finish == Finish::add_distance) {
        const Vec error = Vec(unit.target[feature]) - value;
        total[v] = fma(error, error, total[v]);
      } else {
        store(place, p.finish == Finish::relu ? relu(value) : value);
      }
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) store(tile.distances + v * kLanes, total[v]);
}

template <int R>
void multiply_panel(const Panel& p, const Tile& tile, float* out) {
  tile.units == 1 ? multiply_panel<R, 1>(p, tile, out) : multiply_panel<R, kUnits>(p, tile, out);
}

QINCO_CPU_NAMESPACE_END
