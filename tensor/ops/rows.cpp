// Rows by index, and joining tensors.
#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"
#include "tensor/dispatch.h"
#include "tensor/ops.h"

namespace qinco {

namespace {

using kernels::Context;

// The ids as one contiguous list on the table's device; if they come from the CPU, every one of them is a row.
Tensor checked_ids(const char* op, const Tensor& ids, int64_t rows, Device device) {
  check(ids.defined(), "{}: the ids are undefined", op);
  check(ids.dtype() == DType::i32, "{}: expected ids i32, found {}", op, name(ids.dtype()));
  const Tensor list = ids.contiguous();
  if (list.device().type != DeviceType::cpu) {
    check(list.device() == device, "{}: ids on {}, rows on {}", op, list.device(), device);
    return list;
  }
  const int32_t* const data = list.data<int32_t>();
  const auto* const bad = std::find_if(data, data + list.numel(), [rows](int32_t id) { return id < 0 || id >= rows; });
  check(bad == data + list.numel(), "{}: id {} at position {}, expected 0..{}", op, *bad, bad - data, rows - 1);
  return list.to(device);
}

// [ids.shape.., rest..]
Shape gathered_shape(const Tensor& table, const Tensor& ids) {
  Shape shape = ids.shape();
  for (int i = 1; i < table.dim(); ++i) shape.push_back(table.shape()[i]);
  return shape;
}

int64_t row_size(const Tensor& table) {
  return table.shape().sub(1, table.dim()).numel();
}

}  // namespace

Tensor gather_rows(const Tensor& table, const Tensor& ids) {
  const Context& context = context_of("gather_rows", {&table});
  check(table.dim() >= 1, "gather_rows: the table is a scalar");
  const Tensor list = checked_ids("gather_rows", ids, table.size(0), table.device());
  const Tensor in = table.contiguous();
  const Tensor out = Tensor::empty(gathered_shape(table, ids), table.dtype(), table.device());
  if (!is_floating(table.dtype())) {
    check(context.device.type == DeviceType::cpu, "gather_rows: expected f32 or f64 on {}, found {}", context.device,
          name(table.dtype()));
    const auto bytes = static_cast<size_t>(row_size(in)) * size_of(in.dtype());
    const int32_t* const data = list.data<int32_t>();
    for (int64_t i = 0; i < list.numel(); ++i)
      std::memcpy(out.bytes() + static_cast<size_t>(i) * bytes, in.bytes() + static_cast<size_t>(data[i]) * bytes,
                  bytes);
    return out;
  }
  floating_dtype("gather_rows", table.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .gather_rows(context, list.numel(), row_size(in), in.data<T>(), list.data<int32_t>(), out.data<T>());
  });
  return out;
}

void scatter_add_rows(const Tensor& out, const Tensor& ids, const Tensor& x) {
  const Context& context = context_of("scatter_add_rows", {&out, &x});
  check(out.dim() >= 1 && out.is_contiguous(), "scatter_add_rows: expected a contiguous result with rows");
  check(x.shape() == gathered_shape(out, ids) && x.dtype() == out.dtype(),
        "scatter_add_rows: expected x {} {}, found {} {}", name(out.dtype()), gathered_shape(out, ids), name(x.dtype()),
        x.shape());
  const Tensor list = checked_ids("scatter_add_rows", ids, out.size(0), out.device());
  const Tensor in = x.contiguous();
  floating_dtype("scatter_add_rows", out.dtype(), [&]<class T>() {
    kernels::table<T>(context.device)
        .scatter_add_rows(context, list.numel(), row_size(out), out.size(0), list.data<int32_t>(), in.data<T>(),
                          out.data<T>());
  });
}

Tensor concat(const std::vector<Tensor>& parts, int64_t dim) {
  check(!parts.empty(), "concat: no tensors");
  for (const Tensor& part : parts) context_of("concat", {&parts[0], &part});
  const int d = normalise_dim(dim, parts[0].dim(), "concat");
  Shape shape = parts[0].shape();
  for (size_t i = 1; i < parts.size(); ++i) {
    Shape other = parts[i].shape();
    check(other.size() == shape.size(), "concat: {} and {} differ in dimensions", parts[0].shape(), other);
    check(parts[i].dtype() == parts[0].dtype(), "concat: dtypes {} and {} differ", name(parts[0].dtype()),
          name(parts[i].dtype()));
    const int64_t joined = checked_add(shape[d], other[d], "concat");
    other[d] = shape[d];
    check(other == shape, "concat: {} and {} differ outside dimension {}", parts[0].shape(), parts[i].shape(), d);
    shape[d] = joined;
  }
  const Tensor out = Tensor::empty(shape, parts[0].dtype(), parts[0].device());
  int64_t at = 0;
  for (const Tensor& part : parts) {
    out.slice(d, at, at + part.shape()[d]).copy_from(part);
    at += part.shape()[d];
  }
  return out;
}

Tensor stack(const std::vector<Tensor>& parts, int64_t dim) {
  check(!parts.empty(), "stack: no tensors");
  context_of("stack", {&parts[0]});
  const int d = normalise_dim(dim, parts[0].dim() + 1, "stack");
  std::vector<Tensor> layers;
  layers.reserve(parts.size());
  for (const Tensor& part : parts) {
    context_of("stack", {&parts[0], &part});
    check(part.shape() == parts[0].shape() && part.dtype() == parts[0].dtype(), "stack: {} {} and {} {} differ",
          name(parts[0].dtype()), parts[0].shape(), name(part.dtype()), part.shape());
    layers.push_back(part.unsqueeze(d));
  }
  return concat(layers, d);
}

}  // namespace qinco
