// The byte screen of the matrix unit from inside, on the emulator: its distances against double, what it leaves open
// beside the screen in bfloat16, and that nothing it cannot tell passes for a distance.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <random>
#include <vector>

#include "kernels/cpu/amx/step.h"
#include "kernels/cpu/denormals.h"
#include "tests/kernels/candidate_problem.h"

namespace qinco::kernels::tests {

namespace {

// A step packed with either screen.
struct Packed {
  Packed(const Problem<float>& problem, AmxScreen screen)
      : scope(screen),
        p(amx::new_layout(problem.sizes.K, problem.sizes.d, problem.sizes.h, problem.sizes.L)),
        data(p.size()) {
    std::vector<const float*> pointers;
    table<float>(Isa::amx).candidate_pack(with_threads(1), problem.step(pointers), data.get());
    CHECK(data.intact());
    CHECK(p.in_bytes == (screen == AmxScreen::int8));
  }
  float bound() const { return data.get()[0]; }

  ScopedAmxScreen scope;
  amx::Layout p;
  Guarded data;
};

struct Screened {
  int64_t stride;
  std::vector<float> distances, norms;  // [n][stride], [n] ||(u, r)||
  float of(int64_t i, int64_t k) const { return distances[i * stride + k]; }
};

Screened screened(const Packed& packed, const Problem<float>& problem, bool strict) {
  const amx::Layout& p = packed.p;
  const amx::FlushDenormals flush;
  const amx::TileScope tiles;
  const Guarded scratch(p.screen_floats()), memory(problem.n * amx::Vector::floats(p));
  Screened out{p.groups() * amx::kBlock, {}, {}};
  out.distances.resize(problem.n * out.stride);
  std::vector<amx::Vector> vectors;
  std::vector<amx::Unit> units;
  for (int64_t i = 0; i < problem.n; ++i) {
    amx::Vector& v = vectors.emplace_back(p, memory.get() + i * amx::Vector::floats(p));
    amx::fill_vector(p, problem.up_row.data() + i * p.h, problem.row.data() + i * p.d, problem.target.data() + i * p.d,
                     v);
    out.norms.push_back(v.norm);
  }
  for (int64_t g = 0; g < p.groups(); ++g)
    for (int64_t i = 0; i < problem.n; ++i)
      units.push_back(
          amx::make_unit(p, packed.data.get(), g, vectors[i], out.distances.data() + i * out.stride + g * amx::kBlock));
  amx::run_screen(p, packed.data.get(), units.data(), static_cast<int64_t>(units.size()), strict, scratch.get());
  CHECK(scratch.intact());
  return out;
}

// The exact roots of all distances, [K][n].
std::vector<std::vector<double>> exact_roots(const Problem<float>& problem) {
  const Problem<double> p = problem.as<double>();
  std::vector<std::vector<double>> roots;
  for (int64_t k = 0; k < p.sizes.K; ++k) {
    roots.push_back(exact_search(p, k, 1, 0, p.n).distances);
    for (double& x : roots.back()) x = std::sqrt(x);
  }
  return roots;
}

// How far a screen is off, in parts of what its margin allows, and what it leaves to be compared.
struct Judged {
  int64_t pairs = 0, outside = 0, unknown = 0, open = 0, vectors = 0;
  double squares = 0, largest = 0, bound = 0;

