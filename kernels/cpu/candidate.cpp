// The candidate search of one QINCo step: in float where the step is small, else screened in integers of 7 or 8 bits
// (screen.h) and decided in float, with the same result.
#include "kernels/cpu/candidate_pairs.h"
#include "kernels/cpu/candidate_probes.h"
#include "kernels/cpu/denormals.h"
#include "kernels/cpu/distance.h"
#include "kernels/cpu/screen.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kChunkWork = int64_t{1} << 27;  // multiply-adds per chunk, about a millisecond
constexpr int64_t kDistances = int64_t{1} << 16;  // screened distances kept per chunk, unless four vectors have more
constexpr int64_t kLeastGrain = 32;               // vectors per chunk, if there are enough and their distances fit
constexpr int64_t kProbesTogether = kTileWidth;

// A whole pack: the step in float, then its screen.
struct Layout {
  StepLayout step;
  ScreenLayout screen;

  Layout(int64_t K, int64_t d, int64_t h, int64_t L) : step{K, d, h, L}, screen{K, d, h, L} {}

  // Short products are as fast in float, and sums of long ones might not fit 32 bits.
  bool fit_for_bytes() const {
    constexpr int64_t kLongest = int64_t{1} << 17;
    return step.d >= 16 && step.h >= 32 && step.d <= kLongest && step.h <= kLongest;
  }
  // Whether there is a screen: few candidates are compared faster at once.
  bool screened() const { return step.K >= 64 && fit_for_bytes(); }
  int64_t screen_begin() const { return blocks_of(step.size(), 16) * 16; }
  int64_t size() const { return screened() ? screen_begin() + screen.size() : step.size(); }
  int64_t stride() const { return step.blocks() * kLanes; }
};

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return Layout(K, d, h, L).size();
}

// Searches for the vectors [begin, end). Units run over the vectors first, then over the blocks of candidates, so that
// a block of the tables is read once for all of them and each vector meets its candidates in ascending order.
[[gnu::noinline]] void search_chunk(const StepLayout& layout, const float* packed, const CandidateSearch<float>& s,
                                    int64_t begin, int64_t end, float* scratch) {
  const int64_t d = layout.d, h = layout.h, vectors = end - begin, units = vectors * layout.blocks();
  const int64_t group = group_size(layout);
  alignas(64) float distances[kMaxGroup * kTileWidth];
  float best[kMostVectors];
  for (int64_t i = 0; i < vectors; ++i) {
    best[i] = __builtin_inff();
    s.codes[begin + i] = 0;
  }
  for (int64_t u0 = 0; u0 < units; u0 += group * kUnits) {
    Tile tiles[kMaxGroup];
    const int64_t here = smaller(group * kUnits, units - u0), count = blocks_of(here, kUnits);
    for (int64_t t = 0; t < count * kUnits; ++t) {
      Tile& tile = tiles[t / kUnits];
      const int64_t u = smaller(u0 + t, units - 1);  // an odd last unit is computed twice and counted once
      tile.unit[t % kUnits] = make_unit(layout, packed, s, u / vectors, begin + u % vectors);
      tile.hidden = scratch + t / kUnits * (d + h) * kTileWidth;
      tile.z = tile.hidden + h * kTileWidth;
      tile.distances = distances + t / kUnits * kTileWidth;
    }
    measure(layout, packed, tiles, count);
    for (int64_t t = 0; t < here; ++t) {
      const int64_t k = (u0 + t) / vectors * kLanes, i = (u0 + t) % vectors;
      const float* const unit = distances + t * kLanes;
      for (int64_t j = 0; j < smaller(kLanes, layout.K - k); ++j) {
        if (unit[j] < best[i]) {
          best[i] = unit[j];
          s.codes[begin + i] = static_cast<int32_t>(k + j);
        }
      }
    }
  }
  for (int64_t i = 0; i < vectors && s.distances; ++i) s.distances[begin + i] = best[i];
}

