// Packs a step of the candidate search and measures how far its bfloat16 screen may be wrong (candidate.cpp: the
// margin).
#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/denormals.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kProbes = 64;
constexpr float kSafety = 2.0f;
constexpr float kInfinity = __builtin_inff();

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

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

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

}  // namespace qinco::kernels::QINCO_CPU_ISA
