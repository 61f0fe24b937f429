// One packed step of the candidate search, and its output for single candidates at near-float precision.
#pragma once

#include "kernels/cpu/amx/byte_screen.h"
#include "kernels/cpu/amx/screen.h"
#include "kernels/cpu/amx/split_product.h"
#include "kernels/cpu/distance.h"
#include "kernels/cpu/screened_search.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kPairs = 64;                      // (vector, candidate) pairs computed together
constexpr int64_t kInCache = int64_t{1} << 20;      // bytes of weights that stay in L2 whatever the order
constexpr int64_t kGroupFloats = int64_t{1} << 19;  // of scratch for a group, unless one unit takes more

// Where things stand in a pack, in floats: the bound and whether the screen is in bytes, ||(a_k, z_k)|| per candidate
// (for bytes: the largest of each 32), a_table as [K/32][H][32 candidates][32], z_table as [K/32][D] C blocks, the
// weights (down 1, up 2, down 2, .., down L) as linear packs, and the byte screen's part.
struct Layout {
  int64_t K, d, h, L;
  bool in_bytes;

  int64_t groups() const { return blocks(K); }
  int64_t D() const { return blocks(d); }
  int64_t H() const { return blocks(h); }
  int64_t norms() const { return kLanes; }
  int64_t a_table() const { return norms() + groups() * kBlock; }
  int64_t z_table() const { return a_table() + groups() * H() * kBlockFloats; }
  int64_t weights() const { return z_table() + groups() * D() * kBlockFloats; }
  int64_t w_down(int64_t l) const { return weights() + 2 * l * part_values(d, h); }
  int64_t w_up(int64_t l) const { return w_down(l) - part_values(d, h); }
  int64_t byte_part() const { return w_down(L - 1) + part_values(d, h); }
  int64_t size() const { return byte_part() + (in_bytes ? bytes().size() : 0); }

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
  ByteLayout bytes() const { return {groups(), D(), H(), L}; }
  int64_t screen_floats(int units) const {
    return in_bytes ? ByteScreen::floats(bytes(), units) : Screen::floats(screen(nullptr), units);
  }
  int64_t screen_floats() const { return screen_floats(group_units()); }
  // Units that go through the step together: more where its weights do not stay in L2, fewer where they are wide.
  int group_units() const {
    int units = (2 * L - 1) * part_values(d, h) * (in_bytes ? 1 : 2) <= kInCache ? 4 : 8;
    while (units > 1 && screen_floats(units) > kGroupFloats) units /= 2;
    return units;
  }
};

// A step that is packed from now on; and one that has been packed.
inline Layout new_layout(int64_t K, int64_t d, int64_t h, int64_t L) {
  return {K, d, h, L, amx_screen() == AmxScreen::int8 && d <= kLongest && h <= kLongest};
}
inline Layout layout_of(int64_t K, int64_t d, int64_t h, int64_t L, const float* packed) {
  return {K, d, h, L, packed[1] != 0};
}

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
  Unit unit{packed + p.a_table() + group * p.H() * kBlockFloats,
            packed + p.z_table() + group * p.D() * kBlockFloats,
            v.up_row,
            v.row,
            v.target,
            distances};
  if (!p.in_bytes) return unit;
  const float size = packed[p.norms() + group * kBlock] + v.norm;
  unit.size = size < __builtin_inff() ? size : __builtin_nanf("");
  unit.inverse = size > 0 ? 1 / size : 0;
  unit.doubts = packed + p.byte_part() + group * kBlock;
  return unit;
}

// The screened distances of all units; `strict`: those that the byte screen cannot tell are NaN.
inline void run_screen(const Layout& p, const float* packed, const Unit* units, int64_t n, bool strict,
                       float* scratch) {
  if (p.in_bytes)
    ByteScreen(p.bytes(), packed + p.byte_part(), p.group_units(), strict, scratch).run(units, n);
  else
    Screen(p.screen(packed), p.group_units(), scratch).run(units, n);
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

// Sees the operand [count] rows of product number i (down 1, up 2, down 2, .., down L), `stride` floats apart.
struct NoLook {
  void operator()(int64_t, const float*, int64_t) const {}
};

// scratch.z = the pairs' z.
template <class Look = NoLook>
void forward(const Layout& p, const float* packed, const Vector* vectors, const Pair* pairs, int64_t count,
             const PairScratch& s, const Look& look = Look()) {
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
    if (l > 0) {
      look(2 * l - 1, s.z, dz);
      multiply_blocks(up, {0, blocks(count)}, {0, blocks(up.n)}, s.product);
    }
    look(2 * l, s.hidden, dh);
    multiply_blocks(down, {0, blocks(count)}, {0, blocks(down.n)}, s.product);
  }
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed);

}  // namespace qinco::kernels::QINCO_CPU_ISA