// ||(u, r)|| of vector i.
float vector_norm(const StepLayout& p, const CandidateSearch<float>& s, int64_t i) {
  return __builtin_sqrtf(squared_norm(p.d, s.row + i * p.d) + squared_norm(p.h, s.up_row + i * p.h));
}

// What a worker needs to screen and decide a chunk of at most `most` vectors.
class Chunk {
 public:
  static int64_t floats(const Layout& p, int64_t most) {
    const int64_t capacity = PairTiles::capacity(p.step);
    const int64_t pair_floats = capacity * static_cast<int64_t>(sizeof(Pair) / sizeof(float));
    const int64_t size =
        Screen::floats(p.screen) + PairTiles::floats(p.step) + most * p.stride() + capacity + pair_floats;
    return blocks_of(size, 16) * 16;
  }

  Chunk(const Layout& layout, const float* pack, const CandidateSearch<float>& search, int64_t most, float* memory)
      : p_(layout),
        packed_(pack),
        s_(search),
        margin_{p_.step.K, p_.step.d, pack[p_.screen_begin()], pack + p_.screen_begin() + p_.screen.norms()},
        screen_(p_.screen, pack + p_.screen_begin(), memory),
        tiles_(p_.step, pack, memory + Screen::floats(p_.screen)),
        distances_(memory + Screen::floats(p_.screen) + PairTiles::floats(p_.step)),
        decided_(distances_ + most * p_.stride()),
        pairs_(reinterpret_cast<Pair*>(decided_ + PairTiles::capacity(p_.step))) {}

  void search(int64_t begin, int64_t end, float* float_scratch) {
    ScreenedSearch<Chunk> screened(*this, margin_, s_, p_.stride(), distances_, PairTiles::capacity(p_.step), pairs_,
                                   decided_);
    if (!screened.search(begin, end)) search_chunk(p_.step, packed_, s_, begin, end, float_scratch);
  }

  // --- what ScreenedSearch asks for
  bool gives_up(int64_t open, int64_t all) const { return 2 * open > all; }

  void screen(int64_t begin, int64_t end, float* out, float* norms) {
    const int64_t vectors = end - begin, units = vectors * p_.step.blocks();
    for (int64_t i = 0; i < vectors; ++i) norms[i] = vector_norm(p_.step, s_, begin + i);
    // Vectors inside, blocks of candidates outside: a block of the tables is read once for all vectors.
    for (int64_t u = 0; u < units; u += kUnits) {
      Unit unit[kUnits];
      float* place[kUnits];
      for (int v = 0; v < kUnits; ++v) {
        const int64_t at = smaller(u + v, units - 1), block = at / vectors, i = at % vectors;
        unit[v] = make_unit(p_.step, packed_, s_, block, begin + i);
        place[v] = out + i * p_.stride() + block * kLanes;
      }
      const float* const found = screen_.measure(unit);
      for (int v = 0; v < kUnits; ++v) store(place[v], load(found + v * kLanes));
    }
  }

  void compare(int64_t begin, const Pair* chosen, int64_t count, float* out) {
    tiles_.forward(s_, begin, chosen, count);
    tiles_.distances(count, out);
  }

 private:
  const Layout& p_;
  const float* packed_;
  const CandidateSearch<float>& s_;
  Margin margin_;
  Screen screen_;
  PairTiles tiles_;
  float *distances_, *decided_;
  Pair* pairs_;
};

int64_t probe_floats(const Layout& p) {
  return kProbesTogether * (2 * p.step.d + p.step.h) + larger(PairTiles::floats(p.step), Screen::floats(p.screen));
}

// What a screened candidate's error is measured against: ||(a_k, z_k)|| + ||(u, r)||, or Screen::rounding, which knows
// more of the candidate and takes a screen to find.
enum class Against : uint8_t { inputs, rounding };

