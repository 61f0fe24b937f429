#include "tensor/random.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "kernels/parallel.h"
#include "tensor/dispatch.h"

namespace qinco {

namespace {

constexpr uint32_t low(uint64_t word) {
  return static_cast<uint32_t>(word);
}
constexpr uint32_t high(uint64_t word) {
  return static_cast<uint32_t>(word >> 32);
}
constexpr uint64_t joined(uint32_t low_word, uint32_t high_word) {
  return (uint64_t{high_word} << 32) | low_word;
}

// Uniform in [0,1) with the bits that T holds exactly: 24 of 32, or 53 of 64.
float unit(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}
double unit(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// The uniform values of one block: four floats or two doubles.
void units(const std::array<uint32_t, 4>& block, float* out) {
  for (size_t i = 0; i < 4; ++i) out[i] = unit(block[i]);
}
void units(const std::array<uint32_t, 4>& block, double* out) {
  for (size_t i = 0; i < 2; ++i) out[i] = unit(joined(block[2 * i], block[2 * i + 1]));
}

// Calls write(values, first, count) with the unit values of each block that `out` needs; returns the blocks used.
template <class T, class Write>
uint64_t fill_by_block(const Random& random, const Tensor& out, Write&& write) {
  constexpr int64_t kPerBlock = 16 / sizeof(T);
  const uint64_t position = random.state().position;
  const int64_t n = out.numel(), blocks = (n + kPerBlock - 1) / kPerBlock;
  kernels::parallel_for(kernels::Context::cpu(), blocks, 4096, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      T values[kPerBlock];
      units(random.block(position + static_cast<uint64_t>(b)), values);
      write(values, b * kPerBlock, std::min(kPerBlock, n - b * kPerBlock));
    }
  });
  return static_cast<uint64_t>(blocks);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0], p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {high(p1) ^ counter[1] ^ key[0], low(p1), high(p0) ^ counter[3] ^ key[1], low(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

std::array<uint32_t, 4> Random::block(uint64_t index) const {
  return philox4x32({low(index), high(index), low(state_.stream), high(state_.stream)},
                    {low(state_.seed), high(state_.seed)});
}

uint64_t Random::next64() {
  const auto words = block(state_.position++);
  return joined(words[0], words[1]);
}

double Random::uniform() {
  return unit(next64());
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
  check(out.is_contiguous(), "uniform: expected a contiguous tensor");
  if (out.device().type != DeviceType::cpu) {
    const Tensor drawn = Tensor::empty(out.shape(), out.dtype());
    uniform(drawn, lo, hi);
    return out.copy_from(drawn);
  }
  floating_dtype("uniform", out.dtype(), [&]<class T>() {
    T* const to = out.data<T>();
    const T base = static_cast<T>(lo), width = static_cast<T>(hi - lo);
    // Rounding of base + width * u may reach hi itself, which the interval excludes.
    const T top = std::max(base, std::nextafter(static_cast<T>(hi), base));
    state_.position += fill_by_block<T>(*this, out, [&](const T* values, int64_t first, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to[first + i] = std::min(base + width * values[i], top);
    });
  });
}

void Random::normal(const Tensor& out, double mean, double stddev) {
  check(out.is_contiguous(), "normal: expected a contiguous tensor");
  if (out.device().type != DeviceType::cpu) {
    const Tensor drawn = Tensor::empty(out.shape(), out.dtype());
    normal(drawn, mean, stddev);
    return out.copy_from(drawn);
  }
  floating_dtype("normal", out.dtype(), [&]<class T>() {
    T* const to = out.data<T>();
    state_.position += fill_by_block<T>(*this, out, [&](const T* values, int64_t first, int64_t count) {
      for (int64_t i = 0; i < count; i += 2) {
        // Box-Muller; 1 - u is in (0,1], so its logarithm is finite.
        const double radius = stddev * std::sqrt(-2 * std::log(1 - static_cast<double>(values[i])));
        const double angle = 2 * std::numbers::pi * static_cast<double>(values[i + 1]);
        to[first + i] = static_cast<T>(mean + radius * std::cos(angle));
        if (i + 1 < count) to[first + i + 1] = static_cast<T>(mean + radius * std::sin(angle));
      }
    });
  });
}

}  // namespace qinco
