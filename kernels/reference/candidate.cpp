// Candidate search of one QINCo step: the definition. The pack is a plain copy: z_table, a_table, w_up 2..L,
// w_down 1..L.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return K * (d + h) + (2 * L - 1) * d * h;
}

template <class T>
void candidate_pack(const Context&, const CandidateStep<T>& s, T* packed) {
  packed = std::copy_n(s.z_table, s.K * s.d, packed);
  packed = std::copy_n(s.a_table, s.K * s.h, packed);
  for (int64_t l = 1; l < s.L; ++l) packed = std::copy_n(s.w_up[l], s.h * s.d, packed);
  for (int64_t l = 0; l < s.L; ++l) packed = std::copy_n(s.w_down[l], s.d * s.h, packed);
}

// out[i] += sum_j w[i,j] x[j] for w [rows,cols].
template <class T>
void add_product(int64_t rows, int64_t cols, const T* w, const double* x, double* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) out[i] += w[i * cols + j] * x[j];
}

// The pointers into one step's pack, and its formula for one candidate.
template <class T>
struct Step {
  int64_t d, h, L;
  const T *z_table, *a_table, *w_up, *w_down;

  Step(int64_t K, int64_t d_, int64_t h_, int64_t L_, const T* packed)
      : d(d_),
        h(h_),
        L(L_),
        z_table(packed),
        a_table(z_table + K * d),
        w_up(a_table + K * h),
        w_down(w_up + (L - 1) * h * d) {}

  // ||target - z_k||^2 with row and up_row as in CandidateSearch; z [d] and hidden [h] are scratch.
  double distance(int64_t k, const T* target, const T* row, const T* up_row, double* z, double* hidden) const {
    for (int64_t j = 0; j < d; ++j) z[j] = static_cast<double>(z_table[k * d + j]) + row[j];
    for (int64_t j = 0; j < h; ++j) hidden[j] = static_cast<double>(a_table[k * h + j]) + up_row[j];
    for (int64_t l = 0; l < L; ++l) {
      if (l > 0) {
        std::fill_n(hidden, h, 0.0);
        add_product(h, d, w_up + (l - 1) * h * d, z, hidden);
      }
      for (int64_t j = 0; j < h; ++j)
        if (hidden[j] < 0) hidden[j] = 0;
      add_product(d, h, w_down + l * d * h, hidden, z);
    }
    double total = 0;
    for (int64_t j = 0; j < d; ++j) total += (target[j] - z[j]) * (target[j] - z[j]);
    return total;
  }
};

// body(i, z [d], hidden [h]) for the vectors i < n.
template <class Body>
void for_vectors(const Context& context, int64_t n, int64_t d, int64_t h, const Body& body) {
  ScratchFrame frame(context);
  double* const scratch = frame.get<double>(context.threads * (d + h));
  parallel_for(context, n, 1, [&](int64_t begin, int64_t end, int worker) {
    double* const z = scratch + worker * (d + h);
    for (int64_t i = begin; i < end; ++i) body(i, z, z + d);
  });
}

template <class T>
void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const T* packed,
                      const CandidateSearch<T>& s) {
  const Step<T> step(K, d, h, L, packed);
  for_vectors(context, s.n, d, h, [&](int64_t i, double* z, double* hidden) {
    double best = std::numeric_limits<double>::infinity();
    s.codes[i] = 0;
    for (int64_t k = 0; k < K; ++k) {
      const double distance = step.distance(k, s.target + i * d, s.row + i * d, s.up_row + i * h, z, hidden);
      if (distance < best) {
        best = distance;
        s.codes[i] = static_cast<int32_t>(k);
      }
    }
    if (s.distances) s.distances[i] = static_cast<T>(best);
  });
}

// Compares in double, so that a result in float arithmetic is off by that arithmetic's rounding: for sums of some
// thousands, well below this share of the inputs' size.
constexpr double kFloatError = 1e-5;

template <class T>
double squared_norm(int64_t n, const T* x) {
  double total = 0;
  for (int64_t j = 0; j < n; ++j) total += static_cast<double>(x[j]) * x[j];
  return total;
}

template <class T>
void candidate_screen(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const T* packed,
                      const CandidateScreen<T>& s) {
  const Step<T> step(K, d, h, L, packed);
  for_vectors(context, s.n, d, h, [&](int64_t i, double* z, double* hidden) {
    const T *const row = s.row + i * d, *const up_row = s.up_row + i * h;
    const double size = std::sqrt(squared_norm(d, row) + squared_norm(h, up_row));
    for (int64_t pair = i * s.candidates; pair < (i + 1) * s.candidates; ++pair) {
      const int64_t k = s.ids[pair];
      const double own = std::sqrt(squared_norm(d, s.z_table + k * d) + squared_norm(h, s.a_table + k * h));
      s.distances[pair] = static_cast<T>(step.distance(k, s.target + i * d, row, up_row, z, hidden));
      s.margins[pair] = static_cast<T>(kFloatError * (own + size));
    }
  });
}

}  // namespace

template <class T>
void fill_candidate(Table<T>& t) {
  t.candidate_packed_size = candidate_packed_size<T>;
  t.candidate_pack = candidate_pack<T>;
  t.candidate_search = candidate_search<T>;
  t.candidate_screen_size = candidate_packed_size<T>;
  t.candidate_screen_pack = candidate_pack<T>;
  t.candidate_screen = candidate_screen<T>;
}
template void fill_candidate(Table<float>&);
template void fill_candidate(Table<double>&);

}  // namespace qinco::kernels::reference
