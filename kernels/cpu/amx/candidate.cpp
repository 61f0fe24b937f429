// The candidate search on the matrix unit: screened in bfloat16 (screen.h), decided at near-float precision, with the
// margin of candidate_margin.h.
#include "kernels/candidate_margin.h"
#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/denormals.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kMostVectors = 64;              // per chunk
constexpr int64_t kDistances = int64_t{1} << 16;  // kept per chunk, at most (one vector's K may be more)
constexpr float kInfinity = __builtin_inff();

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return Layout{K, d, h, L}.size();
}

// One worker's memory for a chunk of at most `most` vectors.
struct Chunk {
  const Layout& p;
  const float* packed;
  const CandidateSearch<float>& s;
  Vector vectors[kMostVectors];
  float best[kMostVectors];  // of those computed again
  bool doubted[kMostVectors];
  Pair pairs[kPairs];
  int64_t waiting = 0;
  const float shown = margin::shown(p.d);
  Unit* units;       // [most * K/32]
  float* distances;  // [most][32 groups]
  float* screen;
  PairScratch pair_scratch;

  static int64_t floats(const Layout& p, int64_t most) {
    return most * (Vector::floats(p) + p.groups() * kBlock) + Screen::floats(p.screen(nullptr), p.group_units()) +
           PairScratch::floats(p);
  }

  Chunk(const Layout& layout, const float* pack, const CandidateSearch<float>& search, int64_t most, Unit* list,
        float* memory)
      : p(layout),
        packed(pack),
        s(search),
        units(list),
        distances(memory + most * Vector::floats(p)),
        screen(distances + most * p.groups() * kBlock),
        pair_scratch(p, screen + Screen::floats(p.screen(nullptr), p.group_units())) {
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

  // How far the screen's sqrt(D') may be off for candidates k, k + 1, ...
  Vec error(int64_t i, int64_t k, Vec root) const {
    const Vec size = load(packed + p.norms() + k) + Vec(vectors[i].norm);
    return fma(Vec(packed[0]), size, Vec(margin::kSumError) * root);
  }

  // Has all candidates computed again that the screen does not rule out; its best is among them.
  void decide(int64_t i, int64_t begin) {
    const float* const mine = distances_of(i);
    Vec upper(kInfinity);
    for (int64_t k = 0; k < p.K; k += kLanes) {
      const Vec root = sqrt(load(mine + k));
      const __mmask16 there = first_lanes(smaller(p.K - k, kLanes)).v;
      const Vec high = root + error(i, k, root);
      upper = _mm512_mask_min_ps(upper.v, there, high.v, upper.v);  // NaN leaves the second
    }
    const Vec ceiling(_mm512_reduce_min_ps(upper.v));
    for (int64_t k = 0; k < p.K; k += kLanes) {
      const Vec root = sqrt(load(mine + k));
      const Vec low = root - error(i, k, root);
      const __mmask16 there = first_lanes(smaller(p.K - k, kLanes)).v;
      uint32_t kept = _mm512_mask_cmp_ps_mask(there, low.v, ceiling.v, _CMP_NGT_UQ);  // NaN is kept
      for (; kept; kept &= kept - 1) add_pair(i, begin, k + __builtin_ctz(kept));
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
      const int64_t i = pairs[j].vector - vectors, k = pairs[j].candidate;
      const float* const target = s.target + (begin + i) * p.d;
      const float* const z = pair_scratch.z + j * p.D() * kBlock;
      const float distance = squared_distance(p.d, target, z), root = __builtin_sqrtf(distances_of(i)[k]);
      const float likely = shown * packed[0] * (packed[p.norms() + k] + vectors[i].norm);
      if (!(__builtin_fabsf(root - __builtin_sqrtf(distance)) <= likely + margin::kSumError * root)) doubted[i] = true;
      if (distance < best[i]) {
        best[i] = distance;
        s.codes[begin + i] = static_cast<int32_t>(k);
      }
    }
    waiting = 0;
  }

  void finish(int64_t begin) {
    if (waiting > 0) compare(begin);
  }

  void search_exact(int64_t begin, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      best[i] = kInfinity;
      doubted[i] = false;
      s.codes[begin + i] = 0;
      decide(i, begin);
    }
    finish(begin);
    for (int64_t i = 0; i < count; ++i) {
      if (!doubted[i]) continue;
      best[i] = kInfinity;
      s.codes[begin + i] = 0;
      for (int64_t k = 0; k < p.K; ++k) add_pair(i, begin, k);
    }
    finish(begin);
    for (int64_t i = 0; s.distances && i < count; ++i) s.distances[begin + i] = best[i];
  }

  void search(int64_t begin, int64_t end) {
    measure(begin, end);
    if (s.precision == Precision::exact) {
      search_exact(begin, end - begin);
    } else {
      for (int64_t i = 0; i < end - begin; ++i) take_screened(i, begin);
    }
  }
};

void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& s) {
  const Layout p{K, d, h, L};
  // Several vectors a chunk, so that they share tables and products; at least 32 chunks, so that threads end together.
  const int64_t most = larger(1, smaller(kMostVectors, kDistances / (p.groups() * kBlock)));
  const int64_t grain = larger(smaller(4, most), smaller(most, s.n / 32));
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
