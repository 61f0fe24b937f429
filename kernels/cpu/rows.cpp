// Row gather, also of sums of several rows, and scatter-add.
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kPrefetchRows = 8;  // rows ahead: ids are random, so the hardware cannot guess them

void gather_rows(const Context& context, int64_t n, int64_t d, const float* x, const int32_t* ids, float* out) {
  parallel_for(context, n, row_grain(d), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kPrefetchRows < end) __builtin_prefetch(x + ids[i + kPrefetchRows] * d);
      const float* const from = x + ids[i] * d;
      float* const to = out + i * d;
      for_lanes(0, d, [&](int64_t j, auto lanes) { lanes.put(to + j, lanes.get(from + j)); });
    }
  });
}

// Where a sum takes its rows from, those of tables as elements of T.
template <class T>
struct SumRows {
  const GatherSum<float>& g;
  const T* tables;

  const float* base(int64_t i) const { return g.base + (g.base_ids ? g.base_ids[i] : i / g.base_times) * g.d; }
  const T* table(int64_t i, int64_t m) const { return tables + (m * g.K + g.codes[i * g.codes_ld + m]) * g.d; }
};

template <class T>
void prefetch_row(const T* row, int64_t d) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t j = 0; j < d; j += kLine) __builtin_prefetch(row + j);
}

// Row i of the sum, in `lanes` at a time; `count` of them from j on in registers.
template <bool subtract, int count, class T, class Lanes>
QINCO_INLINE void sum_columns(const SumRows<T>& rows, int64_t i, int64_t j, Lanes lanes) {
  const GatherSum<float>& g = rows.g;
  Vec sum[count];
#pragma GCC unroll 8
  for (int v = 0; v < count; ++v) sum[v] = g.base ? lanes.get(rows.base(i) + j + v * kLanes) : Vec(0.0f);
  for (int64_t m = 0; m < g.M; ++m) {
    const T* const row = rows.table(i, m) + j;
#pragma GCC unroll 8
    for (int v = 0; v < count; ++v) {
      const Vec x = lanes.get(row + v * kLanes);
      sum[v] = subtract ? sum[v] - x : sum[v] + x;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < count; ++v) lanes.put(g.out + i * g.d + j + v * kLanes, sum[v]);
}

template <bool subtract, class T>
void sum_rows_of(const Context& context, const SumRows<T>& rows) {
  constexpr int kTogether = 8;
  constexpr int64_t kCached = 1 << 20;  // bytes: rows of larger tables, read in no order, are fetched a sum ahead
  const GatherSum<float>& g = rows.g;
  const bool far = g.M * g.K * g.d > kCached / static_cast<int64_t>(sizeof(T));
  parallel_for(context, g.n, row_grain(g.d * (g.M + 1)), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      if (far && i + 1 < end) {
        if (g.base) prefetch_row(rows.base(i + 1), g.d);
        for (int64_t m = 0; m < g.M; ++m) prefetch_row(rows.table(i + 1, m), g.d);
      }
      int64_t j = 0;
      for (; j + kTogether * kLanes <= g.d; j += kTogether * kLanes)
        sum_columns<subtract, kTogether>(rows, i, j, Whole{});
      for_lanes(j, g.d, [&](int64_t at, auto lanes) { sum_columns<subtract, 1>(rows, i, at, lanes); });
    }
  });
}

void gather_sum(const Context& context, const GatherSum<float>& g) {
  const auto sum = [&](const auto& rows) {
    g.subtract ? sum_rows_of<true>(context, rows) : sum_rows_of<false>(context, rows);
  };
  g.tables ? sum(SumRows<float>{g, g.tables}) : sum(SumRows<uint16_t>{g, g.rounded_tables});
}

// Code of its own: of two NaN, the sum is the first, and where it is inlined the compiler may exchange the two.
[[gnu::noinline]] void add_row(int64_t d, const float* x, float* out) {
  for_lanes(0, d, [&](int64_t j, auto lanes) { lanes.put(out + j, lanes.get(out + j) + lanes.get(x + j)); });
}

// The indices 0..n-1 ordered by bucket (id >> shift), in their own order within a bucket: counting sort.
// starts [buckets+1] receives where each bucket begins in `order`.
void sort_by_bucket(int64_t n, const int32_t* ids, int shift, int64_t buckets, int64_t* starts, int64_t* order) {
  for (int64_t b = 0; b <= buckets; ++b) starts[b] = 0;
  for (int64_t i = 0; i < n; ++i) ++starts[(ids[i] >> shift) + 1];
  for (int64_t b = 0; b < buckets; ++b) starts[b + 1] += starts[b];
  for (int64_t i = 0; i < n; ++i) order[starts[ids[i] >> shift]++] = i;
  for (int64_t b = buckets; b > 0; --b) starts[b] = starts[b - 1];
  starts[0] = 0;
}

// One owner per row: rows are put into buckets of 2^shift neighbours (at most about n buckets, however long the table),
// and a bucket's additions are made in the order of i. So each row sees the additions of the plain loop, in its order.
void scatter_add_rows(const Context& context, int64_t n, int64_t d, int64_t rows, const int32_t* ids, const float* x,
                      float* out) {
  if (context.threads == 1 || n * d <= kElementGrain) {
    for (int64_t i = 0; i < n; ++i) add_row(d, x + i * d, out + ids[i] * d);
    return;
  }
  int shift = 0;
  while ((rows >> shift) > n) ++shift;
  const int64_t buckets = ((rows - 1) >> shift) + 1;
  ScratchFrame frame(context);
  int64_t* const starts = frame.get<int64_t>(buckets + 1);
  int64_t* const order = frame.get<int64_t>(n);
  sort_by_bucket(n, ids, shift, buckets, starts, order);
  parallel_for(context, buckets, row_grain(n / buckets * d), [&](int64_t begin, int64_t end, int) {
    for (int64_t p = starts[begin]; p < starts[end]; ++p) {
      const int64_t i = order[p];
      add_row(d, x + i * d, out + ids[i] * d);
    }
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_rows(Table<float>& t) {
  t.gather_rows = gather_rows;
  t.gather_sum = gather_sum;
  t.scatter_add_rows = scatter_add_rows;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
