// The candidate search on the matrix unit: screened in bfloat16 (screen.h), decided at near-float precision.
//
// The margin. Let z be a candidate's exact output and z' the screen's: with e >= ||z' - z||, the triangle inequality
// gives |sqrt(D') - sqrt(D)| <= e for the squared distances D and D' to any target. So a candidate can be nearest only
// if sqrt(D') - e is at most the least sqrt(D') + e of all; whoever is not ruled out is compared again. A step without
// its target is positively homogeneous in its inputs (a_k + u, z_k + r), and rounding is relative, so e grows in
// proportion to them: e = bound * (||(a_k, z_k)|| + ||(u, r)||), with the bound measured when the step is packed, as
// the largest of kProbes inputs, times kSafety.
#include "kernels/cpu/amx/screen.h"
#include "kernels/cpu/amx/split_product.h"
#include "kernels/dispatch.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kProbes = 64;
constexpr float kSafety = 2.0f;
constexpr float kSumError = 1e-6f;                // of sqrt(D') itself, from float sums
constexpr int64_t kMostVectors = 64;              // per chunk
constexpr int64_t kDistances = int64_t{1} << 16;  // kept per chunk, at most (one vector's K may be more)
constexpr int64_t kPairs = 64;                    // compared again together
constexpr int64_t kInCache = int64_t{1} << 20;    // bytes of weights that stay in L2 whatever the order
constexpr float kInfinity = __builtin_inff();

int64_t at_most(int64_t a, int64_t b) {
  return a < b ? a : b;
}
int64_t at_least(int64_t a, int64_t b) {
  return a > b ? a : b;
}

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

  const float* a_row(const float* packed, int64_t k) const {  // [H] pieces of 32, kBlockFloats apart
    return packed + a_table() + k / kBlock * H() * kBlockFloats + k % kBlock * kBlock;
  }
  const float* z_row(const float* packed,
                     int64_t k) const {  // [D] pieces of 2 x 16, kTileFloats and kBlockFloats apart
    return packed + z_table() + k / kBlock * D() * kBlockFloats + k % kBlock / 16 * 2 * kTileFloats + k % 16 * kLanes;
  }
  ScreenWeights screen(const float* packed) const {
    return {D(), H(), L, reinterpret_cast<const Bf16*>(packed + weights()), 2 * part_values(d, h)};
  }
  int group_units() const { return (2 * L - 1) * part_values(d, h) * 2 <= kInCache ? 4 : 8; }
};

// Denormals may cost a microcode assist each and mean nothing next to a distance: they are zero inside the search.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
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

void pad(const float* x, int64_t n, float* out) {
  for (int64_t j = 0; j < n; j += kBlock) {
    Vec low, high;
    load_row(x + j, n - j, low, high);
    store(out + j, low);
    store(out + j + kLanes, high);
  }
}

float squared_norm(const float* x, int64_t n, float start = 0) {
  Vec sum(0.0f);
  for_lanes(0, n, [&](int64_t j, auto lanes) {
    const Vec v = lanes.get(x + j);
    sum = fma(v, v, sum);
  });
  return start + horizontal_sum(sum);
}

void fill_vector(const Layout& p, const float* up_row, const float* row, const float* target, Vector& v) {
  pad(up_row, p.h, v.up_row);
  pad(row, p.d, v.row);
  pad(target, p.d, v.target);
  for (int64_t j = 0; j < p.D() * kBlock; j += kLanes) store(v.target + j, load(v.target + j) - load(v.row + j));
  v.norm = __builtin_sqrtf(squared_norm(up_row, p.h, squared_norm(row, p.d)));
}

Unit make_unit(const Layout& p, const float* packed, int64_t group, const Vector& v, float* distances) {
  return {packed + p.a_table() + group * p.H() * kBlockFloats,
          packed + p.z_table() + group * p.D() * kBlockFloats,
          v.up_row,
          v.row,
          v.target,
          distances};
}

// --- near-float precision, for a few (vector, candidate) pairs
struct Pair {
  const Vector* vector;
  int64_t candidate;
};

struct PairScratch {
  float *z, *hidden, *product;  // [kPairs][32 D], [kPairs][32 H]

  static int64_t floats(const Layout& p) {
    return kPairs * (p.D() + p.H()) * kBlock + split_scratch(p.d > p.h ? p.d : p.h);
  }
  PairScratch(const Layout& p, float* memory)
      : z(memory), hidden(z + kPairs * p.D() * kBlock), product(hidden + kPairs * p.H() * kBlock) {}
};

