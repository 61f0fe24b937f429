// The candidate search on the matrix unit: screened in bfloat16 or bytes (screen.h, byte_screen.h), decided at
// near-float precision.
#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/denormals.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kDistances = int64_t{1} << 16;  // kept per chunk, at most (one vector's K may be more)

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return new_layout(K, d, h, L).size();
}

// What a worker needs for a chunk of at most `most` vectors; the screen and the comparison that ScreenedSearch asks
// for.
class Chunk {
 public:
  static int64_t floats(const Layout& p, int64_t most) {
    return most * (Vector::floats(p) + p.groups() * kBlock) + p.screen_floats() + PairScratch::floats(p);
  }

  Chunk(const Layout& layout, const float* pack, const CandidateSearch<float>& search, int64_t most, Unit* list,
        float* memory)
      : p_(layout),
        packed_(pack),
        s_(search),
        margin_{p_.K, p_.d, packed_[0], packed_ + p_.norms()},
        units_(list),
        distances_(memory + most * Vector::floats(p_)),
        screen_(distances_ + most * stride()),
        pair_scratch_(p_, screen_ + p_.screen_floats()) {
    for (int64_t i = 0; i < most; ++i) vectors_[i] = Vector(p_, memory + i * Vector::floats(p_));
  }

  void search(int64_t begin, int64_t end) {
    ScreenedSearch<Chunk>(*this, margin_, s_, stride(), distances_, kPairs, pairs_, decided_).search(begin, end);
  }

  bool gives_up(int64_t, int64_t) const { return false; }  // split products take no longer than another search

  // Candidates outside, vectors inside, so that a block of the tables serves all.
  void screen(int64_t begin, int64_t end, float* distances, float* norms) {
    const int64_t count = end - begin;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t v = begin + i;
      fill_vector(p_, s_.up_row + v * p_.h, s_.row + v * p_.d, s_.target + v * p_.d, vectors_[i]);
      norms[i] = vectors_[i].norm;
    }
    for (int64_t g = 0; g < p_.groups(); ++g)
      for (int64_t i = 0; i < count; ++i)
        units_[g * count + i] = make_unit(p_, packed_, g, vectors_[i], distances + i * stride() + g * kBlock);
    run_screen(p_, packed_, units_, p_.groups() * count, s_.precision == Precision::exact, screen_);
  }

  void compare(int64_t begin, const Pair* pairs, int64_t count, float* distances) {
    forward(p_, packed_, vectors_, pairs, count, pair_scratch_);
    for (int64_t j = 0; j < count; ++j)
      distances[j] =
          squared_distance(p_.d, s_.target + (begin + pairs[j].vector) * p_.d, pair_scratch_.z + j * p_.D() * kBlock);
  }

 private:
  int64_t stride() const { return p_.groups() * kBlock; }

  const Layout& p_;
  const float* packed_;
  const CandidateSearch<float>& s_;
  Margin margin_;
  Vector vectors_[kMostVectors];
  Pair pairs_[kPairs];
  float decided_[kPairs];
  Unit* units_;       // [most * K/32]
  float* distances_;  // [most][stride]
  float* screen_;
  PairScratch pair_scratch_;
};

void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& s) {
  const Layout p = layout_of(K, d, h, L, packed);
  // Many vectors a chunk, so that they share tables and products.
  const int64_t most = larger(1, smaller(kMostVectors, kDistances / (p.groups() * kBlock)));
  const int64_t grain = larger(smaller(4, most), chunk_vectors(s.n, most));
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
  t.candidate_screen_size = nullptr, t.candidate_screen_pack = nullptr, t.candidate_screen = nullptr;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
