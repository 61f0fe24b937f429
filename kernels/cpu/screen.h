// The screen of the candidate search: distances of all candidates with products in integers of 7 bits, which cost
// three eighths of float's, or with VNNI of 8, a quarter.
//
// Only the operands of the products are rounded: tables, the residual stream z and all scales stay in float. A weight's
// scale is its row's (an output feature's), an activation's its candidate's: the largest value of the layer becomes the
// largest byte. So the screen, as the step, is positively homogeneous, which the margin needs. A hidden value
// or a weight that is not finite makes its candidates' distances NaN, which leaves them to the float search.
#pragma once

#include "kernels/cpu/candidate_step.h"
#include "kernels/cpu/distance.h"
#include "kernels/cpu/magnitude.h"
#include "kernels/cpu/screen_panel.h"
#include "kernels/cpu/transpose.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr float kInfinity = __builtin_inff();

// One product of the chain.
struct ScreenMatrix {
  int64_t rows, inner;

  int64_t padded_rows() const { return blocks_of(rows, 16) * 16; }
  int64_t padded_inner() const { return blocks_of(inner, kScreenInner) * kScreenInner; }

  // Where things stand in its pack, in floats: what a weight of 1 stands for, by row; the zero byte times the sum of a
  // row's weights; what rounding adds to the product's length, about, beside activations of at most 1; the weights, in
  // panels [rows/kScreenRows][inner/kFour][kScreenRows][kFour].
  int64_t shifts() const { return padded_rows(); }
  int64_t noise() const { return 2 * padded_rows(); }
  int64_t weights() const { return noise() + 16; }
  int64_t size() const { return weights() + padded_rows() * padded_inner() / kFour; }
};

// Where things stand in the screen's part of a pack, in floats: the bound of candidate_margin.h, whether its bytes have
// 8 bits (1, else 0), ||(a_k, z_k)|| per candidate, and the matrices down 1, up 2, down 2, .., down L.
struct ScreenLayout {
  int64_t K, d, h, L;

  ScreenMatrix down() const { return {d, h}; }
  ScreenMatrix up() const { return {h, d}; }
  int64_t eight() const { return 1; }
  int64_t norms() const { return 16; }
  int64_t w_down(int64_t l) const { return norms() + blocks_of(K, 16) * 16 + l * (down().size() + up().size()); }
  int64_t w_up(int64_t l) const { return w_down(l) - up().size(); }
  int64_t size() const { return w_down(L - 1) + down().size(); }
};

// The largest activation that has a sign.
int signed_most(const ByteRange& range) {
  return range.zero - 1;
}

ByteRange byte_range(const ScreenLayout& p, const float* packed) {
  return packed[p.eight()] != 0 ? kEightBits : kSevenBits;
}

void pack_screen_row(const ScreenMatrix& m, const ByteRange& range, const float* x, int64_t row, float* packed) {
  const float largest = largest_magnitude(m.inner, x);
  // A row of tiny numbers may as well be zero: what that does is inside the measured error.
  const float scale = !(largest < kInfinity) ? __builtin_nanf("") : largest > kTiny ? largest / range.weight : 0;
  const bool usable = scale > 0;
  const Vec inverse(usable ? 1 / scale : 0.0f);
  int8_t* const panel =
      reinterpret_cast<int8_t*>(packed + m.weights()) + row / kScreenRows * kScreenRows * m.padded_inner();
  int8_t* place = panel + row % kScreenRows * kFour;
  IntVec sums(0);
  int32_t lane[kLanes];
  for_lanes(0, m.inner, [&](int64_t j, auto lanes) {
    const IntVec weights = to_int(usable ? lanes.get(x + j) * inverse : Vec(0.0f));
    sums = sums + weights;
    store(lane, weights);
    for (int64_t i = 0; i < smaller(kLanes, m.padded_inner() - j); i += kFour, place += kScreenRows * kFour)
      for (int64_t byte = 0; byte < kFour; ++byte) place[byte] = static_cast<int8_t>(lane[i + byte]);
  });
  store(lane, sums);
  int32_t sum = 0;
  for (const int32_t part : lane) sum += part;
  packed[row] = scale;
  packed[m.shifts() + row] = static_cast<float>(range.zero * sum);
}