// scratch.z = the pairs' z.
void forward(const Layout& p, const float* packed, const Pair* pairs, int64_t count, const PairScratch& s) {
  const int64_t dz = p.D() * kBlock, dh = p.H() * kBlock;
  for (int64_t i = 0; i < count; ++i) {
    const Vector& v = *pairs[i].vector;
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
    for (int64_t row = 0; l > 0 && row < count; row += kBlock) {
      up.packed = packed + p.w_up(l);
      multiply_rows(up, row, at_most(kBlock, count - row), s.product);
    }
    for (int64_t row = 0; row < count; row += kBlock) {
      down.packed = packed + p.w_down(l);
      multiply_rows(down, row, at_most(kBlock, count - row), s.product);
    }
  }
}

// --- packing
void pack_tables(const Context& context, const Layout& p, const CandidateStep<float>& s, float* packed) {
  parallel_for(context, p.groups(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin * kBlock; k < end * kBlock; ++k) {
      const bool there = k < p.K;
      float* const a = const_cast<float*>(p.a_row(packed, k));
      float* const z = const_cast<float*>(p.z_row(packed, k));
      for (int64_t j = 0; j < p.H(); ++j) {
        Vec low(0.0f), high(0.0f);
        if (there) load_row(s.a_table + k * p.h + j * kBlock, p.h - j * kBlock, low, high);
        store(a + j * kBlockFloats, low);
        store(a + j * kBlockFloats + kLanes, high);
      }
      for (int64_t j = 0; j < p.D(); ++j) {
        Vec low(0.0f), high(0.0f);
        if (there) load_row(s.z_table + k * p.d + j * kBlock, p.d - j * kBlock, low, high);
        store(z + j * kBlockFloats, low);
        store(z + j * kBlockFloats + kTileFloats, high);
      }
      const float squares = there ? squared_norm(s.a_table + k * p.h, p.h, squared_norm(s.z_table + k * p.d, p.d)) : 0;
      packed[p.norms() + k] = __builtin_sqrtf(squares);
    }
  });
}

// Probe number i's inputs: r a difference of two candidates' z, or the same with its values in disorder, at one of four
// lengths; u = W_up,1 r.
void make_probe(const Layout& p, const CandidateStep<float>& s, int64_t i, Vector& v, float* row, float* up_row) {
  constexpr float kScales[] = {0.25f, 0.5f, 1.0f, 2.0f};
  const float scale = kScales[i % 4];
  const float* const a = s.z_table + i * 7 % p.K * p.d;
  const float* const b = s.z_table + (i * 13 + p.K / 2) % p.K * p.d;
  const int64_t shift = i % 8 < 4 ? 0 : i * 5 + 1;
  for (int64_t j = 0; j < p.d; ++j) row[j] = scale * (a[j] - b[(j + shift) % p.d]);
  for (int64_t j = 0; j < p.h; ++j) {
    Vec sum(0.0f);
    const float* const w = s.w_up[0] + j * p.d;
    for_lanes(0, p.d, [&](int64_t c, auto lanes) { sum = fma(lanes.get(w + c), lanes.get(row + c), sum); });
    up_row[j] = horizontal_sum(sum);
  }
  fill_vector(p, up_row, row, row, v);
}

