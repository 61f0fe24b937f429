// Element-wise operations: the functors of functors.h in the arithmetic of T. All of them stream.
#include "kernels/cuda/packet.cuh"
#include "kernels/families.h"
#include "kernels/functors.h"

namespace qinco::kernels::cuda {

namespace {

// What packet.cuh maps.
template <class F>
struct Forward {
  template <class... T>
  __device__ auto operator()(T... x) const {
    return F::forward(x...);
  }
};
template <class F>
struct BackwardOfX {
  template <class T>
  __device__ T operator()(T dy, T x) const {
    return F::backward(x, T(0), dy);
  }
};
template <class F>
struct BackwardOfY {
  template <class T>
  __device__ T operator()(T dy, T y) const {
    return F::backward(T(0), y, dy);
  }
};
template <class F>
struct BackwardOfNone {
  template <class T>
  __device__ T operator()(T dy) const {
    return F::backward(T(0), T(0), dy);
  }
};
template <class T>
struct Axpby {
  T alpha, beta;
  __device__ T operator()(T x, T y) const { return std::fma(beta, y, alpha * x); }
};
template <class T>
struct Scale {
  T alpha;
  __device__ T operator()(T x) const { return alpha * x; }
};
template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

template <class T>
void unary(const Context& context, UnaryOp op, int64_t n, const T* x, T* y) {
  functors::visit_unary(op, [&](auto f) { map(context, n, Forward<decltype(f)>{}, y, x); });
}

template <class T>
void unary_backward(const Context& context, UnaryOp op, int64_t n, const T* x, const T* y, const T* dy, T* dx) {
  functors::visit_unary(op, [&](auto f) {
    using F = decltype(f);
    static_assert(!(F::kReadsX && F::kReadsY));
    if constexpr (F::kReadsX)
      map(context, n, BackwardOfX<F>{}, dx, dy, x);
    else if constexpr (F::kReadsY)
      map(context, n, BackwardOfY<F>{}, dx, dy, y);
    else
      map(context, n, BackwardOfNone<F>{}, dx, dy);
  });
}

// The packet at `at` of an operand, whose column counts packets: its elements, or the one that all columns have.
template <int size, class T>
__device__ Packet<T, size> columns_of(const Operand<T>& a, const Place& at) {
  if constexpr (size > 1) {
    const T* const row = a.data + at.row * a.row_stride;
    if (a.col_stride == 1) return load_packet<size>(row, at.col);
    Packet<T, size> same;
#pragma unroll
    for (int i = 0; i < size; ++i) same.at[i] = row[0];
    return same;
  } else {
    return {{a.data[at.row * a.row_stride + at.col * a.col_stride]}};
  }
}

template <int size, class F, class T>
__global__ void __launch_bounds__(kBlock)
    binary_kernel(int64_t rows, int64_t packets, Operand<T> a, Operand<T> b, T* out) {
  for (int64_t p = grid_thread(); p < rows * packets; p += grid_threads()) {
    const Place at = place(p, packets);
    const Packet<T, size> x = columns_of<size>(a, at), y = columns_of<size>(b, at);
    Packet<T, size> result;
#pragma unroll
    for (int i = 0; i < size; ++i) result.at[i] = F::forward(x.at[i], y.at[i]);
    store_packet<size>(out, p, result);
  }
}

// Whether an operand's rows are packets of `size` elements, or one element for all columns.
template <int size, class T>
bool has_packets(const Operand<T>& a) {
  return a.col_stride == 0 || (a.col_stride == 1 && a.row_stride % size == 0 && packs<size>(a.data));
}

template <class T>
void binary(const Context& context, BinaryOp op, int64_t rows, int64_t cols, Operand<T> a, Operand<T> b, T* out) {
  constexpr int kSize = kPacket<T>;
  const auto whole = [&](const Operand<T>& x) { return x.col_stride == 1 && (rows == 1 || x.row_stride == cols); };
  if (whole(a) && whole(b)) {  // then the rows need not be of whole packets
    functors::visit_binary(op, [&](auto f) { map(context, rows * cols, Forward<decltype(f)>{}, out, a.data, b.data); });
    return;
  }
  const bool packets = cols % kSize == 0 && packs<kSize>(out) && has_packets<kSize>(a) && has_packets<kSize>(b);
  functors::visit_binary(op, [&](auto f) {
    if (packets)
      launch(context, binary_kernel<kSize, decltype(f), T>, blocks_for(rows * cols, kSize * kBlock), kBlock, 0, rows,
             cols / kSize, a, b, out);
    else
      launch(context, binary_kernel<1, decltype(f), T>, blocks_for(rows * cols), kBlock, 0, rows, cols, a, b, out);
  });
}

template <class T>
void axpby(const Context& context, int64_t n, T alpha, const T* x, T beta, T* y) {
  if (beta == T(0))
    map(context, n, Scale<T>{alpha}, y, x);
  else
    map(context, n, Axpby<T>{alpha, beta}, y, x, static_cast<const T*>(y));
}

template <class T>
void fill(const Context& context, int64_t n, T value, T* y) {
  map(context, n, Constant<T>{value}, y);
}

}  // namespace

template <class T>
void fill_elementwise(Table<T>& t) {
  t.unary = unary<T>;
  t.unary_backward = unary_backward<T>;
  t.binary = binary<T>;
  t.axpby = axpby<T>;
  t.fill = fill<T>;
}
template void fill_elementwise(Table<float>&);
template void fill_elementwise(Table<double>&);

}  // namespace qinco::kernels::cuda
