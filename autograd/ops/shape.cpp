// Views, joins and rows by index.
#include "autograd/node.h"
#include "autograd/ops.h"
#include "tensor/create.h"
#include "tensor/ops.h"

namespace qinco::autograd {

namespace {

std::vector<Tensor> values_of(const std::vector<Variable>& parts) {
  std::vector<Tensor> values;
  values.reserve(parts.size());
  for (const Variable& part : parts) values.push_back(part.value());
  return values;
}

}  // namespace

Variable concat(const std::vector<Variable>& parts, int64_t dim) {
  const std::vector<Tensor> values = values_of(parts);
  const Tensor out = qinco::concat(values, dim);
  const int d = normalise_dim(dim, out.dim(), "concat");
  std::vector<int64_t> sizes;
  sizes.reserve(parts.size());
  for (const Tensor& value : values) sizes.push_back(value.shape()[d]);
  return record("concat", out, parts, [d, sizes](const Tensor& g, InputGradients& into) {
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); at += sizes[i++])
      if (into.needed(i)) into.set(i, g.slice(d, at, at + sizes[i]).contiguous());
  });
}

Variable stack(const std::vector<Variable>& parts, int64_t dim) {
  const Tensor out = qinco::stack(values_of(parts), dim);
  const int d = normalise_dim(dim, out.dim(), "stack");
  return record("stack", out, parts, [d, n = parts.size()](const Tensor& g, InputGradients& into) {
    for (size_t i = 0; i < n; ++i) {
      const auto at = static_cast<int64_t>(i);
      if (into.needed(i)) into.set(i, g.slice(d, at, at + 1).squeeze(d).contiguous());
    }
  });
}

Variable slice(const Variable& x, int64_t dim, int64_t begin, int64_t end) {
  return record("slice", x.value().slice(dim, begin, end), {x},
                [shape = x.shape(), dim, begin, end](const Tensor& g, InputGradients& into) {
                  const Tensor whole = zeros(shape, g.dtype(), g.device());
                  whole.slice(dim, begin, end).copy_from(g);
                  into.set(0, whole);
                });
}

Variable reshape(const Variable& x, const Shape& shape) {
  return record("reshape", x.value().reshape(shape), {x},
                [from = x.shape()](const Tensor& g, InputGradients& into) { into.set(0, g.reshape(from)); });
}

Variable transpose(const Variable& x, int64_t i, int64_t j) {
  return record("transpose", x.value().transpose(i, j), {x},
                [i, j](const Tensor& g, InputGradients& into) { into.set(0, g.transpose(i, j)); });
}

Variable embedding(const Variable& weight, const Tensor& ids) {
  check(weight.value().dim() == 2, "embedding: expected a weight [N,d], found shape {}", weight.shape());
  const Tensor out = gather_rows(weight.value(), ids);
  // A copy: the caller may fill theirs again before backward().
  return record("embedding", out, {weight},
                [list = ids.clone(), shape = weight.shape()](const Tensor& g, InputGradients& into) {
                  const Tensor rows = zeros(shape, g.dtype(), g.device());
                  scatter_add_rows(rows, list, g);
                  into.set(0, rows);
                });
}

}  // namespace qinco::autograd