void pack_screen_matrix(const Context& context, const ScreenMatrix& m, const ByteRange& range, int activation,
                        const float* x, float* packed) {
  parallel_for(context, m.padded_rows(), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pack_screen_row(m, range, x + smaller(i, m.rows - 1) * m.inner, i, packed);
  });
  // A number rounded to a multiple of s is off by s / sqrt(12) in root mean square: activations that weigh as much as
  // the matrix is long, and weights beside activations of at most 1 each.
  float activations = 0, weights = 0;
  for (int64_t i = 0; i < m.rows; ++i) {
    activations += squared_norm(m.inner, x + i * m.inner);
    weights += packed[i] * packed[i];
  }
  const float step = 1 / static_cast<float>(activation);
  packed[m.noise()] = __builtin_sqrtf((activations * step * step + weights * static_cast<float>(m.inner)) / 12);
}

// One candidate of one vector: its rows of the tables, and the vector's.
struct Single {
  const float *a, *z;         // [h], [d]
  const float* up_row;        // [h]
  const float *row, *target;  // [d]
};

// out [n][kTileWidth], of kLanes columns: value(i, j, lanes) gives column i's values from j on, and is called once for
// each; see(values) is given them as they are stored.
template <class Value, class See>
QINCO_INLINE void store_columns(int64_t n, const Value& value, float* out, const See& see) {
  for_lanes(0, n, [&](int64_t j, auto lanes) {
    Vec square[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) square[i] = value(i, j, lanes);
    transpose(square);
    const int64_t count = smaller(kLanes, n - j);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i >= count) break;
      store(out + (j + i) * kTileWidth, square[i]);
      see(square[i]);
    }
  });
}

// One tile of the float search at a time, whose activations become bytes before they are multiplied.
class Screen {
 public:
  static int64_t floats(const ScreenLayout& p) {
    return (p.h + 2 * p.d + 4) * kTileWidth +
           kTileWidth * larger(p.up().padded_inner(), p.down().padded_inner()) / kFour;
  }

  // `packed` is the screen's part.
  Screen(const ScreenLayout& layout, const float* pack, float* memory)
      : p_(layout), packed_(pack), range_(byte_range(layout, pack)) {
    hidden_ = memory;
    z_ = hidden_ + p_.h * kTileWidth;
    targets_ = z_ + p_.d * kTileWidth;
    scales_ = targets_ + p_.d * kTileWidth;
    distances_ = scales_ + kTileWidth;
    rounding_ = distances_ + kTileWidth;
    largest_ = reinterpret_cast<int32_t*>(rounding_ + kTileWidth);
    bytes_ = reinterpret_cast<uint8_t*>(largest_ + kTileWidth);
    multiply_ = packed_[p_.eight()] != 0 ? multiply_bytes_vnni : multiply_bytes;
  }

  // The distances [kTileWidth] of a tile's candidates, until the next call.
  const float* measure(const Unit (&units)[kUnits]) {
    for (int v = 0; v < kUnits; ++v) unit_[v] = units[v];
    begin();
    run(Start::table, Error::of_unit);
    return distances_;
  }

  // [kTileWidth] what their z may be off by, but for a factor of the step: the sum of its products' noise.
  const float* rounding() const { return rounding_; }

  // The same distances, to the bit, of any candidates of any vectors.
  const float* measure(const Single (&singles)[kTileWidth]) {
    for (int v = 0; v < kUnits; ++v) begin(singles + v * kLanes, v);
    run(Start::stored, Error::of_lane);
    return distances_;
  }

 private:
  enum class Error : uint8_t { none, of_unit, of_lane };  // what a product ends in, beside z: the distance to a target

  void run(Start start, Error error) {
    for (int v = 0; v < kUnits; ++v) store(rounding_ + v * kLanes, Vec(0.0f));
    for (int64_t l = 0; l < p_.L; ++l) {
      if (l > 0) {
        const float* const w = packed_ + p_.w_up(l);
        to_bytes(z_, p_.d, signed_most(range_), range_.zero, w[p_.up().noise()]);
        up(w);
      }
      const float* const w = packed_ + p_.w_down(l);
      to_bytes(hidden_, p_.h, range_.activation, 0, w[p_.down().noise()]);
      down(w, l == 0 ? start : Start::stored, l == p_.L - 1 ? error : Error::none);
    }
  }

