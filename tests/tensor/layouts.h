// The same values in memory of other layouts, for operations that must read any.
#pragma once

#include "tensor/create.h"
#include "tensor/tensor.h"

namespace qinco::tests {

enum class Layout {
  transposed,  // the first and the last dimension are exchanged in memory
  inside,      // rows between others: contiguous, but not at the start of the storage
  padded,      // a gap after each row
  strided      // gaps between the elements
};

constexpr Layout kLayouts[] = {Layout::transposed, Layout::inside, Layout::padded, Layout::strided};

/// A view that holds x's values, in a larger tensor that has one element more, 7, on both sides of dimension `dim`.
inline Tensor within_sevens(const Tensor& x, int dim) {
  Shape shape = x.shape();
  shape[dim] += 2;
  const Tensor part = full(shape, 7, x.dtype()).slice(dim, 1, 1 + x.size(dim));
  part.copy_from(x);
  return part;
}

/// x, on the CPU, in this layout; a scalar is always `strided`.
inline Tensor laid_out(const Tensor& x, Layout layout) {
  if (layout == Layout::strided || x.dim() == 0) return within_sevens(x.unsqueeze(-1), -1).squeeze(-1);
  if (layout == Layout::transposed) return x.transpose(0, -1).clone().transpose(0, -1);
  return within_sevens(x, layout == Layout::inside ? 0 : -1);
}

}  // namespace qinco::tests