  void add(const Problem<float>& problem, AmxScreen screen) {
    const Packed packed(problem, screen);
    const Screened found = screened(packed, problem, true);
    const auto exact = exact_roots(problem);
    bound = packed.bound();
    for (int64_t i = 0; i < problem.n; ++i, ++vectors) {
      double nearest = exact[0][i];
      for (const auto& roots : exact) nearest = std::min(nearest, roots[i]);
      for (int64_t k = 0; k < problem.sizes.K; ++k, ++pairs) {
        const double root = std::sqrt(found.of(i, k));
        const double error =
            packed.bound() * (packed.data.get()[packed.p.norms() + k] + found.norms[i]) + margin::kSumError * root;
        unknown += std::isnan(root);
        open += !(nearest < root - error);
        if (std::isnan(root)) continue;
        const double share = std::abs(root - exact[k][i]) / error;
        outside += !(share <= 1);
        squares += share * share;
        largest = std::max(largest, share);
      }
    }
  }
};

std::ostream& operator<<(std::ostream& out, const Judged& j) {
  return out << "bound " << j.bound << ", error rms " << std::sqrt(j.squares / j.pairs) << " largest " << j.largest
             << " of the margin, " << j.outside << " outside and " << j.unknown << " unknown of " << j.pairs
             << ", compared per vector " << static_cast<double>(j.open) / j.vectors;
}

// All of vector i's (none's: -1) distances are NaN where the screen is strict, and numbers where it is not; others' are
// numbers.
void check_unknown(const Problem<float>& problem, int64_t i) {
  const Packed packed(problem, AmxScreen::int8);
  CHECK(packed.bound() < 1);  // the probes were not clipped
  const Screened strict = screened(packed, problem, true), lax = screened(packed, problem, false);
  for (int64_t v = 0; v < problem.n; ++v)
    for (int64_t k = 0; k < problem.sizes.K; ++k) {
      CAPTURE(v);
      CAPTURE(k);
      CHECK(std::isnan(strict.of(v, k)) == (v == i));
      CHECK(std::isfinite(lax.of(v, k)));
    }
}

// What the kernel finds is what double does.
void check_search(const Problem<float>& problem) {
  const ScopedAmxScreen bytes(AmxScreen::int8);
  const Result<float> found = search(Isa::amx, problem);
  CHECK(found.codes == exact_search(problem.as<double>(), 0, problem.sizes.K, 0, problem.n).codes);
}

}  // namespace

TEST_CASE("emulator: tile products of bytes are sums of products, those of a unsigned or signed") {
  std::mt19937 random(1);
  alignas(64) uint8_t a[16][64];
  alignas(64) int8_t b[16][16][4];
  alignas(64) int32_t c[16][16], before[16][16];
  for (auto& row : a)
    for (uint8_t& x : row) x = static_cast<uint8_t>(random());
  for (auto& row : b)
    for (auto& four : row)
      for (int8_t& x : four) x = static_cast<int8_t>(random());
  for (auto& row : before)
    for (int32_t& x : row) x = static_cast<int32_t>(random() % 1000);
  const amx::TileScope tiles;
  for (const bool is_signed : {false, true}) {
    amx::tile_load<0>(before);
    amx::tile_load<4>(a);
    amx::tile_load<6>(b);
    is_signed ? amx::tile_product_signed<0, 4, 6>() : amx::tile_product_unsigned<0, 4, 6>();
    amx::tile_store<0>(c);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) {
        int sum = before[i][j];
        for (int k = 0; k < 64; ++k) sum += (is_signed ? static_cast<int8_t>(a[i][k]) : a[i][k]) * b[k / 4][j][k % 4];
        CHECK(c[i][j] == sum);
      }
  }
}

TEST_CASE("byte screen: distances are off by less than the margin, which leaves few candidates open") {
  for (const Sizes& s : {Sizes{256, 32, 64, 1}, Sizes{64, 128, 256, 2}, Sizes{40, 100, 250, 2}, Sizes{16, 33, 97, 4},
                         Sizes{75, 130, 70, 3}}) {
    const Problem<float> problem = random_problem(s, 20, 31);
    CAPTURE(s);
    Judged bytes, halves;
    bytes.add(problem, AmxScreen::int8);
    halves.add(problem, AmxScreen::bf16);
    MESSAGE(s << ", int8: " << bytes);
    MESSAGE(s << ", bf16: " << halves);
    CHECK(bytes.outside == 0);
    CHECK(bytes.largest > 0.01);  // else the margin is of something else
    CHECK(bytes.bound < 12 * halves.bound);
    CHECK(bytes.unknown * 200 <= bytes.pairs);
    CHECK(bytes.open <= bytes.pairs / 8 + bytes.vectors);
  }
}

// Sizes with half a block of 64 at the end of either dimension, and without.
const std::vector<Sizes> kEnds = {{40, 64, 128, 2}, {33, 90, 150, 2}};

