// Packs a step of the candidate search and measures how far its bfloat16 screen may be wrong (candidate_margin.h).
#include "kernels/candidate_margin.h"
#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/candidate_probes.h"
#include "kernels/cpu/denormals.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kTogether = 32;
static_assert(kTogether <= kPairs);

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
      const float squares = there ? squared_norm(p.d, s.z_table + k * p.d) + squared_norm(p.h, s.a_table + k * p.h) : 0;
      packed[p.norms() + k] = __builtin_sqrtf(squares);
    }
  });
}

// What a thread needs for `kTogether` probes.
struct ProbeScratch {
  Vector vectors[kTogether];
  Pair pairs[kTogether];
  Unit units[kTogether];
  float *plain, *distances, *inputs, *screen;  // [d + h], [kTogether][32], kTogether vectors, a Screen's
  PairScratch pair_scratch;

  static int64_t floats(const Layout& p) {
    return blocks(p.d + p.h) * kBlock + kTogether * (kBlock + Vector::floats(p)) + PairScratch::floats(p) +
           Screen::floats(p.screen(nullptr), p.group_units());
  }
  ProbeScratch(const Layout& p, float* memory)
      : plain(memory),
        distances(plain + blocks(p.d + p.h) * kBlock),
        inputs(distances + kTogether * kBlock),
        screen(inputs + kTogether * Vector::floats(p)),
        pair_scratch(p, screen + Screen::floats(p.screen(nullptr), p.group_units())) {
    for (int64_t i = 0; i < kTogether; ++i) vectors[i] = Vector(p, inputs + i * Vector::floats(p));
  }
};

// The largest ||z' - z|| / (||(a_k, z_k)|| + ||(u, r)||) of the probes [first, first + kTogether): with its own z as
// target, a candidate's screened distance is its squared error.
float measure_probes(const Layout& p, const CandidateStep<float>& s, const float* packed, int64_t first,
                     ProbeScratch& scratch) {
  for (int64_t i = 0; i < kTogether; ++i) {
    float *const row = scratch.plain, *const up_row = row + p.d;
    make_probe(s, first + i, row, up_row);
    fill_vector(p, up_row, row, row, scratch.vectors[i]);
    scratch.pairs[i] = {i, margin::probe(first + i, p.K).candidate};
  }
  forward(p, packed, scratch.vectors, scratch.pairs, kTogether, scratch.pair_scratch);
  for (int64_t i = 0; i < kTogether; ++i) {
    const Vector& v = scratch.vectors[i];
    for (int64_t j = 0; j < p.D() * kBlock; j += kLanes)
      store(v.target + j, load(scratch.pair_scratch.z + i * p.D() * kBlock + j) - load(v.row + j));
    scratch.units[i] = make_unit(p, packed, scratch.pairs[i].candidate / kBlock, v, scratch.distances + i * kBlock);
  }
  Screen(p.screen(packed), p.group_units(), scratch.screen).run(scratch.units, kTogether);
  float largest = 0;
  for (int64_t i = 0; i < kTogether; ++i) {
    const int64_t k = scratch.pairs[i].candidate;
    largest = larger_error(largest, __builtin_sqrtf(scratch.distances[i * kBlock + k % kBlock]),
                           packed[p.norms() + k] + scratch.vectors[i].norm);
  }
  return largest;
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
  packed[0] = __builtin_inff();  // rules nothing out
  if (s.precision == Precision::fast) return;
  packed[0] = measure_bound<kTogether>(context, ProbeScratch::floats(p), [&](int64_t first, float* memory) {
    const FlushDenormals flush;
    const TileScope tiles;
    ProbeScratch scratch(p, memory);
    return measure_probes(p, s, packed, first, scratch);
  });
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
