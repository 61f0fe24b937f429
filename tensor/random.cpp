#include "tensor/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "kernels/parallel.h"
#include "kernels/philox.h"
#include "tensor/dispatch.h"

namespace qinco {

namespace {

namespace philox = kernels::philox;

// fill(table, context, n, to) draws for `out`, on its device; the blocks that n values take are used up.
template <class Fill>
void draw(const char* op, RandomState& state, const Tensor& out, Fill&& fill) {
  const kernels::Context& context = context_of(op, {&out});
  check(out.is_contiguous(), "{}: expected a contiguous tensor", op);
  floating_dtype(op, out.dtype(), [&]<class T>() {
    fill(kernels::table<T>(out.device()), context, out.numel(), out.data<T>());
    state.position += static_cast<uint64_t>(philox::blocks_of<T>(out.numel()));
  });
}

// Box-Muller over the pairs of each block.
template <class T>
void fill_normal(const kernels::Context& context, const RandomState& state, int64_t n, double mean, double stddev,
                 T* to) {
  constexpr int64_t kValues = philox::kValues<T>;
  kernels::parallel_for(context, philox::blocks_of<T>(n), 4096, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      T u[kValues];
      philox::units(philox::block(state, state.position + static_cast<uint64_t>(b)), u);
      const int64_t first = b * kValues, count = std::min(kValues, n - first);
      for (int64_t i = 0; i < count; i += 2) {
        // 1 - u is in (0,1], so its logarithm is finite.
        const double radius = stddev * std::sqrt(-2 * std::log(1 - static_cast<double>(u[i])));
        const double angle = 2 * std::numbers::pi * static_cast<double>(u[i + 1]);
        to[first + i] = static_cast<T>(mean + radius * std::cos(angle));
        if (i + 1 < count) to[first + i + 1] = static_cast<T>(mean + radius * std::sin(angle));
      }
    }
  });
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const auto [word] = philox::encrypt({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return {word[0], word[1], word[2], word[3]};
}

std::array<uint32_t, 4> Random::block(uint64_t index) const {
  const auto [word] = philox::block(state_, index);
  return {word[0], word[1], word[2], word[3]};
}

uint64_t Random::next64() {
  const auto words = block(state_.position++);
  return philox::joined(words[0], words[1]);
}

double Random::uniform() {
  return philox::unit(next64());
}

uint64_t Random::below(uint64_t n) {
  check(n >= 1, "below: expected n >= 1, found 0");
  // 2^64 mod n of the words are one too many for some remainders: those below the threshold are drawn again.
  const uint64_t threshold = (0 - n) % n;
  uint64_t word = next64();
  while (word < threshold) word = next64();
  return word % n;
}

std::vector<int32_t> Random::permutation(int64_t n) {
  check(0 <= n && n < int64_t{1} << 31, "permutation: expected 0 <= n < 2^31, found {}", n);
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[below(i)]);
  return order;
}

void Random::uniform(const Tensor& out, double lo, double hi) {
  draw("uniform", state_, out, [&](const auto& table, const auto& context, int64_t n, auto* to) {
    table.uniform(context, state_, n, lo, hi, to);
  });
}

void Random::dropout_mask(const Tensor& out, double p) {
  check(p >= 0 && p < 1, "dropout: expected 0 <= p < 1, found {}", p);
  draw("dropout", state_, out, [&](const auto& table, const auto& context, int64_t n, auto* to) {
    table.dropout_mask(context, state_, n, p, to);
  });
}

void Random::normal(const Tensor& out, double mean, double stddev) {
  check(out.is_contiguous(), "normal: expected a contiguous tensor");
  if (out.device().type != DeviceType::cpu) {
    const Tensor drawn = Tensor::empty(out.shape(), out.dtype());
    normal(drawn, mean, stddev);
    return out.copy_from(drawn);
  }
  draw("normal", state_, out, [&](const auto&, const auto& context, int64_t n, auto* to) {
    fill_normal(context, state_, n, mean, stddev, to);
  });
}

}  // namespace qinco
