// Packs a step of the candidate search and measures how far its screen may be wrong (candidate_margin.h).
#include "kernels/candidate_margin.h"
#include "kernels/cpu/amx/byte_pack.h"
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

// A unit of the byte screen has one scale: the largest finite norm of its candidates. The others are put in doubt.
void share_norms(const Layout& p, float* packed) {
  for (int64_t first = 0; first < p.groups() * kBlock; first += kBlock) {
    float* const norms = packed + p.norms() + first;
    float largest = 0;
    for (int64_t k = 0; k < kBlock; ++k) {
      const bool finite = norms[k] < __builtin_inff();
      packed[p.byte_part() + first + k] = finite ? 0 : __builtin_nanf("");
      if (finite) largest = larger_of(largest, norms[k]);
    }
    for (int64_t k = 0; k < kBlock; ++k) norms[k] = largest;
  }
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
           p.screen_floats();
  }
  ProbeScratch(const Layout& p, float* memory)
      : plain(memory),
        distances(plain + blocks(p.d + p.h) * kBlock),
        inputs(distances + kTogether * kBlock),
        screen(inputs + kTogether * Vector::floats(p)),
        pair_scratch(p, screen + p.screen_floats()) {
    for (int64_t i = 0; i < kTogether; ++i) vectors[i] = Vector(p, inputs + i * Vector::floats(p));
  }
};

void fill_probes(const Layout& p, const CandidateStep<float>& s, int64_t first, ProbeScratch& scratch) {
  for (int64_t i = 0; i < kTogether; ++i) {
    float *const row = scratch.plain, *const up_row = row + p.d;
    make_probe(s, first + i, row, up_row);
    fill_vector(p, up_row, row, row, scratch.vectors[i]);
    scratch.pairs[i] = {i, margin::probe(first + i, p.K).candidate};
  }
}

// The largest ||z' - z|| / (||(a_k, z_k)|| + ||(u, r)||) of the probes [first, first + kTogether): with its own z as
// target, a candidate's screened distance is its squared error.
float measure_probes(const Layout& p, const CandidateStep<float>& s, const float* packed, int64_t first,
                     ProbeScratch& scratch) {
  fill_probes(p, s, first, scratch);
  forward(p, packed, scratch.vectors, scratch.pairs, kTogether, scratch.pair_scratch);
  for (int64_t i = 0; i < kTogether; ++i) {
    const Vector& v = scratch.vectors[i];
    for (int64_t j = 0; j < p.D() * kBlock; j += kLanes)
      store(v.target + j, load(scratch.pair_scratch.z + i * p.D() * kBlock + j) - load(v.row + j));
    scratch.units[i] = make_unit(p, packed, scratch.pairs[i].candidate / kBlock, v, scratch.distances + i * kBlock);
  }
  run_screen(p, packed, scratch.units, kTogether, true, scratch.screen);
  float largest = 0;
  for (int64_t i = 0; i < kTogether; ++i) {
    const int64_t k = scratch.pairs[i].candidate;
    largest = larger_error(largest, __builtin_sqrtf(scratch.distances[i * kBlock + k % kBlock]),
                           packed[p.norms() + k] + scratch.vectors[i].norm);
  }
  return largest;
}

constexpr int64_t kLooks = 8;  // candidates of each probe that are looked at for the ranges of layers

// ranges [2L - 1] = the largest |value| / (||(a_k, z_k)|| + ||(u, r)||) in the operands of the step's products, for the
// probes [first, first + kTogether) with one candidate each, by the number of the look.
void look_at_probes(const Layout& p, const CandidateStep<float>& s, const float* packed, int64_t first, int64_t number,
                    float* ranges, ProbeScratch& scratch) {
  fill_probes(p, s, first, scratch);
  for (Pair& pair : scratch.pairs) pair.candidate = (pair.candidate + number * (p.K / kLooks + 1)) % p.K;
  for (int64_t i = 0; i < 2 * p.L - 1; ++i) ranges[i] = 0;
  const auto look = [&](int64_t product, const float* x, int64_t stride) {
    for (int64_t i = 0; i < kTogether; ++i) {
      const Pair& pair = scratch.pairs[i];
      if (packed[p.byte_part() + pair.candidate] != 0) continue;  // NaN: in doubt
      Vec largest(0.0f);
      for (int64_t j = 0; j < stride; j += kLanes) largest = max(abs(load(x + i * stride + j)), largest);
      const float ratio = horizontal_max(largest) / (packed[p.norms() + pair.candidate] + scratch.vectors[i].norm);
      if (ratio < __builtin_inff()) ranges[product] = larger_of(ranges[product], ratio);
    }
  };
  forward(p, packed, scratch.vectors, scratch.pairs, kTogether, scratch.pair_scratch, look);
}

void pack_bytes(const Context& context, const Layout& p, const CandidateStep<float>& s, float* packed) {
  const ByteLayout bytes = p.bytes();
  float* const part = packed + p.byte_part();
  for (int64_t l = 0; l < p.L; ++l) {
    float *const up = part + bytes.w_up(l), *const down = part + bytes.w_down(l);
    if (l > 0) pack_byte_weights(context, s.w_up[l], p.h, p.d, up, up + bytes.up_weights());
    pack_byte_weights(context, s.w_down[l], p.d, p.h, down, down + bytes.down_weights());
  }
  constexpr int64_t kParts = margin::kProbes / kTogether * kLooks;
  const int64_t products = 2 * p.L - 1, size = ProbeScratch::floats(p);
  ScratchFrame frame(context);
  float* const ranges = frame.get<float>(kParts * products);
  float* const memory = frame.get<float>(context.threads * size);
  parallel_for(context, kParts, 1, [&](int64_t begin, int64_t end, int worker) {
    const FlushDenormals flush;
    const TileScope tiles;
    ProbeScratch scratch(p, memory + worker * size);
    for (int64_t i = begin; i < end; ++i)
      look_at_probes(p, s, packed, i / kLooks * kTogether, i % kLooks, ranges + i * products, scratch);
  });
  for (int64_t i = products; i < kParts * products; ++i)
    ranges[i % products] = larger_of(ranges[i % products], ranges[i]);
  set_scales(bytes, ranges, part);
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed) {
  const Layout p = new_layout(s.K, s.d, s.h, s.L);
  for (int64_t i = 0; i < p.norms(); ++i) packed[i] = 0;
  packed[1] = p.in_bytes;
  pack_tables(context, p, s, packed);
  const auto pack = [&](const float* w, int64_t rows, int64_t cols, int64_t at) {
    Bf16* const first = reinterpret_cast<Bf16*>(packed + at);
    pack_weights(context, w, cols, rows, cols, first, first + part_values(rows, cols));
  };
  for (int64_t l = 0; l < p.L; ++l) {
    if (l > 0) pack(s.w_up[l], p.h, p.d, p.w_up(l));
    pack(s.w_down[l], p.d, p.h, p.w_down(l));
  }
  if (p.in_bytes) {
    share_norms(p, packed);
    pack_bytes(context, p, s, packed);
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