TEST_CASE("byte screen: a vector beyond what the probes showed is left to the comparison, wherever it is clipped") {
  for (Sizes s : kEnds) {
    CAPTURE(s);
    {  // relu(a_table + up_row)
      s.L = 1;
      Problem<float> problem = random_problem(s, 6, 41);
      for (const int64_t j : {int64_t{0}, s.h - 1}) {
        Problem<float> far = problem;
        far.up_row[2 * s.h + j] = 60;
        check_unknown(far, 2);
        check_search(far);
      }
      problem.row[s.d * 2 + 3] = 90;  // is not rounded here
      check_unknown(problem, -1);
      s.L = 2;
    }
    Problem<float> problem = random_problem(s, 6, 42);
    for (const float sign : {-1.0f, 1.0f}) {  // z
      for (const int64_t j : {int64_t{0}, s.d - 1}) {
        Problem<float> far = problem;
        far.row[3 * s.d + j] = sign * 90;
        check_unknown(far, 3);
        check_search(far);
      }
    }
    for (const int64_t j : {int64_t{0}, s.h - 1}) {  // relu(W_up z), z being in many small parts
      Problem<float> far = problem;
      for (int64_t c = 0; c < s.d; ++c) far.row[4 * s.d + c] = 40 * (far.up[1][j * s.d + c] < 0 ? -1.0f : 1.0f);
      check_unknown(far, 4);
      check_search(far);
    }
  }
}

TEST_CASE("byte screen: candidates share their scale with those that are much longer") {
  const Sizes s{70, 40, 70, 2};
  Problem<float> problem = random_problem(s, 6, 46);
  for (const int64_t k : {31, 40, 69}) {
    for (int64_t j = 0; j < s.d; ++j) problem.z_table[k * s.d + j] *= 10;
    for (int64_t j = 0; j < s.h; ++j) problem.a_table[k * s.h + j] *= 10;
  }
  check_unknown(problem, -1);
  check_search(problem);
  Judged judged;
  judged.add(problem, AmxScreen::int8);
  CHECK(judged.outside == 0);
}

TEST_CASE("byte screen: a layer that is zero in all probes need not be so in the data") {
  const Problem<float> problem = random_problem({40, 40, 70, 2}, 4, 48);
  for (const bool hidden : {true, false}) {  // else z
    Problem<float> p = problem;
    std::vector<float>& input = hidden ? p.up_row : p.row;
    for (auto* x : {hidden ? &p.a_table : &p.z_table, hidden ? &p.up[0] : &p.down[0], &input})
      std::fill(x->begin(), x->end(), 0.0f);
    check_unknown(p, -1);
    for (const float value : {1e-4f, 1e6f}) {  // the latter as bytes of the least step would overflow 32 bits
      input[2 * (hidden ? p.sizes.h : p.sizes.d) + 39] = value;
      check_unknown(p, 2);
      check_search(p);
    }
  }
}

TEST_CASE("byte screen: a clipped candidate is found, though another's distance, which is right, looks less") {
  const Sizes s{1024, 16, 32, 1};
  constexpr int64_t kClipped = 1, kOther = 2;  // no probe looks at them
  Problem<float> problem = random_problem(s, 3, 47);
  problem.a_table[kClipped * s.h + 3] = 60;
  float* const target = problem.target.data();  // of vector 0: the clipped candidate's output
  for (int64_t j = 0; j < s.d; ++j) {
    double z = static_cast<double>(problem.z_table[kClipped * s.d + j]) + problem.row[j];
    for (int64_t i = 0; i < s.h; ++i)
      z += problem.down[0][j * s.h + i] * std::max(0.0f, problem.a_table[kClipped * s.h + i] + problem.up_row[i]);
    target[j] = static_cast<float>(z);
    problem.z_table[kOther * s.d + j] = target[j];
  }
  const Packed packed(problem, AmxScreen::int8);
  const Screened strict = screened(packed, problem, true), lax = screened(packed, problem, false);
  CHECK(std::isnan(strict.of(0, kClipped)));
  CHECK(lax.of(0, kOther) < lax.of(0, kClipped));
  check_search(problem);
  CHECK(exact_search(problem.as<double>(), 0, s.K, 0, 1).codes[0] == kClipped);
}

