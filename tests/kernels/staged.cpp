#include "tests/kernels/staged.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "tests/kernels/stage.h"

namespace qinco::kernels::tests {

namespace {

Device device_in_use;

const Table<float>& kernels_of_device() {
  return table<float>(device_in_use);
}

// Kernels whose arguments are sizes, one matrix in and values per row or element out.
using RowsToValues = void (*)(const Context&, int64_t, int64_t, const float*, float*);

template <RowsToValues Table<float>::*kernel, bool whole, bool columns = false>
void rows_kernel(const Context&, int64_t rows, int64_t cols, const float* x, float* out) {
  Stage s(device_in_use);
  const float* const from = s.in(x, rows * cols);
  (kernels_of_device().*kernel)(s.context(), rows, cols, from,
                                s.both(out, whole     ? rows * cols
                                            : columns ? cols
                                                      : rows));
}

void row_squared_distance(const Context&, int64_t rows, int64_t cols, const float* x, const float* y, float* out) {
  Stage s(device_in_use);
  const float *const from = s.in(x, rows * cols), *const origin = s.in(y, cols);
  kernels_of_device().row_squared_distance(s.context(), rows, cols, from, origin, s.both(out, rows));
}

using SoftmaxBackward = void (*)(const Context&, int64_t, int64_t, const float*, const float*, float*);

template <SoftmaxBackward Table<float>::*kernel>
void softmax_backward(const Context&, int64_t rows, int64_t cols, const float* y, const float* dy, float* dx) {
  Stage s(device_in_use);
  const int64_t n = rows * cols;
  const float *const ys = s.in(y, n), *const gradient = s.in(dy, n);
  (kernels_of_device().*kernel)(s.context(), rows, cols, ys, gradient, s.both(dx, n));
}

void gemm(const Context&, const Gemm<float>& host) {
  Stage s(device_in_use);
  Gemm<float> g = host;
  g.c = s.both(host.c, Stage::extent(g.m, g.n, g.ldc));
  g.a = g.trans_a ? s.matrix(host.a, g.k, g.m, g.lda) : s.matrix(host.a, g.m, g.k, g.lda);
  g.b = g.trans_b ? s.matrix(host.b, g.n, g.k, g.ldb) : s.matrix(host.b, g.k, g.n, g.ldb);
  g.bias = s.in(host.bias, g.n);
  g.residual = s.matrix(host.residual, g.m, g.n, g.ldr);
  kernels_of_device().gemm(s.context(), g);
}

int64_t linear_packed_size(int64_t n, int64_t k, Precision precision) {
  return kernels_of_device().linear_packed_size(n, k, precision);
}

void linear_pack(const Context&, int64_t n, int64_t k, const float* w, int64_t ldw, Precision precision,
                 float* packed) {
  Stage s(device_in_use);
  const float* const weights = s.matrix(w, n, k, ldw);
  float* const out = s.both(packed, linear_packed_size(n, k, precision));
  kernels_of_device().linear_pack(s.context(), n, k, weights, ldw, precision, out);
}

void linear(const Context&, const Linear<float>& host) {
  Stage s(device_in_use);
  Linear<float> l = host;
  l.y = s.both(host.y, Stage::extent(l.m, l.n, l.ldy));
  l.x = s.matrix(host.x, l.m, l.k, l.ldx);
  l.packed = s.in(host.packed, linear_packed_size(l.n, l.k, l.precision));
  l.residual = s.matrix(host.residual, l.m, l.n, l.ldr);
  kernels_of_device().linear(s.context(), l);
}

void unary(const Context&, UnaryOp op, int64_t n, const float* x, float* y) {
  Stage s(device_in_use);
  const float* const from = s.in(x, n);
  kernels_of_device().unary(s.context(), op, n, from, s.both(y, n));
}

void unary_backward(const Context&, UnaryOp op, int64_t n, const float* x, const float* y, const float* dy, float* dx) {
  Stage s(device_in_use);
  const float *const xs = s.in(x, n), *const ys = s.in(y, n), *const gradient = s.in(dy, n);
  kernels_of_device().unary_backward(s.context(), op, n, xs, ys, gradient, s.both(dx, n));
}

void binary(const Context&, BinaryOp op, int64_t rows, int64_t cols, Operand<float> a, Operand<float> b, float* out) {
  Stage s(device_in_use);
  const auto stage = [&](Operand<float>& o) {
    const bool empty = rows == 0 || cols == 0;
    o.data = s.in(o.data, empty ? 0 : (rows - 1) * o.row_stride + (cols - 1) * o.col_stride + 1);
  };
  stage(a);
  stage(b);
  kernels_of_device().binary(s.context(), op, rows, cols, a, b, s.both(out, rows * cols));
}

void axpby(const Context&, int64_t n, float alpha, const float* x, float beta, float* y) {
  Stage s(device_in_use);
  const float* const from = s.in(x, n);
  kernels_of_device().axpby(s.context(), n, alpha, from, beta, s.both(y, n));
}

void fill(const Context&, int64_t n, float value, float* y) {
  Stage s(device_in_use);
  kernels_of_device().fill(s.context(), n, value, s.both(y, n));
}

void uniform(const Context&, const RandomState& state, int64_t n, double lo, double hi, float* y) {
  Stage s(device_in_use);
  kernels_of_device().uniform(s.context(), state, n, lo, hi, s.both(y, n));
}

void dropout_mask(const Context&, const RandomState& state, int64_t n, double p, float* y) {
  Stage s(device_in_use);
  kernels_of_device().dropout_mask(s.context(), state, n, p, s.both(y, n));
}

void normal(const Context&, const RandomState& state, int64_t n, double mean, double stddev, float* y) {
  Stage s(device_in_use);
  kernels_of_device().normal(s.context(), state, n, mean, stddev, s.both(y, n));
}

using ToHalf = void (*)(const Context&, int64_t, const float*, uint16_t*);

template <ToHalf Table<float>::*kernel>
void to_half(const Context&, int64_t n, const float* x, uint16_t* y) {
  Stage s(device_in_use);
  const float* const from = s.in(x, n);
  (kernels_of_device().*kernel)(s.context(), n, from, s.both(y, n));
}

using FromHalf = void (*)(const Context&, int64_t, const uint16_t*, float*);

template <FromHalf Table<float>::*kernel>
void from_half(const Context&, int64_t n, const uint16_t* x, float* y) {
  Stage s(device_in_use);
  const uint16_t* const from = s.in(x, n);
  (kernels_of_device().*kernel)(s.context(), n, from, s.both(y, n));
}

void strided_copy(const Context&, int ndim, const int64_t* shape, const int64_t* strides, const float* x, float* y) {
  Stage s(device_in_use);
  int64_t n = 1, reach = 1;
  for (int i = 0; i < ndim; ++i) {
    n *= shape[i];
    reach += std::max<int64_t>(shape[i] - 1, 0) * strides[i];
  }
  const float* const from = s.in(x, n == 0 ? 0 : reach);
  kernels_of_device().strided_copy(s.context(), ndim, shape, strides, from, s.both(y, n));
}

double sum(const Context&, int64_t n, const float* x) {
  Stage s(device_in_use);
  return kernels_of_device().sum(s.context(), n, s.in(x, n));
}

double sum_squared_difference(const Context&, int64_t n, const float* a, const float* b) {
  Stage s(device_in_use);
  const float *const left = s.in(a, n), *const right = s.in(b, n);
  return kernels_of_device().sum_squared_difference(s.context(), n, left, right);
}

void row_argmin(const Context&, int64_t rows, int64_t cols, const float* x, int32_t* ids) {
  Stage s(device_in_use);
  const float* const from = s.in(x, rows * cols);
  kernels_of_device().row_argmin(s.context(), rows, cols, from, s.both(ids, rows));
}

void strided_write(const Context&, int ndim, const int64_t* shape, const int64_t* strides, const float* x, float* y) {
  Stage s(device_in_use);
  int64_t n = 1, reach = 1;
  for (int i = 0; i < ndim; ++i) {
    n *= shape[i];
    reach += std::max<int64_t>(shape[i] - 1, 0) * strides[i];
  }
  const float* const from = s.in(x, n);
  kernels_of_device().strided_write(s.context(), ndim, shape, strides, from, s.both(y, n == 0 ? 0 : reach));
}

void gather_sum(const Context&, const GatherSum<float>& g) {
  Stage s(device_in_use);
  GatherSum<float> there = g;
  const int64_t rows = g.n == 0     ? 0
                       : g.base_ids ? *std::max_element(g.base_ids, g.base_ids + g.n) + 1
                                    : (g.n - 1) / g.base_times + 1;
  there.tables = s.in(g.tables, g.M * g.K * g.d);
  there.rounded_tables = s.in(g.rounded_tables, g.M * g.K * g.d);
  there.codes = s.in(g.codes, Stage::extent(g.n, g.M, g.codes_ld));
  there.base = s.in(g.base, rows * g.d);
  there.base_ids = s.in(g.base_ids, g.n);
  there.out = s.both(g.out, g.n * g.d);
  kernels_of_device().gather_sum(s.context(), there);
}

void extend_beams(const Context&, const BeamPicks& b) {
  Stage s(device_in_use);
  BeamPicks there = b;
  there.codes = s.in(b.codes, b.steps * b.n * b.width), there.tried = s.in(b.tried, b.n * b.width * b.candidates);
  there.picks = s.in(b.picks, b.n * b.kept), there.pairs = s.both(b.pairs, b.n * b.kept);
  there.longer = s.both(b.longer, (b.steps + 1) * b.n * b.kept);
  kernels_of_device().extend_beams(s.context(), there);
}

void gather_rows(const Context&, int64_t n, int64_t d, const float* x, const int32_t* ids, float* out) {
  Stage s(device_in_use);
  const int64_t rows = n == 0 ? 0 : *std::max_element(ids, ids + n) + 1;
  const float* const from = s.in(x, rows * d);
  const int32_t* const index = s.in(ids, n);
  kernels_of_device().gather_rows(s.context(), n, d, from, index, s.both(out, n * d));
}

void scatter_add_rows(const Context&, int64_t n, int64_t d, int64_t rows, const int32_t* ids, const float* x,
                      float* out) {
  Stage s(device_in_use);
  const float* const from = s.in(x, n * d);
  const int32_t* const index = s.in(ids, n);
  kernels_of_device().scatter_add_rows(s.context(), n, d, rows, index, from, s.both(out, rows * d));
}

void layer_norm(const Context&, int64_t rows, int64_t cols, const float* x, const float* gamma, const float* beta,
                double eps, float* y, float* mean, float* rstd) {
  Stage s(device_in_use);
  const float *const xs = s.in(x, rows * cols), *const g = s.in(gamma, cols), *const b = s.in(beta, cols);
  float *const out = s.both(y, rows * cols), *const means = s.both(mean, rows), *const scales = s.both(rstd, rows);
  kernels_of_device().layer_norm(s.context(), rows, cols, xs, g, b, eps, out, means, scales);
}

void layer_norm_backward(const Context&, int64_t rows, int64_t cols, const float* x, const float* gamma,
                         const float* mean, const float* rstd, const float* dy, float* dx, float* dgamma,
                         float* dbeta) {
  Stage s(device_in_use);
  const float *const xs = s.in(x, rows * cols), *const gradient = s.in(dy, rows * cols), *const g = s.in(gamma, cols);
  const float *const means = s.in(mean, rows), *const scales = s.in(rstd, rows);
  float *const out = s.both(dx, rows * cols), *const dg = s.both(dgamma, cols), *const db = s.both(dbeta, cols);
  kernels_of_device().layer_norm_backward(s.context(), rows, cols, xs, g, means, scales, gradient, out, dg, db);
}

void adam(const Context&, const AdamStep& step, int64_t count, const AdamParameter<float>* parameters) {
  Stage s(device_in_use);
  std::vector<AdamParameter<float>> all(parameters, parameters + count);
  for (AdamParameter<float>& of : all) {
    of.g = s.in(of.g, of.n);
    of.p = s.both(of.p, of.n), of.m = s.both(of.m, of.n), of.v = s.both(of.v, of.n);
  }
  kernels_of_device().adam(s.context(), step, count, all.data());
}

void sgd(const Context&, const SgdStep& step, int64_t n, float* p, const float* g, float* buf) {
  Stage s(device_in_use);
  const float* const gradient = s.in(g, n);
  float *const ps = s.both(p, n), *const velocity = s.both(buf, n);
  kernels_of_device().sgd(s.context(), step, n, ps, gradient, velocity);
}

void nearest(const Context&, int64_t n, int64_t d, int64_t K, const float* x, const float* c, int32_t* ids,
             float* distances) {
  Stage s(device_in_use);
  const float *const xs = s.in(x, n * d), *const codebook = s.in(c, K * d);
  int32_t* const found = s.both(ids, n);
  kernels_of_device().nearest(s.context(), n, d, K, xs, codebook, found, s.both(distances, n));
}

int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return kernels_of_device().candidate_packed_size(K, d, h, L);
}

void candidate_pack(const Context&, const CandidateStep<float>& host, float* packed) {
  Stage s(device_in_use);
  CandidateStep<float> step = host;
  std::vector<const float*> up, down;
  for (int64_t l = 0; l < host.L; ++l) {
    up.push_back(s.in(host.w_up[l], host.h * host.d));
    down.push_back(s.in(host.w_down[l], host.d * host.h));
  }
  step.z_table = s.in(host.z_table, host.K * host.d);
  step.a_table = s.in(host.a_table, host.K * host.h);
  step.w_up = up.data();
  step.w_down = down.data();
  kernels_of_device().candidate_pack(s.context(), step,
                                     s.both(packed, candidate_packed_size(host.K, host.d, host.h, host.L)));
}

void candidate_search(const Context&, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                      const CandidateSearch<float>& host) {
  Stage s(device_in_use);
  CandidateSearch<float> search = host;
  search.target = s.in(host.target, host.n * d);
  search.row = s.in(host.row, host.n * d);
  search.up_row = s.in(host.up_row, host.n * h);
  search.codes = s.both(host.codes, host.n);
  search.distances = s.both(host.distances, host.n);
  const float* const step = s.in(packed, candidate_packed_size(K, d, h, L));
  kernels_of_device().candidate_search(s.context(), K, d, h, L, step, search);
}

void topk(const Context&, int64_t rows, int64_t cols, int64_t k, const float* x, int32_t* ids, float* values) {
  Stage s(device_in_use);
  const float* const from = s.in(x, rows * cols);
  int32_t* const found = s.both(ids, rows * k);
  kernels_of_device().topk(s.context(), rows, cols, k, from, found, s.both(values, rows * k));
}

void topk_merge(const Context&, int64_t rows, int64_t cols, int64_t k, int64_t held, const float* x, int32_t first_id,
                int32_t* ids, float* values) {
  Stage s(device_in_use);
  const float* const from = s.in(x, rows * cols);
  int32_t* const found = s.both(ids, rows * k);
  kernels_of_device().topk_merge(s.context(), rows, cols, k, held, from, first_id, found, s.both(values, rows * k));
}

void scan(const Context&, const Scan<float>& host) {
  Stage s(device_in_use);
  Scan<float> all = host;
  std::vector<ScanQuery<float>> queries(host.queries, host.queries + host.nq);
  std::deque<std::vector<ScanList<float>>> lists;
  for (ScanQuery<float>& query : queries) {
    lists.emplace_back(query.list, query.list + query.lists);
    for (ScanList<float>& list : lists.back()) {
      list.codes = s.in(list.codes, (list.n + kScanBlock - 1) / kScanBlock * host.M * kScanBlock);
      list.norms = s.in(list.norms, list.n);
    }
    query.tables = s.in(query.tables, host.M * 256);
    query.list = lists.back().data();
  }
  all.queries = queries.data();
  all.ids = s.both(host.ids, host.nq * host.k);
  all.scores = s.both(host.scores, host.nq * host.k);
  kernels_of_device().scan(s.context(), all);
}

Table<float> make_table() {
  Table<float> t;
#define QINCO_STAGED(kernel) t.kernel = kernel;
#define QINCO_STAGED_ROWS(kernel, ...) t.kernel = rows_kernel<&Table<float>::kernel, __VA_ARGS__>;
  QINCO_STAGED(gemm)
  QINCO_STAGED(linear_packed_size)
  QINCO_STAGED(linear_pack)
  QINCO_STAGED(linear)
  QINCO_STAGED(unary)
  QINCO_STAGED(unary_backward)
  QINCO_STAGED(binary)
  QINCO_STAGED(axpby)
  QINCO_STAGED(fill)
  QINCO_STAGED(uniform)
  QINCO_STAGED(dropout_mask)
  QINCO_STAGED(normal)
  QINCO_STAGED(strided_copy)
  QINCO_STAGED(strided_write)
  QINCO_STAGED(gather_sum)
  QINCO_STAGED(extend_beams)
  t.to_f16 = to_half<&Table<float>::to_f16>;
  t.from_f16 = from_half<&Table<float>::from_f16>;
  t.to_bf16 = to_half<&Table<float>::to_bf16>;
  t.from_bf16 = from_half<&Table<float>::from_bf16>;
  QINCO_STAGED(sum)
  QINCO_STAGED(sum_squared_difference)
  QINCO_STAGED_ROWS(row_sum, false)
  QINCO_STAGED_ROWS(column_sum, false, true)
  QINCO_STAGED_ROWS(row_squared_norm, false)
  QINCO_STAGED(row_squared_distance)
  QINCO_STAGED(row_argmin)
  QINCO_STAGED(gather_rows)
  QINCO_STAGED(scatter_add_rows)
  QINCO_STAGED_ROWS(log_sum_exp, false)
  QINCO_STAGED_ROWS(softmax, true)
  QINCO_STAGED_ROWS(log_softmax, true)
  t.softmax_backward = softmax_backward<&Table<float>::softmax_backward>;
  t.log_softmax_backward = softmax_backward<&Table<float>::log_softmax_backward>;
  QINCO_STAGED(layer_norm)
  QINCO_STAGED(layer_norm_backward)
  QINCO_STAGED(adam)
  QINCO_STAGED(sgd)
  QINCO_STAGED(nearest)
  QINCO_STAGED(candidate_packed_size)
  QINCO_STAGED(candidate_pack)
  QINCO_STAGED(candidate_search)
  QINCO_STAGED(topk)
  QINCO_STAGED(topk_merge)
  QINCO_STAGED(scan)
#undef QINCO_STAGED
#undef QINCO_STAGED_ROWS
  return t;
}

}  // namespace

const Table<float>& staged_table(Device device) {
  static const Table<float> staged = make_table();
  device_in_use = device;
  return staged;
}

}  // namespace qinco::kernels::tests
