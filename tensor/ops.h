// Operations on tensors, without gradients: checked, broadcast, then handed to the kernels of the active ISA.
//
// f32 and f64 unless said; results are new contiguous tensors on the operands' device, which must be one;
// non-contiguous arguments are copied where the kernel needs it. Errors name the operation and the shapes: "matmul:
// [3,4] x [5,6]: inner sizes 4 and 5 differ". Operands are defined unless said.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "tensor/create.h"
#include "tensor/operators.h"
#include "tensor/tensor.h"

namespace qinco {

// Element-wise: neg relu gelu tanh sigmoid exp log sqrt square abs silu, add sub mul div maximum minimum. gelu is the
// exact one, x Phi(x); silu is x sigmoid(x); of maximum and minimum, NaN is the result where either operand is.
#define QINCO_DECLARE_UNARY(op) Tensor op(const Tensor& x);
QINCO_UNARY_OPS(QINCO_DECLARE_UNARY)
#undef QINCO_DECLARE_UNARY
#define QINCO_DECLARE_BINARY(op) Tensor op(const Tensor& a, const Tensor& b);
QINCO_BINARY_OPS(QINCO_DECLARE_BINARY)
#undef QINCO_DECLARE_BINARY

// The same as operators; a number counts as a tensor of shape [] and of the other operand's dtype.
QINCO_OPERATORS(QINCO_DEFINE_OPERATOR, Tensor)
QINCO_DEFINE_WITH_NUMBERS(Tensor, maximum, maximum)
QINCO_DEFINE_WITH_NUMBERS(Tensor, minimum, minimum)
inline Tensor operator-(const Tensor& x) {
  return neg(x);
}

/// minimum(maximum(x, lo), hi)
Tensor clamp(const Tensor& x, double lo, double hi);
/// The op chosen by value.
Tensor unary(kernels::UnaryOp op, const Tensor& x);
Tensor binary(kernels::BinaryOp op, const Tensor& a, const Tensor& b);
/// dy * op'(x), given y = op(x), of one shape and dtype; an operand that the derivative does not read
/// (kernels/functors.h) may be undefined.
Tensor unary_backward(kernels::UnaryOp op, const Tensor& x, const Tensor& y, const Tensor& dy);
/// y = alpha*x + beta*y in place; y contiguous, same shape.
void axpby(double alpha, const Tensor& x, double beta, const Tensor& y);
/// alpha * x
Tensor scale(const Tensor& x, double alpha);

/// op(a) op(b) with a [m,k], b [k,n] (stored transposed with trans_a, trans_b); or the same for each of equal leading
/// dimensions [..,m,k] x [..,k,n]. Transposed views are read in place.
Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a = false, bool trans_b = false);
/// act(x w^T + bias + residual): x [..,in], w [out,in], bias [out] or undefined, residual [..,out] or undefined.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Tensor& residual = {},
              bool relu = false);
/// While it lives, matmul and linear of this thread are of this precision (kernels::Precision, Gemm); else of `exact`.
class MatmulPrecision {
 public:
  explicit MatmulPrecision(kernels::Precision precision);
  ~MatmulPrecision();
  MatmulPrecision(const MatmulPrecision&) = delete;
  MatmulPrecision& operator=(const MatmulPrecision&) = delete;

 private:
  kernels::Precision outer_;
};

/// Sum or mean of all elements: shape [].
Tensor sum(const Tensor& x);
Tensor mean(const Tensor& x);
/// Sum or mean over one dimension, which is removed, or kept with size 1.
Tensor sum(const Tensor& x, int64_t dim, bool keepdim = false);
Tensor mean(const Tensor& x, int64_t dim, bool keepdim = false);
/// Sums the dimensions that broadcasting `shape` to x.shape() repeated: the transpose of expand().
Tensor sum_to(const Tensor& x, const Shape& shape);
/// sum (a-b)^2 over all elements, accumulated in double; equal shapes.
double sum_squared_difference(const Tensor& a, const Tensor& b);
/// weight * sum (a-b)^2 as a tensor of shape []. On the CPU it is accumulated in double; on other devices in the dtype,
/// and nothing waits for it.
Tensor squared_error(const Tensor& a, const Tensor& b, double weight);
/// ||x_i||^2 of each row of x [n,d]: [n].
Tensor row_squared_norms(const Tensor& x);
/// Index (i32) of the smallest, or largest, element of each row of x [n,d], the lowest index among equals: [n]. A NaN
/// is passed over; a row of them only gives 0.
Tensor argmin_rows(const Tensor& x);
Tensor argmax_rows(const Tensor& x);

// Over the last dimension.
Tensor softmax(const Tensor& x);
Tensor log_softmax(const Tensor& x);
/// log sum exp; the last dimension is removed.
Tensor log_sum_exp(const Tensor& x);

/// Joined along `dim`; the other sizes and the dtypes (any) must agree. At least one tensor.
Tensor concat(const std::vector<Tensor>& parts, int64_t dim);
/// Of one shape, joined along a new dimension `dim` of size parts.size().
Tensor stack(const std::vector<Tensor>& parts, int64_t dim);
/// table[ids]: table [N, rest..] of any dtype, ids i32 of any shape: [ids.shape.., rest..]. Error for an id outside
/// 0..N-1, if the ids come from the CPU. On the table's device, if that is another, they are not looked at: it would
/// mean to wait for them.
Tensor gather_rows(const Tensor& table, const Tensor& ids);
/// out[ids[i]] += x[i]: out [N, rest..] contiguous, x [ids.shape.., rest..]. Same bits at any thread count. Ids are
/// checked as by gather_rows.
void scatter_add_rows(const Tensor& out, const Tensor& ids, const Tensor& x);

}  // namespace qinco
