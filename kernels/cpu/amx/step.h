// One packed step of the candidate search, and its output for single candidates at near-float precision.
#pragma once

#include "kernels/cpu/amx/screen.h"
#include "kernels/cpu/amx/split_product.h"
#include "kernels/cpu/distance.h"
#include "kernels/cpu/screened_search.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kPairs = 64;                      // (vector, candidate) pairs computed together
constexpr int64_t kInCache = int64_t{1} << 20;      // bytes of weights that stay in L2 whatever the order
constexpr int64_t kGroupFloats = int64_t{1} << 19;  // of scratch for a group, unless one unit takes more

// Where things stand in a pack, in floats: the bound, ||(a_k, z_k)|| per candidate, a_table as [K/32][H][32 candidates]
// [32], z_table as [K/32][D] C blocks, and the weights (down 1, up 2, down 2, .., down L) as linear packs.
struct Layout {
  int64_t K, d, h, L;

  int64_t groups() const { return blocks(K); }
  int64_t D() const { return blocks(d); }
  int64_t H() const { return blocks(h); }
  int64_t norms() const { return kLanes; }
  int64_t a_table() const { return norms() + groups() * kBlock; }
  int64_t z_table() const { return a_table() + groups() * H() * kBlockFloats; }
  int64_t weights() const { return z_table() + groups() * D() * kBlockFloats; }
  int64_t w_down(int64_t l) const { return weights() + 2 * l * part_values(d, h); }
  int64_t w_up(int64_t l) const { return w_down(l) - part_values(d, h); }
  int64_t size() const { return w_down(L - 1) + part_values(d, h); }

  // [H] pieces of 32, kBlockFloats apart
  const float* a_row(const float* packed, int64_t k) const {
    return packed + a_table() + k / kBlock * H() * kBlockFloats + k % kBlock * kBlock;
  }
  // [D] pieces of 2 x 16, kTileFloats and kBlockFloats apart
  const float* z_row(const float* packed, int64_t k) const {
    return packed + z_table() + k / kBlock * D() * kBlockFloats + k % kBlock / 16 * 2 * kTileFloats + k % 16 * kLanes;
  }
  ScreenWeights screen(const float* packed) const {
    const float* const first = packed ? packed + weights() : nullptr;
    return {D(), H(), L, reinterpret_cast<const Bf16*>(first), 2 * part_values(d, h)};
  }
  // Units that go through the step together: more where its weights do not stay in L2, fewer where they are wide.
  int group_units() const {
    int units = (2 * L - 1) * part_values(d, h) * 2 <= kInCache ? 4 : 8;
    while (units > 1 && Screen::floats(screen(nullptr), units) > kGroupFloats) units /= 2;
    return units;
  }
};

// One vector's inputs, padded with zeros to whole blocks.
struct Vector {
  float *up_row, *row, *target;  // [32 H], [32 D], [32 D]: target - row
  float norm;                    // ||(u, r)||

  static int64_t floats(const Layout& p) { return (p.H() + 2 * p.D()) * kBlock; }
  Vector() = default;
  Vector(const Layout& p, float* memory)
      : up_row(memory), row(memory + p.H() * kBlock), target(row + p.D() * kBlock), norm(0) {}
};

inline void pad(const float* x, int64_t n, float* out) {
  for (int64_t j = 0; j < n; j += kBlock) {
    Vec low, high;
    load_row(x + j, n - j, low, high);
    store(out + j, low);
    store(out + j + kLanes, high);
  }
}

inline void fill_vector(const Layout& p, const float* up_row, const float* row, const float* target, Vector& v) {
  pad(up_row, p.h, v.up_row);
  pad(row, p.d, v.row);
  pad(target, p.d, v.target);
  for (int64_t j = 0; j < p.D() * kBlock; j += kLanes) store(v.target + j, load(v.target + j) - load(v.row + j));
  v.norm = __builtin_sqrtf(squared_norm(p.d, row) + squared_norm(p.h, up_row));
}

inline Unit make_unit(const Layout& p, const float* packed, int64_t group, const Vector& v, float* distances) {
  return {packed + p.a_table() + group * p.H() * kBlockFloats,
          packed + p.z_table() + group * p.D() * kBlockFloats,
          v.up_row,
          v.row,
          v.target,
          distances};
}

// --- near-float precision, for a few (vector, candidate) pairs
struct PairScratch {
  float *z, *hidden, *product;  // [kPairs][32 D], [kPairs][32 H]

  static int64_t floats(const Layout& p) {
    return kPairs * (p.D() + p.H()) * kBlock + split_scratch(p.d > p.h ? p.d : p.h);
  }
  PairScratch(const Layout& p, float* memory)
      : z(memory), hidden(z + kPairs * p.D() * kBlock), product(hidden + kPairs * p.H() * kBlock) {}
};

// scratch.z = the pairs' z.
inline void forward(const Layout& p, const float* packed, const Vector* vectors, const Pair* pairs, int64_t count,
                    const PairScratch& s) {
  const int64_t dz = p.D() * kBlock, dh = p.H() * kBlock;
  for (int64_t i = 0; i < count; ++i) {
    const Vector& v = vectors[pairs[i].vector];
    const float* const a = p.a_row(packed, pairs[i].candidate);
    const float* const z = p.z_row(packed, pairs[i].candidate);
    for (int64_t j = 0; j < dh; j += kLanes) {
      const float* const at = a + j / kBlock * kBlockFloats + j % kBlock;
      store(s.hidden + i * dh + j, max(Vec(0.0f), load(at) + load(v.up_row + j)));
    }
    for (int64_t j = 0; j < dz; j += kLanes) {
      const float* const at = z + j / kBlock * kBlockFloats + j % kBlock / kLanes * kTileFloats;
      store(s.z + i * dz + j, load(at) + load(v.row + j));
    }
  }
  Linear<float> down, up;
  down.m = up.m = count;
  down.n = up.k = p.d, down.k = up.n = p.h;
  down.x = s.hidden, up.y = s.hidden, down.ldx = up.ldy = dh;
  up.x = s.z, down.y = s.z, down.ldy = up.ldx = dz;
  down.accumulate = up.relu = true;
  for (int64_t l = 0; l < p.L; ++l) {
    up.packed = packed + p.w_up(l);
    down.packed = packed + p.w_down(l);
    if (l > 0) multiply_blocks(up, 0, blocks(count), s.product);
    multiply_blocks(down, 0, blocks(count), s.product);
  }
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed);

}  // namespace qinco::kernels::QINCO_CPU_ISA
