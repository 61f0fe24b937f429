// Random numbers: the definition.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/families.h"
#include "kernels/parallel.h"
#include "kernels/philox.h"

namespace qinco::kernels::reference {

namespace {

template <class T, class Value>
void draw(const Context& context, const RandomState& state, int64_t n, Value value, T* y) {
  constexpr int64_t kValues = philox::kValues<T>, kGrain = kElementGrain / kValues;
  parallel_for(context, philox::blocks_of<T>(n), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      T u[kValues];
      philox::units(philox::block(state, state.position + static_cast<uint64_t>(b)), u);
      const int64_t first = b * kValues, count = std::min(kValues, n - first);
      for (int64_t i = 0; i < count; ++i) y[first + i] = value(u[i]);
    }
  });
}

template <class T>
void uniform(const Context& context, const RandomState& state, int64_t n, double lo, double hi, T* y) {
  draw(context, state, n, philox::Uniform<T>(lo, hi), y);
}

template <class T>
void dropout_mask(const Context& context, const RandomState& state, int64_t n, double p, T* y) {
  draw(context, state, n, philox::DropoutMask<T>(p), y);
}

// Box-Muller over the pairs of each block.
template <class T>
void normal(const Context& context, const RandomState& state, int64_t n, double mean, double stddev, T* y) {
  constexpr int64_t kValues = philox::kValues<T>;
  parallel_for(context, philox::blocks_of<T>(n), kElementGrain / kValues, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      T u[kValues];
      philox::units(philox::block(state, state.position + static_cast<uint64_t>(b)), u);
      const int64_t first = b * kValues, count = std::min(kValues, n - first);
      for (int64_t i = 0; i < count; i += 2) {
        // 1 - u is in (0,1], so its logarithm is finite.
        const double radius = stddev * std::sqrt(-2 * std::log(1 - static_cast<double>(u[i])));
        const double angle = 2 * std::numbers::pi * static_cast<double>(u[i + 1]);
        y[first + i] = static_cast<T>(mean + radius * std::cos(angle));
        if (i + 1 < count) y[first + i + 1] = static_cast<T>(mean + radius * std::sin(angle));
      }
    }
  });
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

}  // namespace qinco::kernels::reference
