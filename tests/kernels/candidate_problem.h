// Problems for the candidate search, its answers in double and in whole numbers, and a guarded call of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

constexpr float kGuard = -12345.5f;
constexpr int kGuards = 32;

struct Sizes {
  int64_t K, d, h, L;
};

inline std::ostream& operator<<(std::ostream& out, const Sizes& s) {
  return out << "K=" << s.K << " d=" << s.d << " h=" << s.h << " L=" << s.L;
}

// One step's tables and weights, and the inputs of n vectors.
template <class T>
struct Problem {
  Sizes sizes{};
  int64_t n = 0;
  std::vector<T> z_table, a_table, target, row, up_row;
  std::vector<std::vector<T>> up, down;  // L matrices each; up[0] is inside a_table

  // The step that holds only the candidates from `first` on.
  CandidateStep<T> step(std::vector<const T*>& pointers, int64_t first = 0, int64_t count = -1) const {
    pointers.clear();
    for (const auto& w : up) pointers.push_back(w.data());
    for (const auto& w : down) pointers.push_back(w.data());
    return {count < 0 ? sizes.K : count,
            sizes.d,
            sizes.h,
            sizes.L,
            z_table.data() + first * sizes.d,
            a_table.data() + first * sizes.h,
            pointers.data(),
            pointers.data() + sizes.L};
  }

  template <class U>
  Problem<U> as() const {
    const auto convert = [](const std::vector<T>& x) { return std::vector<U>(x.begin(), x.end()); };
    Problem<U> p{sizes, n, convert(z_table), convert(a_table), convert(target), convert(row), convert(up_row), {}, {}};
    for (const auto& w : up) p.up.push_back(convert(w));
    for (const auto& w : down) p.down.push_back(convert(w));
    return p;
  }
};

// Memory aligned to 64 bytes between guard values, holding NaN until written.
class Guarded {
 public:
  explicit Guarded(int64_t size)
      : size_(size),
        data_(static_cast<float*>(::operator new ((size + 2 * kGuards) * sizeof(float), std::align_val_t{64}))) {
    std::fill_n(data_.get(), size + 2 * kGuards, kGuard);
    std::fill_n(get(), size, kNan);
  }
  float* get() const { return data_.get() + kGuards; }
  bool intact() const {
    const auto is_guard = [](float x) { return x == kGuard; };
    return std::all_of(data_.get(), get(), is_guard) && std::all_of(get() + size_, get() + size_ + kGuards, is_guard);
  }

 private:
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  int64_t size_;
  std::unique_ptr<float, Free> data_;
};

template <class T>
struct Result {
  std::vector<int32_t> codes;
  std::vector<T> distances;
  bool operator==(const Result& other) const {
    return codes == other.codes && distances.size() == other.distances.size() &&
           std::memcmp(distances.data(), other.distances.data(), distances.size() * sizeof(T)) == 0;
  }
};

inline Context with_threads(int threads) {
  Context context = Context::cpu();
  context.threads = threads;
  return context;
}

// The double reference over the candidates [first, first + count) for the vectors [begin, end).
inline Result<double> exact_search(const Problem<double>& p, int64_t first, int64_t count, int64_t begin, int64_t end) {
  const Table<double>& kernels = table<double>();
  const auto [K, d, h, L] = p.sizes;
  std::vector<const double*> pointers;
  const auto step = p.step(pointers, first, count);
  std::vector<double> packed(kernels.candidate_packed_size(count, d, h, L));
  kernels.candidate_pack(Context::cpu(), step, packed.data());
  Result<double> result{std::vector<int32_t>(end - begin), std::vector<double>(end - begin)};
  kernels.candidate_search(Context::cpu(), count, d, h, L, packed.data(),
                           {end - begin, p.target.data() + begin * d, p.row.data() + begin * d,
                            p.up_row.data() + begin * h, result.codes.data(), result.distances.data()});
  return result;
}

// Scratch memory is left full of NaN, so that a kernel that reads what it did not write shows it.
inline void poison_scratch(const Context& context) {
  ScratchFrame frame(context);
  std::fill_n(frame.get<float>(1 << 20), 1 << 20, kNan);
}

// Searches for the vectors [begin, end) with guards around the pack and both outputs.
inline Result<float> search(const Version& version, const Problem<float>& p, int64_t begin, int64_t end,
                            int threads = 1, Precision precision = Precision::exact) {
  const Context context = with_threads(threads);
  const Table<float>& kernels = *version.table;
  const auto [K, d, h, L] = p.sizes;
  std::vector<const float*> pointers;
  const Guarded packed(kernels.candidate_packed_size(K, d, h, L));
  CandidateStep<float> step = p.step(pointers);
  step.precision = precision;
  kernels.candidate_pack(context, step, packed.get());
  CHECK(packed.intact());

  const int64_t n = end - begin;
  const Guarded distances(n);
  std::vector<int32_t> codes(n + 2 * kGuards, -7);
  poison_scratch(context);
  kernels.candidate_search(context, K, d, h, L, packed.get(),
                           {n, p.target.data() + begin * d, p.row.data() + begin * d, p.up_row.data() + begin * h,
                            codes.data() + kGuards, distances.get(), precision});
  CHECK(packed.intact());
  CHECK(distances.intact());
  std::vector<int32_t> alone(static_cast<size_t>(n));
  kernels.candidate_search(context, K, d, h, L, packed.get(),
                           {n, p.target.data() + begin * d, p.row.data() + begin * d, p.up_row.data() + begin * h,
                            alone.data(), nullptr, precision});
  CHECK(std::equal(alone.begin(), alone.end(), codes.begin() + kGuards));  // the same without distances
  for (int i = 0; i < kGuards; ++i) {
    CHECK(codes[i] == -7);
    CHECK(codes[n + kGuards + i] == -7);
  }
  return {{codes.begin() + kGuards, codes.end() - kGuards}, {distances.get(), distances.get() + n}};
}

