// Layer normalisation.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/dispatch.h"

namespace qinco::autograd {

Variable layer_norm(const Variable& x, const Variable& gamma, const Variable& beta, double eps) {
  using kernels::Context;
  const Tensor in = x.value().contiguous(), scales = gamma.value().contiguous(), shifts = beta.value().contiguous();
  check(in.dim() >= 1 && scales.shape() == Shape{in.size(-1)} && shifts.shape() == scales.shape(),
        "layer_norm: x {}, gamma {} and beta {}: expected [..,c], [c] and [c]", in.shape(), scales.shape(),
        shifts.shape());
  check(in.dtype() == scales.dtype() && in.dtype() == shifts.dtype(), "layer_norm: dtypes of x, gamma and beta differ");
  check(in.size(-1) > 0, "layer_norm: the last dimension of shape {} is empty", in.shape());
  const int64_t cols = in.size(-1), rows = in.numel() / cols;
  const Context& context = context_of("layer_norm", {&in, &scales, &shifts});
  const Tensor y = Tensor::empty(in.shape(), in.dtype(), in.device());
  const Tensor mean = Tensor::empty({rows}, in.dtype(), in.device()),
               rstd = Tensor::empty({rows}, in.dtype(), in.device());
  floating_dtype("layer_norm", in.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .layer_norm(context, rows, cols, in.data<T>(), scales.data<T>(), shifts.data<T>(), eps, y.data<T>(),
                    mean.data<T>(), rstd.data<T>());
  });
  return record("layer_norm", y, {x, gamma, beta},
                [in, scales, mean, rstd, rows, cols](const Tensor& g, InputGradients& into) {
                  const Tensor dy = g.contiguous(), dx = Tensor::empty(in.shape(), in.dtype(), in.device());
                  const Tensor dgamma = Tensor::empty({cols}, in.dtype(), in.device());
                  const Tensor dbeta = Tensor::empty({cols}, in.dtype(), in.device());
                  const Context& at = Context::of(in.device());
                  floating_dtype("layer_norm", in.dtype(), [&]<class T>() {
                    kernels::table<T>(at.device).layer_norm_backward(at, rows, cols, in.data<T>(), scales.data<T>(),
                                                                     mean.data<T>(), rstd.data<T>(), dy.data<T>(),
                                                                     dx.data<T>(), dgamma.data<T>(), dbeta.data<T>());
                  });
                  into.set(0, dx);
                  into.set(1, dgamma);
                  into.set(2, dbeta);
                });
}

}  // namespace qinco::autograd
