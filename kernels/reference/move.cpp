// Elements to the places of a view, sums of rows picked from tables, codes that grow by what was picked. All only move
// data, or nearly so: this is the one version for the CPU.
#include <algorithm>
#include <cstring>

#include "kernels/families.h"
#include "kernels/half.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

constexpr int64_t kSumRows = 64, kPicks = 1024;  // of a chunk

template <class T>
void strided_write(const Context& context, int ndim, const int64_t* shape, const int64_t* strides, const T* x, T* y) {
  for (int i = 0; i < ndim; ++i)
    if (shape[i] == 0) return;
  const int64_t cols = ndim == 0 ? 1 : shape[ndim - 1], step = ndim == 0 ? 1 : strides[ndim - 1];
  int64_t rows = 1;
  for (int i = 0; i + 1 < ndim; ++i) rows *= shape[i];
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t at = 0, rest = row;
      for (int i = ndim - 2; i >= 0; --i) {
        at += rest % shape[i] * strides[i];
        rest /= shape[i];
      }
      const T* const from = x + row * cols;
      T* const to = y + at;
      if (step == 1)
        std::memcpy(to, from, sizeof(T) * static_cast<size_t>(cols));
      else
        for (int64_t j = 0; j < cols; ++j) to[j * step] = from[j];
    }
  });
}

template <class T>
void gather_sum(const Context& context, const GatherSum<T>& g) {
  const int64_t d = g.d;
  parallel_for(context, g.n, kSumRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      T* const sum = g.out + i * d;
      if (g.base)
        std::copy_n(g.base + (g.base_ids ? g.base_ids[i] : i / g.base_times) * d, d, sum);
      else
        std::fill_n(sum, d, T{0});
      for (int64_t m = 0; m < g.M; ++m) {
        const int64_t row = (m * g.K + g.codes[i * g.codes_ld + m]) * d;
        for (int64_t j = 0; j < d; ++j) {
          const T term = g.tables ? g.tables[row + j] : static_cast<T>(bf16_value(g.rounded_tables[row + j]));
          sum[j] = g.subtract ? sum[j] - term : sum[j] + term;
        }
      }
    }
  });
}

void extend_beams(const Context& context, const BeamPicks& b) {
  const int64_t from = b.n * b.width, to = b.n * b.kept;
  parallel_for(context, to, kPicks, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / b.kept * b.width * b.candidates + b.picks[i];
      b.pairs[i] = static_cast<int32_t>(pair);
      for (int64_t m = 0; m < b.steps; ++m) b.longer[m * to + i] = b.codes[m * from + pair / b.candidates];
      b.longer[b.steps * to + i] = b.tried[pair];
    }
  });
}

}  // namespace

template <class T>
void fill_move(Table<T>& t) {
  t.strided_write = strided_write<T>;
  t.gather_sum = gather_sum<T>;
  t.extend_beams = extend_beams;
}
template void fill_move(Table<float>&);
template void fill_move(Table<double>&);

}  // namespace qinco::kernels::reference
