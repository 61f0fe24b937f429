// Matrix products: shapes to GEMM descriptions.
#include <algorithm>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "tensor/create.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using kernels::Context;

thread_local kernels::Precision matmul_precision = kernels::Precision::exact;

/// One operand as GEMM reads it: stored rows of leading dimension ld, perhaps the transpose of what was asked for.
struct Matrix {
  Tensor tensor;
  int64_t ld = 1;
  bool transposed = false;
};

// The last two dimensions of x, of any matrix of a batch; a transposed view is read in place, any other layout is
// copied, of a batch that is one matrix throughout that one.
Matrix as_matrix(const Tensor& x, bool transposed) {
  const int64_t rows = x.size(-2), cols = x.size(-1);
  const int64_t row_step = x.stride(-2), col_step = x.stride(-1);
  if ((col_step == 1 || cols == 1) && (row_step >= cols || rows == 1))
    return {x, rows == 1 ? std::max<int64_t>(cols, 1) : row_step, transposed};
  if ((row_step == 1 || rows == 1) && (col_step >= rows || cols == 1))
    return {x, cols == 1 ? std::max<int64_t>(rows, 1) : col_step, !transposed};
  const bool repeated = x.dim() == 3 && x.size(0) > 1 && x.stride(0) == 0;
  const Tensor copy = repeated ? x.slice(0, 0, 1).contiguous().expand(x.shape()) : x.contiguous();
  return {copy, std::max<int64_t>(cols, 1), transposed};
}

// The leading dimensions as one: x as [batch,rows,cols].
Tensor batched(const Tensor& x) {
  if (x.dim() == 2) return x.unsqueeze(0);
  return x.dim() == 3 ? x : x.reshape({x.shape().sub(0, x.dim() - 2).numel(), x.size(-2), x.size(-1)});
}

// out [m,n], contiguous, = left [m,k] right [k,n], each perhaps the transpose of what is stored.
template <class T>
kernels::Gemm<T> product(int64_t m, int64_t n, int64_t k, const Matrix& left, const Matrix& right, const Tensor& out) {
  kernels::Gemm<T> gemm{.m = m, .n = n, .k = k};
  gemm.a = left.tensor.data<T>();
  gemm.lda = left.ld;
  gemm.trans_a = left.transposed;
  gemm.b = right.tensor.data<T>();
  gemm.ldb = right.ld;
  gemm.trans_b = right.transposed;
  gemm.c = out.data<T>();
  gemm.ldc = n;
  gemm.precision = matmul_precision;
  return gemm;
}

// Products of fewer multiply-adds than kShareWork are shared out whole, at least kTaskWork at once, and not one after
// the other among the threads; unless there are fewer than threads, and they large enough for more than one.
constexpr int64_t kShareWork = int64_t{1} << 22, kTaskWork = int64_t{1} << 18;

// The products of a batch, given the first: the others lie a_step, b_step and m * n elements on. A product has the same
// bits whichever thread computes it, and with however many.
template <class T>
void multiply_batch(const Context& context, int64_t batch, const kernels::Gemm<T>& first, int64_t a_step,
                    int64_t b_step) {
  const auto& table = kernels::table<T>(context.device);
  const double work = static_cast<double>(first.m) * static_cast<double>(first.n) * static_cast<double>(first.k);
  int64_t grain = batch;  // one chunk: this thread goes through the batch, and each product has all threads
  if (work < kTaskWork || (work < kShareWork && batch >= context.threads))
    grain = std::max<int64_t>(1, kTaskWork / std::max<int64_t>(1, static_cast<int64_t>(work)));
  // Contexts of devices other than the CPU have one thread: this one.
  kernels::parallel_for(context, batch, grain, [&](int64_t begin, int64_t end, int) {
    const Context& own = Context::of(context.device);  // that of the thread that runs this
    for (int64_t i = begin; i < end; ++i) {
      kernels::Gemm<T> gemm = first;
      gemm.a += i * a_step;
      gemm.b += i * b_step;
      gemm.c += i * gemm.m * gemm.n;
      table.gemm(own, gemm);
    }
  });
}

}  // namespace