TEST_CASE("byte screen: hidden steps that no probe has are noticed") {
  const Problem<float> problem = hiding_problem({64, 64, 96, 2}, 10, 5);
  const Screened found = screened(Packed(problem, AmxScreen::int8), problem, true);
  const int64_t unknown = std::count_if(found.distances.begin(), found.distances.end(), [](float x) { return x != x; });
  CHECK(2 * unknown > problem.n * problem.sizes.K);
  check_search(problem);
}

TEST_CASE("byte screen: what is not finite is NaN, and nothing else") {
  const Sizes s{70, 50, 90, 2};
  const Problem<float> clean = random_problem(s, 5, 43);
  for (const float bad : {kNan, kInf, -kInf, 3e38f}) {
    CAPTURE(bad);
    for (const int input : {0, 1, 2}) {  // a vector's
      Problem<float> problem = clean;
      (input == 0   ? problem.row[2 * s.d + 49]
       : input == 1 ? problem.up_row[2 * s.h + 7]
                    : problem.target[2 * s.d]) = bad;
      const Screened found = screened(Packed(problem, AmxScreen::int8), problem, false);
      for (int64_t i = 0; i < problem.n; ++i)
        for (int64_t k = 0; k < s.K; ++k) CHECK((i == 2 ? !(found.of(i, k) < kInf) : std::isfinite(found.of(i, k))));
    }
    for (const bool hidden : {false, true}) {  // a candidate's
      Problem<float> problem = clean;
      (hidden ? problem.a_table[40 * s.h + 3] : problem.z_table[40 * s.d + 49]) = bad;
      const Packed packed(problem, AmxScreen::int8);
      CHECK((packed.bound() == kInf || packed.bound() < 1));  // a probe may have met it
      const Screened found = screened(packed, problem, false);
      for (int64_t i = 0; i < problem.n; ++i)
        for (int64_t k = 0; k < s.K; ++k) CHECK(std::isnan(found.of(i, k)) == (k == 40));
    }
    if (bad == 3e38f) continue;
    for (const int matrix : {0, 1, 2}) {  // a weight
      Problem<float> problem = clean;
      (matrix == 0 ? problem.down[0] : matrix == 1 ? problem.up[1] : problem.down[1])[77] = bad;
      const Screened found = screened(Packed(problem, AmxScreen::int8), problem, false);
      for (int64_t i = 0; i < problem.n; ++i)
        for (int64_t k = 0; k < s.K; ++k) CHECK(std::isnan(found.of(i, k)));
    }
  }
}

TEST_CASE("byte screen: zeros and tiny numbers keep their distances") {
  const Sizes s{40, 50, 90, 2};
  for (const float scale : {0.0f, 1e-30f, 1e-15f, 1e12f}) {
    Problem<float> problem = random_problem(s, 4, 44);
    for (auto* x : {&problem.z_table, &problem.a_table, &problem.row, &problem.up_row})
      for (float& value : *x) value *= scale;
    CAPTURE(scale);
    const Screened found = screened(Packed(problem, AmxScreen::int8), problem, false);
    const auto exact = exact_roots(problem);
    for (int64_t i = 0; i < problem.n; ++i)
      for (int64_t k = 0; k < s.K; ++k) {
        CHECK(std::sqrt(found.of(i, k)) <= 1.05 * exact[k][i]);
        CHECK(std::sqrt(found.of(i, k)) >= 0.95 * exact[k][i]);
      }
    // In between, candidates differ by less than float can tell.
    if (scale == 0 || scale > 1) check_search(problem);
  }
}

TEST_CASE("byte screen: the step's products are homogeneous, so powers of two change nothing") {
  const Problem<float> problem = random_problem({64, 40, 70, 3}, 5, 45);
  const Screened once = screened(Packed(problem, AmxScreen::int8), problem, false);
  for (const float scale : {0x1p-20f, 0x1p20f}) {
    Problem<float> scaled = problem;
    for (auto* x : {&scaled.z_table, &scaled.a_table, &scaled.row, &scaled.up_row, &scaled.target})
      for (float& value : *x) value *= scale;
    const Screened found = screened(Packed(scaled, AmxScreen::int8), scaled, false);
    for (size_t i = 0; i < once.distances.size(); ++i) CHECK(found.distances[i] == once.distances[i] * scale * scale);
  }
}

}  // namespace qinco::kernels::tests