  // hidden = relu(a + up_row), z = z + row and the targets of kLanes candidates, those of register v.
  void begin(const Single* of, int v) {
    IntVec largest(0);
    const auto hidden = [&](int i, int64_t j, auto lanes) {
      return relu(lanes.get(of[i].a + j) + lanes.get(of[i].up_row + j));
    };
    const auto z = [&](int i, int64_t j, auto lanes) { return lanes.get(of[i].z + j) + lanes.get(of[i].row + j); };
    const auto target = [&](int i, int64_t j, auto lanes) { return lanes.get(of[i].target + j); };
    const auto ignore = [](Vec) {};
    store_columns(p_.h, hidden, hidden_ + v * kLanes, [&](Vec x) { largest = max(largest, magnitude_bits(x)); });
    store_columns(p_.d, z, z_ + v * kLanes, ignore);
    store_columns(p_.d, target, targets_ + v * kLanes, ignore);
    store(largest_ + v * kLanes, largest);
  }

  // hidden = relu(a_table + up_row).
  void begin() {
    const int64_t h = p_.h;
    for (int v = 0; v < kUnits; ++v) {
      const float *const a = unit_[v].a_block, *const up_row = unit_[v].up_row;
      float* const out = hidden_ + v * kLanes;
      IntVec largest(0);
#pragma GCC unroll 4
      for (int64_t j = 0; j < h; ++j) {
        const Vec value = relu(load(a + j * kLanes) + Vec(up_row[j]));
        store(out + j * kTileWidth, value);
        largest = max(largest, magnitude_bits(value));
      }
      store(largest_ + v * kLanes, largest);
    }
  }

  // bytes = zero + x [n][kTileWidth], scaled so that the largest is `most`, for a matrix with that noise.
  void to_bytes(const float* x, int64_t n, int most, int zero, float noise) {
    for (int v = 0; v < kUnits; ++v) {
      const Vec largest = bit_cast_float(load(largest_ + v * kLanes));
      const Vec nan(__builtin_nanf("")), none(0.0f), top(static_cast<float>(most));
      const Mask finite = largest < Vec(kInfinity), usable = Vec(kTiny) < largest;
      const Vec inverse = select(finite, select(usable, top / largest, none), none);
      const Vec scale = select(usable, largest / top, select(largest == none, none, nan));
      store(scales_ + v * kLanes, select(finite, scale, nan));
      store(rounding_ + v * kLanes, fma(largest, Vec(noise), load(rounding_ + v * kLanes)));
      const Vec offset(static_cast<float>(zero));
      const float* from = x + v * kLanes;
      uint8_t* to = bytes_ + v * kLanes * kFour;
      int64_t j = 0;
      for (; j + kFour <= n; j += kFour, from += kFour * kTileWidth, to += kFour * kTileWidth)
        store_aligned(to,
                      round_to_bytes(fma(load(from), inverse, offset), fma(load(from + kTileWidth), inverse, offset),
                                     fma(load(from + 2 * kTileWidth), inverse, offset),
                                     fma(load(from + 3 * kTileWidth), inverse, offset)));
      const auto there = [&](int64_t i) {
        return j + i < n ? fma(load(from + i * kTileWidth), inverse, offset) : none;
      };
      if (j < n) store_aligned(to, round_to_bytes(there(0), there(1), there(2), none));
    }
  }