MatmulPrecision::MatmulPrecision(kernels::Precision precision) : outer_(std::exchange(matmul_precision, precision)) {}

MatmulPrecision::~MatmulPrecision() {
  matmul_precision = outer_;
}

Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  const Context& context = context_of("matmul", {&a, &b});
  check(a.dim() >= 2 && a.dim() == b.dim(), "matmul: {} x {}: expected matrices with equal leading dimensions",
        a.shape(), b.shape());
  check(a.dtype() == b.dtype(), "matmul: {} x {}: dtypes {} and {} differ", a.shape(), b.shape(), name(a.dtype()),
        name(b.dtype()));
  const int64_t m = a.size(trans_a ? -1 : -2), k = a.size(trans_a ? -2 : -1);
  const int64_t n = b.size(trans_b ? -2 : -1), inner = b.size(trans_b ? -1 : -2);
  check(k == inner, "matmul: {} x {}: inner sizes {} and {} differ", a.shape(), b.shape(), k, inner);
  Shape shape = a.shape().sub(0, a.dim() - 2);
  check(shape == b.shape().sub(0, b.dim() - 2), "matmul: {} x {}: leading dimensions differ", a.shape(), b.shape());
  shape.push_back(m);
  shape.push_back(n);
  const Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  if (out.numel() == 0) return out;

  floating_dtype("matmul", a.dtype(), [&]<class T>() {
    const Matrix left = as_matrix(batched(a), trans_a), right = as_matrix(batched(b), trans_b);
    const kernels::Gemm<T> first = product<T>(m, n, k, left, right, out);
    multiply_batch(context, left.tensor.size(0), first, left.tensor.stride(0), right.tensor.stride(0));
  });
  return out;
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual, bool relu) {
  const Context& context = context_of("linear", {&x, &w}, {&bias, &residual});
  check(x.dim() >= 1 && w.dim() == 2 && x.size(-1) == w.size(1),
        "linear: x {} and w {}: expected x [..,in], w [out,in]", x.shape(), w.shape());
  check(x.dtype() == w.dtype(), "linear: dtypes of x and w differ: {} and {}", name(x.dtype()), name(w.dtype()));
  const int64_t in = w.size(1), out_size = w.size(0);
  Shape shape = x.shape();
  shape[shape.size() - 1] = out_size;
  if (bias.defined())
    check(bias.shape() == Shape{out_size} && bias.dtype() == w.dtype(), "linear: expected a bias {} [{}], found {} {}",
          name(w.dtype()), out_size, name(bias.dtype()), bias.shape());
  if (residual.defined())
    check(residual.shape() == shape && residual.dtype() == w.dtype(), "linear: expected a residual {} {}, found {} {}",
          name(w.dtype()), shape, name(residual.dtype()), residual.shape());
  const Tensor out = Tensor::empty(shape, x.dtype(), x.device());
  if (out.numel() == 0) return out;

  const int64_t m = out.numel() / out_size;
  const Matrix rows = as_matrix(x.dim() == 2 ? x : x.reshape({m, in}), false), weight = as_matrix(w, true);
  const Tensor b = bias.defined() ? bias.contiguous() : bias, r = residual.defined() ? residual.contiguous() : residual;
  floating_dtype("linear", x.dtype(), [&]<class T>() {
    kernels::Gemm<T> gemm = product<T>(m, out_size, in, rows, weight, out);
    gemm.bias = b.defined() ? b.data<T>() : nullptr;
    gemm.residual = r.defined() ? r.data<T>() : nullptr;
    gemm.ldr = out_size;
    gemm.relu = relu;
    kernels::table<T>(context.device).gemm(context, gemm);
  });
  return out;
}

}  // namespace qinco
