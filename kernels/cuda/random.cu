// Random numbers, the CPU's bit for bit (philox.h): one block of Philox per thread, looping over the grid, which is 16
// bytes and one store where y is aligned to that, as whole tensors are. Normal values come from the CPU: this device's
// logarithms and cosines have other last bits.
#include "kernels/cuda/packet.cuh"
#include "kernels/families.h"
#include "kernels/philox.h"

namespace qinco::kernels::cuda {

namespace {

template <class T, class Value>
__global__ void draw_kernel(RandomState state, int64_t n, Value value, T* y) {
  constexpr int kValues = philox::kValues<T>;
  const bool aligned = packs<kValues>(y);
  for (int64_t b = grid_thread(); b * kValues < n; b += grid_threads()) {
    Packet<T, kValues> values;
    philox::units(philox::block(state, state.position + static_cast<uint64_t>(b)), values.at);
    for (int i = 0; i < kValues; ++i) values.at[i] = value(values.at[i]);
    const int64_t count = n - b * kValues;
    if (aligned && count >= kValues)
      store_packet<kValues>(y, b, values);
    else
      for (int i = 0; i < kValues; ++i)
        if (i < count) y[b * kValues + i] = values.at[i];
  }
}

template <class T, class Value>
void draw(const Context& context, const RandomState& state, int64_t n, Value value, T* y) {
  launch(context, draw_kernel<T, Value>, blocks_for(philox::blocks_of<T>(n)), kBlock, 0, state, n, value, y);
}

template <class T>
void uniform(const Context& context, const RandomState& state, int64_t n, double lo, double hi, T* y) {
  draw(context, state, n, philox::Uniform<T>(lo, hi), y);
}

template <class T>
void dropout_mask(const Context& context, const RandomState& state, int64_t n, double p, T* y) {
  draw(context, state, n, philox::DropoutMask<T>(p), y);
}

template <class T>
void normal(const Context& context, const RandomState& state, int64_t n, double mean, double stddev, T* y) {
  constexpr int64_t kPart = int64_t{1} << 18;  // values drawn before they are copied
  const Context& host = Context::of(Device{});
  ScratchFrame frame(host);
  T* const drawn = frame.get<T>(n < kPart ? n : kPart);
  RandomState at = state;
  for (int64_t i = 0; i < n; i += kPart) {
    const int64_t count = n - i < kPart ? n - i : kPart;
    table<T>().normal(host, at, count, mean, stddev, drawn);
    copy_bytes(context.device, y + i, Device{}, drawn, static_cast<size_t>(count) * sizeof(T));
    at.position += static_cast<uint64_t>(philox::blocks_of<T>(count));
  }
}

}  // namespace

template <class T>
void fill_random(Table<T>& t) {
  t.uniform = uniform<T>;
  t.dropout_mask = dropout_mask<T>;
  t.normal = normal<T>;
}
template void fill_random(Table<float>&);
template void fill_random(Table<double>&);

}  // namespace qinco::kernels::cuda
