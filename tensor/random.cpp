#include "tensor/random.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

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

// True if `value`, rounded to T, is finite.
template <class T>
bool holds(double value) {
  return std::abs(value) <= double{std::numeric_limits<T>::max()};
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
  draw("uniform", state_, out, [&]<class T>(const kernels::Table<T>& table, const auto& context, int64_t n, T* to) {
    check(lo <= hi && holds<T>(lo) && holds<T>(hi) && holds<T>(hi - lo),
          "uniform: expected lo <= hi, both and their difference finite in {}, found lo {} and hi {}",
          name(out.dtype()), lo, hi);
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
  draw("normal", state_, out, [&]<class T>(const kernels::Table<T>& table, const auto& context, int64_t n, T* to) {
    check(holds<T>(mean) && holds<T>(stddev) && stddev >= 0,
          "normal: expected a mean and a stddev >= 0, finite in {}, found {} and {}", name(out.dtype()), mean, stddev);
    table.normal(context, state_, n, mean, stddev, to);
  });
}

}  // namespace qinco