inline Result<float> search(const Version& version, const Problem<float>& p, int threads = 1) {
  return search(version, p, 0, p.n, threads);
}

inline std::vector<float> normal(std::mt19937& random, int64_t size, double deviation) {
  std::normal_distribution<float> value(0.0f, static_cast<float>(deviation));
  std::vector<float> x(size);
  for (float& v : x) v = value(random);
  return x;
}

// The table of `isa` that packs as where `feature` is not there. A search goes by what its pack says.
template <Isa isa, Feature feature>
const Table<float>& packs_without() {
  static const Table<float> changed = [] {
    Table<float> t = table<float>(isa);
    t.candidate_pack = [](const Context& context, const CandidateStep<float>& step, float* packed) {
      const ScopedWithout without(feature);
      table<float>(isa).candidate_pack(context, step, packed);
    };
    t.candidate_screen_pack = [](const Context& context, const CandidateStep<float>& step, float* packed) {
      const ScopedWithout without(feature);
      table<float>(isa).candidate_screen_pack(context, step, packed);
    };
    return t;
  }();
  return changed;
}

// The versions, those with VNNI once more without, and the matrix unit once more with its byte screen.
inline std::vector<Version> screened_versions() {
  std::vector<Version> all = versions();
  const auto add = [&](Isa isa, const char* name, const Table<float>& table) {
    all.emplace_back(isa);
    all.back().name = name;
    all.back().table = &table;
  };
  if (cpu_has(Feature::avx_vnni)) add(Isa::avx2, "avx2 7 bits", packs_without<Isa::avx2, Feature::avx_vnni>());
  if (cpu_has(Feature::avx512_vnni))
    add(Isa::avx512, "avx512 7 bits", packs_without<Isa::avx512, Feature::avx512_vnni>());
  if (best_isa() < Isa::amx || !cpu_has(Feature::amx_int8)) return all;
  static const Table<float> in_bytes = [] {
    Table<float> t = table<float>(Isa::amx);
    t.candidate_packed_size = [](int64_t K, int64_t d, int64_t h, int64_t L) {
      const ScopedAmxScreen bytes(AmxScreen::int8);
      return table<float>(Isa::amx).candidate_packed_size(K, d, h, L);
    };
    t.candidate_pack = [](const Context& context, const CandidateStep<float>& step, float* packed) {
      const ScopedAmxScreen bytes(AmxScreen::int8);
      table<float>(Isa::amx).candidate_pack(context, step, packed);
    };
    return t;
  }();
  add(Isa::amx, "amx int8", in_bytes);
  return all;
}

// Magnitudes as in a trained step: each block adds about as much as it is given.
inline Problem<float> random_problem(const Sizes& s, int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  Problem<float> p{s,
                   n,
                   normal(random, s.K * s.d, 1),
                   normal(random, s.K * s.h, 1),
                   normal(random, n * s.d, 1),
                   normal(random, n * s.d, 0.3),
                   normal(random, n * s.h, 0.3),
                   {},
                   {}};
  for (int64_t l = 0; l < s.L; ++l) {
    p.up.push_back(normal(random, s.h * s.d, 1 / std::sqrt(s.d)));
    p.down.push_back(normal(random, s.d * s.h, 0.5 / std::sqrt(s.h)));
  }
  return p;
}

// For every vector i, the output of candidate i * 7 % K plus 0.02 * noise [n,d].
inline std::vector<float> output_of(const Problem<float>& p, const float* noise) {
  const auto [K, d, h, L] = p.sizes;
  std::vector<float> out;
  for (int64_t i = 0; i < p.n; ++i) {
    std::vector<double> z(d), hidden(h);
    for (int64_t j = 0; j < d; ++j) z[j] = static_cast<double>(p.z_table[i * 7 % K * d + j]) + p.row[i * d + j];
    for (int64_t l = 0; l < L; ++l) {
      for (int64_t j = 0; j < h; ++j)
        hidden[j] = std::max(0.0, std::inner_product(z.begin(), z.end(), p.up[l].begin() + j * d, 0.0));
      for (int64_t j = 0; j < d; ++j)
        z[j] += std::inner_product(hidden.begin(), hidden.end(), p.down[l].begin() + j * h, 0.0);
    }
    for (int64_t j = 0; j < d; ++j) out.push_back(static_cast<float>(z[j] + 0.02 * noise[i * d + j]));
  }
  return out;
}