// The largest ||z' - z|| of the probes [first, first + kProbesTogether), each against its own: with its z as target, a
// candidate's screened distance is its squared error.
float measure_probes(const Layout& p, const CandidateStep<float>& step, const float* packed, Against against,
                     int64_t first, float* memory) {
  const int64_t d = p.step.d, h = p.step.h;
  float* const target = memory;
  float* const row = target + kProbesTogether * d;
  float* const up_row = row + kProbesTogether * d;
  float* const rest = up_row + kProbesTogether * h;
  CandidateSearch<float> s{kProbesTogether, target, row, up_row, nullptr, nullptr, Precision::exact};
  Pair pairs[kProbesTogether];
  for (int64_t i = 0; i < kProbesTogether; ++i) {
    make_probe(step, first + i, row + i * d, up_row + i * h);
    pairs[i] = {i, margin::probe(first + i, p.step.K).candidate};
  }
  PairTiles tiles(p.step, packed, rest);
  tiles.forward(s, 0, pairs, kProbesTogether);
  for (int64_t i = 0; i < kProbesTogether; ++i)
    for (int64_t j = 0; j < d; ++j) target[i * d + j] = tiles.z(i, j);
  const float* const part = packed + p.screen_begin();
  Screen screen(p.screen, part, rest);
  float largest = 0;
  Single singles[kTileWidth];
  for (int64_t i = 0; i < kTileWidth; ++i) {
    const int64_t k = pairs[i].candidate;
    singles[i] = {step.a_table + k * h, step.z_table + k * d, up_row + i * h, row + i * d, target + i * d};
  }
  const float* const found = screen.measure(singles);
  for (int64_t i = 0; i < kProbesTogether; ++i) {
    const float size = against == Against::rounding
                           ? screen.rounding()[i]
                           : part[p.screen.norms() + pairs[i].candidate] + vector_norm(p.step, s, i);
    largest = larger_error(largest, __builtin_sqrtf(found[i]), size);
  }
  return largest;
}

void pack_screen(const Context& context, const Layout& p, const CandidateStep<float>& s, Against against,
                 float* packed) {
  float* const part = packed + p.screen_begin();
  for (int64_t i = 0; i < p.screen.norms(); ++i) part[i] = 0;
  part[p.screen.eight()] = has_vnni() && larger(s.d, s.h) <= kMostEightBits ? 1 : 0;
  const ByteRange range = byte_range(p.screen, part);
  parallel_for(context, blocks_of(s.K, 16) * 16, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k)
      part[p.screen.norms() + k] =
          k < s.K ? __builtin_sqrtf(squared_norm(s.d, s.z_table + k * s.d) + squared_norm(s.h, s.a_table + k * s.h))
                  : 0;
  });
  for (int64_t l = 0; l < s.L; ++l) {
    float* const down = part + p.screen.w_down(l);
    pack_screen_matrix(context, p.screen.down(), range, range.activation, s.w_down[l], down);
    if (l == 0) continue;
    float* const up = part + p.screen.w_up(l);
    pack_screen_matrix(context, p.screen.up(), range, signed_most(range), s.w_up[l], up);
    // Its noise goes through the product that follows, hidden value by hidden value.
    up[p.screen.up().noise()] *= __builtin_sqrtf(squared_norm(s.d * s.h, s.w_down[l]) / static_cast<float>(s.h));
  }
  part[0] = __builtin_inff();  // rules nothing out
  if (s.precision == Precision::fast) return;
  part[0] = measure_bound<kProbesTogether>(context, probe_floats(p), [&](int64_t first, float* memory) {
    const FlushDenormals flush;
    return measure_probes(p, s, packed, against, first, memory);
  });
}

// Of as many candidates as there are probes: the bound is measured on them, and the rest does not depend on them.
Layout few_candidates(int64_t K, int64_t d, int64_t h, int64_t L) {
  return {smaller(K, margin::kProbes), d, h, L};
}

int64_t candidate_screen_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  const Layout p = few_candidates(K, d, h, L);
  return p.fit_for_bytes() ? p.screen.size() : 0;
}

