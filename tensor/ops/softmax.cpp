// Softmax and its relatives, over the last dimension.
#include "kernels/kernels.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using kernels::Context;

int64_t row_size(const char* op, const Tensor& x) {
  check(x.dim() >= 1 && x.size(-1) >= 1, "{}: expected a last dimension of at least 1, found shape {}", op, x.shape());
  return x.size(-1);
}

}  // namespace

Tensor softmax(const Tensor& x) {
  const Context& context = context_of("softmax", {&x});
  const int64_t cols = row_size("softmax", x);
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  floating_dtype("softmax", x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device).softmax(context, in.numel() / cols, cols, in.data<T>(), out.data<T>());
  });
  return out;
}

Tensor log_softmax(const Tensor& x) {
  const Context& context = context_of("log_softmax", {&x});
  const int64_t cols = row_size("log_softmax", x);
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  floating_dtype("log_softmax", x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device).log_softmax(context, in.numel() / cols, cols, in.data<T>(), out.data<T>());
  });
  return out;
}

Tensor log_sum_exp(const Tensor& x) {
  const Context& context = context_of("log_sum_exp", {&x});
  const int64_t cols = row_size("log_sum_exp", x);
  const Tensor in = x.contiguous();
  const Tensor out = Tensor::empty(x.shape().sub(0, x.dim() - 1), x.dtype(), x.device());
  floating_dtype("log_sum_exp", x.dtype(), [&]<class T>() {
    kernels::table<T>(context.device).log_sum_exp(context, in.numel() / cols, cols, in.data<T>(), out.data<T>());
  });
  return out;
}

}  // namespace qinco