// A step whose rounding its codewords alone do not show: hidden unit 0, which weighs a lot, reads coordinate 0, of
// which the candidates have less than nothing and the vectors' rows plenty. Targets lie close to a candidate's output.
inline Problem<float> hiding_problem(const Sizes& s, int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  Problem<float> p{s, n, normal(random, s.K * s.d, 0.005), {}, {}, normal(random, n * s.d, 0.5), {}, {}, {}};
  for (int64_t l = 0; l < s.L; ++l) {
    p.up.push_back(normal(random, s.h * s.d, 1 / std::sqrt(s.d)));
    p.down.push_back(normal(random, s.d * s.h, 1 / std::sqrt(s.h)));
  }
  const std::vector<float> noise = normal(random, s.K + n + n * s.d, 1);
  for (int64_t k = 0; k < s.K; ++k) p.z_table[k * s.d] = -3 + 0.5f * noise[k];
  for (int64_t i = 0; i < n; ++i) p.row[i * s.d] = 3 + 2 * std::abs(noise[s.K + i]);
  for (int64_t j = 0; j < s.d; ++j) p.up[0][j] = j == 0 ? 1.0f : 0.0f;
  for (int64_t j = 0; j < s.d; ++j) p.down[0][j * s.h] *= 300;
  const auto through_up = [&](const std::vector<float>& x, int64_t count) {
    std::vector<float> out(count * s.h);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < s.h; ++j)
        out[i * s.h + j] = static_cast<float>(
            std::inner_product(x.begin() + i * s.d, x.begin() + (i + 1) * s.d, p.up[0].begin() + j * s.d, 0.0));
    return out;
  };
  p.a_table = through_up(p.z_table, s.K);
  p.up_row = through_up(p.row, n);
  p.target = output_of(p, noise.data() + s.K + n);
  return p;
}

// out[i] += sum_j w[i,j] x[j] for w [rows,cols].
inline void add_product(int64_t rows, int64_t cols, const float* w, const std::vector<int64_t>& x,
                        std::vector<int64_t>& out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) out[i] += static_cast<int64_t>(w[i * cols + j]) * x[j];
}

// ||target - z||^2 in integers by the direct form: z = base + r, then L times z += W_down relu(W_up z), with no tables.
inline int64_t integer_distance(const Problem<float>& p, const float* base, int64_t i) {
  const auto [K, d, h, L] = p.sizes;
  std::vector<int64_t> z(d);
  for (int64_t j = 0; j < d; ++j) z[j] = static_cast<int64_t>(base[j]) + static_cast<int64_t>(p.row[i * d + j]);
  for (int64_t l = 0; l < L; ++l) {
    std::vector<int64_t> hidden(h);
    add_product(h, d, p.up[l].data(), z, hidden);
    for (int64_t& x : hidden) x = std::max<int64_t>(x, 0);
    add_product(d, h, p.down[l].data(), hidden, z);
  }
  int64_t total = 0;
  for (int64_t j = 0; j < d; ++j) total += (p.target[i * d + j] - z[j]) * (p.target[i * d + j] - z[j]);
  return total;
}

// Small whole numbers, weights with about two non-zeros a row; candidates k and k + distinct are the same.
inline Problem<float> integer_problem(const Sizes& s, int64_t n, int64_t distinct, unsigned seed) {
  std::mt19937 random(seed);
  const auto whole = [&](int64_t size) {
    std::vector<float> x(size);
    for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 5) - 2);
    return x;
  };
  const auto sparse = [&](int64_t rows, int64_t cols) {
    std::vector<float> w(rows * cols, 0.0f);
    for (int64_t i = 0; i < rows; ++i)
      for (int j = 0; j < 2; ++j) w[i * cols + random() % cols] = random() % 2 ? 1.0f : -1.0f;
    return w;
  };
  Problem<float> p{s, n, whole(s.K * s.d), {}, whole(n * s.d), whole(n * s.d), {}, {}, {}};
  for (int64_t k = distinct; k < s.K; ++k)
    std::copy_n(p.z_table.begin() + (k - distinct) * s.d, s.d, p.z_table.begin() + k * s.d);
  for (int64_t l = 0; l < s.L; ++l) {
    p.up.push_back(sparse(s.h, s.d));
    p.down.push_back(sparse(s.d, s.h));
  }
  const auto through_up = [&](const std::vector<float>& x, int64_t count) {
    std::vector<float> out;
    for (int64_t i = 0; i < count; ++i) {
      std::vector<int64_t> hidden(s.h);
      add_product(s.h, s.d, p.up[0].data(), {x.begin() + i * s.d, x.begin() + (i + 1) * s.d}, hidden);
      out.insert(out.end(), hidden.begin(), hidden.end());
    }
    return out;
  };
  p.a_table = through_up(p.z_table, s.K);
  p.up_row = through_up(p.row, n);
  return p;
}

}  // namespace qinco::kernels::tests