void candidate_screen_pack(const Context& context, const CandidateStep<float>& s, float* packed) {
  const Layout p = few_candidates(s.K, s.d, s.h, s.L);
  CandidateStep<float> few = s;
  few.K = p.step.K;
  ScratchFrame frame(context);
  float* const z_table = frame.get<float>(few.K * s.d);
  float* const a_table = frame.get<float>(few.K * s.h);
  float* const whole = frame.get<float>(p.screen_begin() + p.screen.size());
  for (int64_t k = 0; k < few.K; ++k) {
    const int64_t from = k * s.K / few.K;
    __builtin_memcpy(z_table + k * s.d, s.z_table + from * s.d, static_cast<size_t>(s.d) * sizeof(float));
    __builtin_memcpy(a_table + k * s.h, s.a_table + from * s.h, static_cast<size_t>(s.h) * sizeof(float));
  }
  few.z_table = z_table, few.a_table = a_table;
  pack_step(context, few, whole);
  pack_screen(context, p, few, Against::rounding, whole);
  __builtin_memcpy(packed, whole + p.screen_begin(), static_cast<size_t>(p.screen.size()) * sizeof(float));
}

void candidate_screen(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateScreen<float>& s) {
  constexpr int64_t kGrain = 8 * kTileWidth;
  const ScreenLayout p = few_candidates(K, d, h, L).screen;
  const int64_t size = blocks_of(Screen::floats(p), kLine) * kLine;
  ScratchFrame frame(context);
  float* const scratch = frame.get<float>(context.threads * size);
  parallel_for(context, s.n * s.candidates, kGrain, [&](int64_t begin, int64_t end, int worker) {
    const FlushDenormals flush;
    Screen screen(p, packed, scratch + worker * size);
    for (int64_t first = begin; first < end; first += kTileWidth) {
      Single singles[kTileWidth];
      for (int64_t i = 0; i < kTileWidth; ++i) {
        const int64_t pair = smaller(first + i, end - 1), k = s.ids[pair], of = pair / s.candidates;
        singles[i] = {s.a_table + k * h, s.z_table + k * d, s.up_row + of * h, s.row + of * d, s.target + of * d};
      }
      const float* const found = screen.measure(singles);
      for (int64_t pair = first; pair < smaller(first + kTileWidth, end); ++pair) {
        s.distances[pair] = found[pair - first];
        s.margins[pair] = packed[0] * screen.rounding()[pair - first];
      }
    }
  });
}

void candidate_pack(const Context& context, const CandidateStep<float>& s, float* packed) {
  const Layout p(s.K, s.d, s.h, s.L);
  pack_step(context, s, packed);
  if (p.screened()) pack_screen(context, p, s, Against::inputs, packed);
}

void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& s) {
  const Layout p(K, d, h, L);
  // Many vectors a chunk, so that they share the tables and fill tiles of pairs.
  const int64_t work = p.stride() * d * h * (2 * L - 1);
  const int64_t most = p.screened() ? larger(4, smaller(kMostVectors, kDistances / p.stride())) : kMostVectors;
  const int64_t grain = chunk_vectors(s.n, smaller(most, larger(kLeastGrain, kChunkWork / work)));
  const int64_t float_size = group_size(p.step) * (d + h) * kTileWidth;
  const int64_t size = float_size + (p.screened() ? Chunk::floats(p, grain) : 0);
  ScratchFrame frame(context);
  float* const scratch = frame.get<float>(context.threads * size);
  parallel_for(context, s.n, grain, [&](int64_t begin, int64_t end, int worker) {
    const FlushDenormals flush;
    float* const mine = scratch + worker * size;
    if (p.screened())
      Chunk(p, packed, s, grain, mine + float_size).search(begin, end, mine);
    else
      search_chunk(p.step, packed, s, begin, end, mine);
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_candidate(Table<float>& t) {
  t.candidate_packed_size = candidate_packed_size;
  t.candidate_pack = candidate_pack;
  t.candidate_search = candidate_search;
  t.candidate_screen_size = candidate_screen_size;
  t.candidate_screen_pack = candidate_screen_pack;
  t.candidate_screen = candidate_screen;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
