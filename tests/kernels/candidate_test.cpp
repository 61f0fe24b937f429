// The fused candidate search on every ISA: against exact integer arithmetic, and against the double reference.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <doctest/doctest.h>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace qinco::kernels {
namespace {

QINCO_COVERS(candidate_packed_size);
QINCO_COVERS(candidate_pack);
QINCO_COVERS(candidate_search);

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = -12345.5f;
constexpr int kGuards = 32;

struct Sizes {
  int64_t K, d, h, L;
};

std::ostream& operator<<(std::ostream& out, const Sizes& s) {
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
    std::fill_n(get(), size, kNaN);
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

Context with_threads(int threads) {
  Context context = Context::cpu();
  context.threads = threads;
  return context;
}

// The double reference over the candidates [first, first + count) for the vectors [begin, end).
Result<double> exact_search(const Problem<double>& p, int64_t first, int64_t count, int64_t begin, int64_t end) {
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
void poison_scratch(const Context& context) {
  ScratchFrame frame(context);
  std::fill_n(frame.get<float>(1 << 20), 1 << 20, kNaN);
}

// Searches for the vectors [begin, end) with guards around the pack and both outputs.
Result<float> search(Isa isa, const Problem<float>& p, int64_t begin, int64_t end, int threads = 1) {
  const Context context = with_threads(threads);
  const Table<float>& kernels = table<float>(isa);
  const auto [K, d, h, L] = p.sizes;
  std::vector<const float*> pointers;
  const Guarded packed(kernels.candidate_packed_size(K, d, h, L));
  kernels.candidate_pack(context, p.step(pointers), packed.get());
  CHECK(packed.intact());

  const int64_t n = end - begin;
  const Guarded distances(n);
  std::vector<int32_t> codes(n + 2 * kGuards, -7);
  poison_scratch(context);
  kernels.candidate_search(context, K, d, h, L, packed.get(),
                           {n, p.target.data() + begin * d, p.row.data() + begin * d, p.up_row.data() + begin * h,
                            codes.data() + kGuards, distances.get()});
  CHECK(packed.intact());
  CHECK(distances.intact());
  for (int i = 0; i < kGuards; ++i) {
    CHECK(codes[i] == -7);
    CHECK(codes[n + kGuards + i] == -7);
  }
  return {{codes.begin() + kGuards, codes.end() - kGuards}, {distances.get(), distances.get() + n}};
}

Result<float> search(Isa isa, const Problem<float>& p, int threads = 1) {
  return search(isa, p, 0, p.n, threads);
}

std::vector<float> normal(std::mt19937& random, int64_t size, double deviation) {
  std::normal_distribution<float> value(0.0f, static_cast<float>(deviation));
  std::vector<float> x(size);
  for (float& v : x) v = value(random);
  return x;
}

// Magnitudes as in a trained step: each block adds about as much as it is given.
Problem<float> random_problem(const Sizes& s, int64_t n, unsigned seed) {
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

// out[i] += sum_j w[i,j] x[j] for w [rows,cols].
void add_product(int64_t rows, int64_t cols, const float* w, const std::vector<int64_t>& x, std::vector<int64_t>& out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) out[i] += static_cast<int64_t>(w[i * cols + j]) * x[j];
}

// ||target - z||^2 in integers by the direct form: z = base + r, then L times z += W_down relu(W_up z), with no tables.
int64_t integer_distance(const Problem<float>& p, const float* base, int64_t i) {
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
Problem<float> integer_problem(const Sizes& s, int64_t n, int64_t distinct, unsigned seed) {
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

// Sizes around the widths of panels, registers and tiles, each with each other at some point.
std::vector<Sizes> tail_sizes(int count) {
  constexpr int64_t kValues[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 48, 63, 64};
  std::mt19937 random(11);
  const auto any = [&] { return kValues[random() % std::size(kValues)]; };
  std::vector<Sizes> all;
  for (int64_t value : kValues) all.insert(all.end(), {{value, 5, 7, 2}, {9, value, 8, 2}, {9, 6, value, 2}});
  for (int i = 0; i < count; ++i) all.push_back({any(), any(), any(), 1 + static_cast<int64_t>(random() % 5)});
  return all;
}

// Sizes that take the other roads: inner dimensions cut in pieces, tiles in groups, weights in blocks.
const std::vector<Sizes> kLarge = {{33, 784, 40, 2},    {40, 70, 1100, 1}, {20, 300, 600, 2},
                                   {280, 100, 110, 16}, {2500, 96, 64, 1}, {9, 515, 513, 3}};

}  // namespace

TEST_CASE("candidate search is exact on whole numbers, the lowest index first among equals") {
  for (const Sizes& s : tail_sizes(60)) {
    const int64_t n = 5, distinct = (s.K + 1) / 2;
    Problem<float> p = integer_problem(s, n, distinct, static_cast<unsigned>(s.K * 7 + s.d * 5 + s.h * 3 + s.L));
    std::vector<int64_t> nearest(n, std::numeric_limits<int64_t>::max());
    std::vector<int32_t> codes(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < s.K; ++k) {
        const int64_t distance = integer_distance(p, p.z_table.data() + k * s.d, i);
        REQUIRE(distance < (1 << 24));
        if (distance < nearest[i]) nearest[i] = distance, codes[i] = static_cast<int32_t>(k);
      }
    }
    for (Isa isa : available_isas()) {
      CAPTURE(isa_name(isa));
      CAPTURE(s);
      const Result<float> found = search(isa, p);
      CHECK(found.codes == codes);
      for (int64_t i = 0; i < n; ++i) CHECK(found.distances[i] == static_cast<float>(nearest[i]));
    }
  }
}

TEST_CASE("candidate search reaches the double reference's distances") {
  // Rounding: sums of up to 1100 terms in float, over at most 31 products; relative to distances of the data's size.
  constexpr double kTolerance = 2e-5;
  // On the matrix unit, z itself is off by what splitting its operands leaves out, 2^-17 of each at random signs, in
  // each of L blocks.
  constexpr double kSplitError = 2e-6;
  std::vector<Sizes> all = tail_sizes(120);
  all.insert(all.end(), kLarge.begin(), kLarge.end());
  int64_t mismatches = 0, total = 0;
  for (const Sizes& s : all) {
    CAPTURE(s);
    const bool large = s.K * s.d * s.h > 1000000;
    const Problem<float> p = random_problem(s, large ? 2 : 11, static_cast<unsigned>(s.K + s.d + s.h + s.L));
    const Problem<double> exact = p.as<double>();
    const Result<double> best = exact_search(exact, 0, s.K, 0, p.n);
    for (Isa isa : available_isas()) {
      if (large && isa == Isa::reference) continue;
      CAPTURE(isa_name(isa));
      const double error = isa == Isa::amx ? kSplitError * s.L * std::sqrt(s.d + s.h) : 0;
      const Result<float> found = search(isa, p);
      for (int64_t i = 0; i < p.n; ++i) {
        REQUIRE(found.codes[i] >= 0);
        REQUIRE(found.codes[i] < s.K);
        const double reached = exact_search(exact, found.codes[i], 1, i, i + 1).distances[0];
        const double slack = reached * kTolerance + 2 * std::sqrt(reached) * error + error * error;
        CHECK(reached <= best.distances[i] + slack);
        CHECK(std::abs(found.distances[i] - reached) <= slack);
        mismatches += found.codes[i] != best.codes[i];
        ++total;
      }
    }
  }
  CHECK(mismatches * 1000 <= total);
}

TEST_CASE("a vector's candidate search depends neither on its batch nor on the number of threads") {
  for (const Sizes& s : {Sizes{16, 24, 40, 2}, Sizes{100, 33, 17, 3}, Sizes{256, 16, 32, 1}, Sizes{17, 300, 600, 2}}) {
    const Problem<float> p = random_problem(s, s.d > 100 ? 7 : 150, 3);
    for (Isa isa : available_isas()) {
      if (isa == Isa::reference && s.d > 100) continue;
      CAPTURE(isa_name(isa));
      CAPTURE(s);
      const Result<float> all = search(isa, p);
      for (int threads : {2, 3, 5}) CHECK(search(isa, p, threads) == all);
      for (int64_t begin = 0; begin < p.n; begin += 13) {
        for (int64_t size : {1, 2, 6}) {
          const int64_t end = std::min(begin + size, p.n);
          const Result<float> part{{all.codes.begin() + begin, all.codes.begin() + end},
                                   {all.distances.begin() + begin, all.distances.begin() + end}};
          CHECK(search(isa, p, begin, end) == part);
        }
      }
    }
  }
}

TEST_CASE("NaN in a vector's inputs gives candidate 0 and leaves its neighbours alone") {
  const Sizes s{40, 19, 21, 2};
  const Problem<float> clean = random_problem(s, 9, 4);
  for (Isa isa : available_isas()) {
    CAPTURE(isa_name(isa));
    const Result<float> expected = search(isa, clean);
    for (int64_t i = 0; i < clean.n; ++i) {
      for (int input = 0; input < 3; ++input) {
        Problem<float> p = clean;
        if (input == 0) p.target[i * s.d + 3] = kNaN;
        if (input == 1) p.row[i * s.d + 18] = kNaN;
        if (input == 2) p.up_row[i * s.h + 20] = kNaN;
        Result<float> found = search(isa, p);
        CHECK(found.codes[i] == 0);
        CHECK(found.distances[i] == std::numeric_limits<float>::infinity());
        found.codes[i] = expected.codes[i];
        found.distances[i] = expected.distances[i];
        CHECK(found == expected);
      }
    }
  }
}

TEST_CASE("a candidate that is NaN or infinite is never chosen over a finite one") {
  const Sizes s{35, 9, 10, 2};
  const Problem<float> clean = random_problem(s, 6, 5);
  for (Isa isa : available_isas()) {
    CAPTURE(isa_name(isa));
    for (const float bad : {kNaN, std::numeric_limits<float>::infinity(), 3e38f}) {
      for (int64_t only : {0, 7, 8, 15, 16, 31, 34}) {
        Problem<float> p = clean;
        for (int64_t k = 0; k < s.K; ++k)
          if (k != only) p.z_table[k * s.d + k % s.d] = bad;
        CHECK(search(isa, p).codes == std::vector<int32_t>(p.n, static_cast<int32_t>(only)));
      }
    }
  }
}

TEST_CASE("candidate search takes no vectors, and distances may be null") {
  const Sizes s{20, 12, 14, 2};
  const Problem<float> p = random_problem(s, 10, 6);
  for (Isa isa : available_isas()) {
    CAPTURE(isa_name(isa));
    const Table<float>& kernels = table<float>(isa);
    std::vector<const float*> pointers;
    const Guarded packed(kernels.candidate_packed_size(s.K, s.d, s.h, s.L));
    kernels.candidate_pack(Context::cpu(), p.step(pointers), packed.get());
    std::vector<int32_t> codes(p.n, -1);
    CandidateSearch<float> query{0, p.target.data(), p.row.data(), p.up_row.data(), codes.data(), nullptr};
    kernels.candidate_search(Context::cpu(), s.K, s.d, s.h, s.L, packed.get(), query);
    CHECK(codes == std::vector<int32_t>(p.n, -1));
    query.n = p.n;
    kernels.candidate_search(Context::cpu(), s.K, s.d, s.h, s.L, packed.get(), query);
    CHECK(codes == search(isa, p).codes);
  }
}

}  // namespace qinco::kernels