  // hidden = relu(W_up z).
  void up(const float* w) {
    const ScreenMatrix m = p_.up();
    const float* const shifts = w + m.shifts();
    float* const hidden = hidden_;
    const Vec scale[kUnits] = {load(scales_), load(scales_ + kLanes)};
    IntVec largest[kUnits] = {IntVec(0), IntVec(0)};
    for_panels(m, w, [&](int64_t i, auto rows, const int32_t* sums) {
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) {
        IntVec most = largest[v];
        for (int64_t r = 0; r < rows; ++r) {
          const Vec sum = to_float(load(sums + r * kTileWidth + v * kLanes));
          const Vec value = relu((sum - Vec(shifts[i + r])) * Vec(w[i + r]) * scale[v]);
          store(hidden + (i + r) * kTileWidth + v * kLanes, value);
          most = max(most, magnitude_bits(value));
        }
        largest[v] = most;
      }
    });
    for (int v = 0; v < kUnits; ++v) store(largest_ + v * kLanes, largest[v]);
  }

  // z = (z_table + row, or z) + W_down hidden; or only its distance to the target.
  template <Start start, Error error>
  void down(const float* w) {
    float *const z = z_, *const targets = targets_;
    const Vec scale[kUnits] = {load(scales_), load(scales_ + kLanes)};
    IntVec largest[kUnits] = {IntVec(0), IntVec(0)};
    Vec total[kUnits] = {Vec(0.0f), Vec(0.0f)};
    for_panels(p_.down(), w, [&](int64_t i, auto rows, const int32_t* sums) {
#pragma GCC unroll 2
      for (int v = 0; v < kUnits; ++v) {
        const Unit unit = unit_[v];
        IntVec most = largest[v];
        Vec distance = total[v];
        for (int64_t r = 0; r < rows; ++r) {
          float* const place = z + (i + r) * kTileWidth + v * kLanes;
          const Vec begin =
              start == Start::table ? load(unit.z_block + (i + r) * kLanes) + Vec(unit.row[i + r]) : load(place);
          const Vec sum = to_float(load(sums + r * kTileWidth + v * kLanes));
          const Vec value = fma(sum * scale[v], Vec(w[i + r]), begin);
          if constexpr (error != Error::none) {
            const Vec target =
                error == Error::of_unit ? Vec(unit.target[i + r]) : load(targets + (i + r) * kTileWidth + v * kLanes);
            const Vec off = target - value;
            distance = fma(off, off, distance);
          } else {
            store(place, value);
            most = max(most, magnitude_bits(value));
          }
        }
        largest[v] = most;
        total[v] = distance;
      }
    });
    for (int v = 0; v < kUnits; ++v) {
      store(largest_ + v * kLanes, largest[v]);
      store(distances_ + v * kLanes, total[v]);
    }
  }
  void down(const float* w, Start start, Error error) {
    if (start == Start::table && error == Error::of_unit) down<Start::table, Error::of_unit>(w);
    if (start == Start::table && error == Error::none) down<Start::table, Error::none>(w);
    if (start == Start::stored && error == Error::of_unit) down<Start::stored, Error::of_unit>(w);
    if (start == Start::stored && error == Error::of_lane) down<Start::stored, Error::of_lane>(w);
    if (start == Start::stored && error == Error::none) down<Start::stored, Error::none>(w);
  }

  // A number of rows that the compiler knows.
  struct WholePanel {
    QINCO_INLINE constexpr operator int64_t() const { return kScreenRows; }
  };

  // panel(first row, rows, weights times bytes [rows][kTileWidth]) for all rows of a product.
  template <class Panel>
  QINCO_INLINE void for_panels(const ScreenMatrix& m, const float* w, const Panel& panel) {
    const int8_t* const weights = reinterpret_cast<const int8_t*>(w + m.weights());
    const int64_t inner = m.padded_inner();
    alignas(64) int32_t sums[kScreenRows * kTileWidth];
    int64_t i = 0;
    for (; i + kScreenRows <= m.rows; i += kScreenRows) {
      multiply_(inner, weights + i * inner, bytes_, sums);
      panel(i, WholePanel{}, sums);
    }
    if (i == m.rows) return;
    multiply_(inner, weights + i * inner, bytes_, sums);
    panel(i, m.rows - i, sums);
  }

  const ScreenLayout& p_;
  const float* packed_;
  const ByteRange range_;
  MultiplyBytes multiply_;
  Unit unit_[kUnits];
  float* hidden_;     // [h][kTileWidth]
  float* z_;          // [d][kTileWidth]
  float* targets_;    // [d][kTileWidth] of single candidates
  uint8_t* bytes_;    // [inner/kFour][kTileWidth][kFour]
  int32_t* largest_;  // [kTileWidth] the bits of the largest |value| stored, NaN being the largest
  float* scales_;     // [kTileWidth] what a byte of 1 stands for
  float* distances_;  // [kTileWidth]
  float* rounding_;   // [kTileWidth]
};

QINCO_CPU_NAMESPACE_END
