// The inner loop of the candidate search: one panel of output features times one tile of candidates.
#pragma once

#include "kernels/cpu/simd.h"

QINCO_CPU_NAMESPACE_BEGIN

#if QINCO_CPU_avx512
using TileVec = __m512;
inline TileVec tile_load(const float* p) {
  return _mm512_load_ps(p);
}
inline void tile_store(float* p, TileVec x) {
  _mm512_store_ps(p, x);
}
inline TileVec tile_set1(float x) {
  return _mm512_set1_ps(x);
}
inline TileVec tile_add(TileVec a, TileVec b) {
  return _mm512_add_ps(a, b);
}
inline TileVec tile_sub(TileVec a, TileVec b) {
  return _mm512_sub_ps(a, b);
}
inline TileVec tile_fma(TileVec a, TileVec b, TileVec c) {
  return _mm512_fmadd_ps(a, b, c);
}
// max returns its second operand when either is NaN: relu(NaN) stays NaN.
inline TileVec tile_relu(TileVec x) {
  return _mm512_maskz_max_ps(0xffff, _mm512_setzero_ps(), x);
}
constexpr int kTileLanes = 16;
constexpr int kPanelRows = 8;
#else
using TileVec = __m256;
inline TileVec tile_load(const float* p) {
  return _mm256_load_ps(p);
}
inline void tile_store(float* p, TileVec x) {
  _mm256_store_ps(p, x);
}
inline TileVec tile_set1(float x) {
  return _mm256_set1_ps(x);
}
inline TileVec tile_add(TileVec a, TileVec b) {
  return _mm256_add_ps(a, b);
}
inline TileVec tile_sub(TileVec a, TileVec b) {
  return _mm256_sub_ps(a, b);
}
inline TileVec tile_fma(TileVec a, TileVec b, TileVec c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline TileVec tile_relu(TileVec x) {
  return _mm256_max_ps(_mm256_setzero_ps(), x);
}
constexpr int kTileLanes = 8;
constexpr int kPanelRows = 6;
#endif

// A tile is kUnits registers wide; each register is one unit: kTileLanes consecutive candidates of one vector.
constexpr int kUnits = 2;
constexpr int kTileWidth = kUnits * kTileLanes;

// What is read for one unit: its block of the tables ([feature][kTileLanes]) and its vector's rows.
struct Unit {
  const float* a_block;  // [h][kTileLanes]
  const float* z_block;  // [d][kTileLanes]
  const float* up_row;   // [h]
  const float* row;      // [d]
  const float* target;   // [d]
};

struct Tile {
  Unit unit[kUnits];
  float* hidden;     // [h][kTileWidth]
  float* z;          // [d][kTileWidth]
  float* distances;  // [kTileWidth]
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

// `out` is the tile's hidden or z at feature `first`; R is the panel's height, its rows from p.rows on are padding.
template <int R>
[[gnu::noinline]] void multiply_panel(const Panel& p, const Tile& tile, float* out) {
  TileVec sum[R][kUnits];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kUnits; ++v) sum[i][v] = tile_set1(0);
  const float* w = p.weights;
  const float* x = p.x;
  for (int64_t k = 0; k < p.inner; ++k, w += R, x += kTileWidth) {
    TileVec column[kUnits];
#pragma GCC unroll 2
    for (int v = 0; v < kUnits; ++v) column[v] = tile_load(x + v * kTileLanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const TileVec weight = tile_set1(w[i]);
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) sum[i][v] = tile_fma(weight, column[v], sum[i][v]);
    }
  }

  TileVec total[kUnits];
#pragma GCC unroll 2
  for (int v = 0; v < kUnits; ++v) total[v] = tile_load(tile.distances + v * kTileLanes);
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    if (i >= p.rows) break;
    const int64_t feature = p.first + i;
#pragma GCC unroll 2
    for (int v = 0; v < kUnits; ++v) {
      const Unit& unit = tile.unit[v];
      float* const place = out + i * kTileWidth + v * kTileLanes;
      TileVec value = sum[i][v];
      if (p.start == Start::stored) {
        value = tile_add(tile_load(place), value);
      } else if (p.start == Start::table) {
        const TileVec begin = tile_add(tile_load(unit.z_block + feature * kTileLanes), tile_set1(unit.row[feature]));
        value = tile_add(begin, value);
      }
      if (p.finish == Finish::add_distance) {
        const TileVec error = tile_sub(tile_set1(unit.target[feature]), value);
        total[v] = tile_fma(error, error, total[v]);
      } else {
        tile_store(place, p.finish == Finish::relu ? tile_relu(value) : value);
      }
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kUnits; ++v) tile_store(tile.distances + v * kTileLanes, total[v]);
}

QINCO_CPU_NAMESPACE_END