// The largest ||z' - z|| / (||(a_k, z_k)|| + ||(u, r)||) of the probes: with its own z as target, a candidate's
// screened distance is its squared error.
float measure_bound(const Context& context, const Layout& p, const CandidateStep<float>& s, const float* packed) {
  ScratchFrame frame(context);
  float* const inputs = frame.get<float>(kProbes * Vector::floats(p));
  Vector* const vectors = frame.get<Vector>(kProbes);
  Pair* const pairs = frame.get<Pair>(kProbes);
  Unit* const units = frame.get<Unit>(kProbes);
  float* const distances = frame.get<float>(kProbes * kBlock);
  float* const plain = frame.get<float>((p.d + p.h) * 1);
  const PairScratch scratch(p, frame.get<float>(PairScratch::floats(p)));
  const ScreenWeights weights = p.screen(packed);
  float* const screen_scratch = frame.get<float>(Screen::floats(weights, p.group_units()));
  const FlushDenormals flush;
  const TileScope tiles;
  for (int64_t i = 0; i < kProbes; ++i) {
    vectors[i] = Vector(p, inputs + i * Vector::floats(p));
    make_probe(p, s, i, vectors[i], plain, plain + p.d);
    pairs[i] = {vectors + i, i * 5 % p.K};
  }
  static_assert(kProbes <= kPairs);
  forward(p, packed, pairs, kProbes, scratch);
  for (int64_t i = 0; i < kProbes; ++i) {
    const Vector& v = vectors[i];
    for (int64_t j = 0; j < p.D() * kBlock; j += kLanes)
      store(v.target + j, load(scratch.z + i * p.D() * kBlock + j) - load(v.row + j));
    units[i] = make_unit(p, packed, pairs[i].candidate / kBlock, v, distances + i * kBlock);
  }
  Screen(weights, p.group_units(), screen_scratch).run(units, kProbes);
  float bound = 0;
  for (int64_t i = 0; i < kProbes; ++i) {
    const int64_t k = pairs[i].candidate;
    const float size = packed[p.norms() + k] + vectors[i].norm;
    if (size == 0) continue;
    const float ratio = __builtin_sqrtf(distances[i * kBlock + k % kBlock]) / size;
    if (!(ratio <= bound)) bound = ratio < kInfinity ? ratio : kInfinity;
  }
  return kSafety * bound;
}

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return Layout{K, d, h, L}.size();
}

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed) {
  const Layout p{s.K, s.d, s.h, s.L};
  for (int64_t i = 0; i < p.norms(); ++i) packed[i] = 0;
  pack_tables(context, p, s, packed);
  const auto pack = [&](const float* w, int64_t rows, int64_t cols, int64_t at) {
    Bf16* const first = reinterpret_cast<Bf16*>(packed + at);
    pack_weights(context, w, cols, rows, cols, first, first + part_values(rows, cols));
  };
  for (int64_t l = 0; l < p.L; ++l) {
    if (l > 0) pack(s.w_up[l], p.h, p.d, p.w_up(l));
    pack(s.w_down[l], p.d, p.h, p.w_down(l));
  }
  packed[0] = measure_bound(context, p, s, packed);
}

// --- searching
// One worker's memory for a chunk of at most `most` vectors.
struct Chunk {
  const Layout& p;
  const float* packed;
  const CandidateSearch<float>& s;
  int64_t most;
  Vector vectors[kMostVectors];
  float best[kMostVectors];  // of those compared again
  Pair pairs[kPairs];
  int64_t waiting = 0;
  Unit* units;       // [most * K/32]
  float* distances;  // [most][32 groups]
  float* screen;
  PairScratch pair_scratch;

  static int64_t floats(const Layout& p, int64_t most) {
    return most * (Vector::floats(p) + p.groups() * kBlock) +
           Screen::floats(ScreenWeights{p.D(), p.H(), p.L, nullptr, 0}, p.group_units()) + PairScratch::floats(p);
  }

  Chunk(const Layout& layout, const float* pack, const CandidateSearch<float>& search, int64_t size, Unit* list,
        float* memory)
      : p(layout),
        packed(pack),
        s(search),
        most(size),
        units(list),
        distances(memory + most * Vector::floats(p)),
        screen(distances + most * p.groups() * kBlock),
        pair_scratch(p, screen + Screen::floats(ScreenWeights{p.D(), p.H(), p.L, nullptr, 0}, p.group_units())) {
    for (int64_t i = 0; i < most; ++i) vectors[i] = Vector(p, memory + i * Vector::floats(p));
  }

  float* distances_of(int64_t i) const { return distances + i * p.groups() * kBlock; }

