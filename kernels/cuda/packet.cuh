// Element-wise kernels in packets: a thread loads and stores as many elements at a time as are 16 bytes of the widest
// type. A stream of loads of 4 bytes a thread does not keep enough of them on their way for the memory of an H200.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace qinco::kernels::cuda {

template <class T, int size>
struct alignas(sizeof(T) * size) Packet {
  T at[size];
};

/// Elements of a packet whose widest elements are Ts.
template <class... Ts>
inline constexpr int kPacket = [] {
  size_t widest = 1;
  ((widest = sizeof(Ts) > widest ? sizeof(Ts) : widest), ...);
  return static_cast<int>(16 / widest);
}();

/// Whether packets of `size` elements can lie at these addresses.
template <int size, class... Ts>
__host__ __device__ bool packs(const Ts*... at) {
  return ((reinterpret_cast<uintptr_t>(at) % (sizeof(Ts) * size) == 0) && ...);
}

template <int size, class T>
__device__ Packet<T, size> load_packet(const T* from, int64_t packet) {
  return reinterpret_cast<const Packet<T, size>*>(from)[packet];
}
template <int size, class T>
__device__ void store_packet(T* to, int64_t packet, const Packet<T, size>& values) {
  reinterpret_cast<Packet<T, size>*>(to)[packet] = values;
}

template <int size, class F, class Out, class... Ins>
__global__ void __launch_bounds__(kBlock) map_kernel(int64_t n, F f, Out* out, const Ins*... in) {
  const auto apply = [&f](const Packet<Ins, size>&... x) {
    Packet<Out, size> y;
#pragma unroll
    for (int i = 0; i < size; ++i) y.at[i] = f(x.at[i]...);
    return y;
  };
  for (int64_t p = grid_thread(); p < n / size; p += grid_threads())
    store_packet<size>(out, p, apply(load_packet<size>(in, p)...));
  if constexpr (size > 1)
    for (int64_t i = n / size * size + grid_thread(); i < n; i += grid_threads()) out[i] = f(in[i]...);
}

/// out[i] = f(in[i]...) for i < n, f a functor of the device's. `out` may be one of `in`.
template <class F, class Out, class... Ins>
void map(const Context& context, int64_t n, F f, Out* out, const Ins*... in) {
  constexpr int kSize = kPacket<Out, Ins...>;
  if (packs<kSize>(out, in...))
    launch(context, map_kernel<kSize, F, Out, Ins...>, blocks_for(n, kSize * kBlock), kBlock, 0, n, f, out, in...);
  else
    launch(context, map_kernel<1, F, Out, Ins...>, blocks_for(n), kBlock, 0, n, f, out, in...);
}

}  // namespace qinco::kernels::cuda