  // Screens the vectors [begin, end): candidates outside, vectors inside, so that a block of the tables serves all.
  void measure(int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t v = begin + i;
      fill_vector(p, s.up_row + v * p.h, s.row + v * p.d, s.target + v * p.d, vectors[i]);
    }
    for (int64_t g = 0; g < p.groups(); ++g)
      for (int64_t i = 0; i < count; ++i)
        units[g * count + i] = make_unit(p, packed, g, vectors[i], distances_of(i) + g * kBlock);
    Screen(p.screen(packed), p.group_units(), screen).run(units, p.groups() * count);
  }

  // The lowest index of the least distance, NaN aside.
  void take_screened(int64_t i, int64_t begin) {
    const float* const mine = distances_of(i);
    float least = kInfinity;
    s.codes[begin + i] = 0;
    for (int64_t k = 0; k < p.K; ++k)
      if (mine[k] < least) least = mine[k], s.codes[begin + i] = static_cast<int32_t>(k);
    if (s.distances) s.distances[begin + i] = least;
  }

  // What the screen leaves of vector i's candidates: one is the answer; more are compared again.
  void decide(int64_t i, int64_t begin) {
    const float* const mine = distances_of(i);
    const float* const norms = packed + p.norms();
    const Vec bound(packed[0]), norm(vectors[i].norm), sum_error(kSumError);
    const auto error = [&](int64_t k, Vec root) { return fma(bound, load(norms + k) + norm, sum_error * root); };
    Vec upper(kInfinity);
    for (int64_t k = 0; k < p.K; k += kLanes) {
      const Vec root = sqrt(load(mine + k));
      const __mmask16 there = first_lanes(at_most(p.K - k, kLanes)).v;
      const Vec high = root + error(k, root);
      upper = _mm512_mask_min_ps(upper.v, there, high.v, upper.v);  // NaN leaves the second
    }
    const float ceiling = _mm512_reduce_min_ps(upper.v);
    int64_t left = 0, last = 0;
    for (int64_t k = 0; k < p.K; k += kLanes) {
      const Vec root = sqrt(load(mine + k));
      const Vec low = root - error(k, root);
      uint32_t kept = _mm512_mask_cmp_ps_mask(first_lanes(at_most(p.K - k, kLanes)).v, low.v, Vec(ceiling).v,
                                              _CMP_NGT_UQ);  // NaN is kept
      for (; kept; kept &= kept - 1) {
        const int64_t candidate = k + __builtin_ctz(kept);
        if (left++ > 0) add_pair(i, begin, last);
        last = candidate;
      }
    }
    if (left > 1 || s.distances || !(mine[last] < kInfinity)) {
      add_pair(i, begin, last);
    } else {
      s.codes[begin + i] = static_cast<int32_t>(last);
    }
  }

  void add_pair(int64_t i, int64_t begin, int64_t candidate) {
    if (waiting == kPairs) compare(begin);
    pairs[waiting++] = {vectors + i, candidate};
  }

  // A vector's pairs come in ascending order: the lowest of equals stays.
  void compare(int64_t begin) {
    forward(p, packed, pairs, waiting, pair_scratch);
    for (int64_t j = 0; j < waiting; ++j) {
      const int64_t i = pairs[j].vector - vectors;
      const float* const target = s.target + (begin + i) * p.d;
      const float* const z = pair_scratch.z + j * p.D() * kBlock;
      Vec sum(0.0f);
      for_lanes(0, p.d, [&](int64_t c, auto lanes) {
        const Vec error = lanes.get(target + c) - lanes.get(z + c);
        sum = fma(error, error, sum);
      });
      const float distance = horizontal_sum(sum);
      if (distance < best[i]) {
        best[i] = distance;
        s.codes[begin + i] = static_cast<int32_t>(pairs[j].candidate);
      }
    }
    waiting = 0;
  }

  void search(int64_t begin, int64_t end) {
    measure(begin, end);
    for (int64_t i = 0; i < end - begin; ++i) {
      if (s.precision == Precision::fast) {
        take_screened(i, begin);
        continue;
      }
      best[i] = kInfinity;
      s.codes[begin + i] = 0;
      decide(i, begin);
    }
    if (waiting > 0) compare(begin);
    for (int64_t i = 0; s.distances && s.precision == Precision::exact && i < end - begin; ++i)
      s.distances[begin + i] = best[i];
  }
};

void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& s) {
  const Layout p{K, d, h, L};
  // Several vectors a chunk, so that they share tables and products; at least 32 chunks, so that threads end together.
  const int64_t most = at_least(1, at_most(kMostVectors, kDistances / (p.groups() * kBlock)));
  const int64_t grain = at_least(at_most(4, most), at_most(most, s.n / 32));
  const int64_t size = (Chunk::floats(p, grain) + kLanes - 1) / kLanes * kLanes;
  ScratchFrame frame(context);
  Unit* const units = frame.get<Unit>(context.threads * grain * p.groups());
  float* const scratch = frame.get<float>(context.threads * size);
  parallel_for(context, s.n, grain, [&](int64_t begin, int64_t end, int worker) {
    const FlushDenormals flush;
    const TileScope tiles;
    Chunk chunk(p, packed, s, grain, units + worker * grain * p.groups(), scratch + worker * size);
    chunk.search(begin, end);
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
