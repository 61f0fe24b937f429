// Which candidates of a beam search are compared, where a cheaper screen has seen them all: those that may be among the
// nearest by the margin of kernels/candidate_margin.h, so that the result is as if all were. On the CPU alone.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/candidate_margin.h"
#include "qinco/codec/beams.h"

namespace qinco {

namespace {

using kernels::Context;
using kernels::Precision;
using kernels::ScratchFrame;
using kernels::UnaryOp;

// The screen's results for the candidates of a vector, and what those compared have come to.
struct Pool {
  int64_t size, d;
  const float *screened, *margins, *distances;
  const int32_t* places;  // -1 for those not compared

  // Whether candidate j, which has been compared, was off by more than is likely. NaN says nothing about the screen's
  // other distances.
  bool doubtful(int64_t j) const {
    const float root = std::sqrt(screened[j]);
    const float likely = kernels::margin::shown(d) * margins[j] + kernels::margin::kSumError * root;
    return !std::isnan(root) && !(std::abs(root - std::sqrt(distances[j])) <= likely);
  }
  bool doubted() const {
    for (int64_t j = 0; j < size; ++j)
      if (places[j] >= 0 && doubtful(j)) return true;
    return false;
  }

  // Whether candidate j may be nearer than `ceiling`; so may all, if that or what the screen says is NaN.
  bool possible(int64_t j, float ceiling) const {
    const float root = std::sqrt(screened[j]);
    return !(ceiling < root - margins[j] - kernels::margin::kSumError * root);
  }
};

// The root of the largest of the distances [n]; NaN if one is not finite.
float farthest(int64_t n, const float* distances) {
  float most = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(distances[i])) return std::nanf("");
    most = std::max(most, distances[i]);
  }
  return std::sqrt(most);
}

}  // namespace

// First the `kept` nearest of each vector by the screen; then those that may come nearer than the farthest of these;
// then all, where the screen was off by more than is likely. `fast` ends with the first, if they are finite.
void Codec::compare_screened(const Context& context, int64_t m, int64_t kept, const Beams& beams,
                             const Tried& tried) const {
  const Step& step = steps_[static_cast<size_t>(m - 1)];
  const int64_t n = beams.n, d = config_.d, pool = beams.width * beam_.candidates, pairs = n * pool;
  ScratchFrame frame(context);
  float* const target = frame.get<float>(beams.rows() * d);
  float* const screened = frame.get<float>(pairs);
  float* const margins = frame.get<float>(pairs);
  float* const found = frame.get<float>(pairs);
  float* const ceilings = frame.get<float>(n);
  int32_t* const open = frame.get<int32_t>(pairs);
  kernels_->unary(context, UnaryOp::neg, beams.rows() * d, beams.errors, target);
  kernels_->candidate_screen(context, config_.K, d, config_.h, config_.L, step.screen.data<float>(),
                             {beams.rows(), beam_.candidates, tried.ids, step.z_table.data<float>(),
                              step.a_table.data<float>(), target, tried.r, tried.u, screened, margins});
  std::fill_n(tried.distances, pairs, std::numeric_limits<float>::infinity());
  std::fill_n(tried.places, pairs, -1);

  kernels_->topk(context, n, pool, kept, screened, open, nullptr);
  int64_t compared = 0, count = n * kept;
  for (int64_t i = 0; i < count; ++i) open[i] += static_cast<int32_t>(i / kept * pool);
  while (count > 0) {
    compare(context, m, beams, tried, count, open, tried.moved + compared * d, found);
    for (int64_t i = 0; i < count; ++i) {
      tried.distances[open[i]] = found[i];
      tried.places[open[i]] = static_cast<int32_t>(compared + i);
    }
    for (int64_t i = 0; compared == 0 && i < n; ++i) ceilings[i] = farthest(kept, found + i * kept);
    compared += count;
    count = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (precision_ == Precision::fast && !std::isnan(ceilings[i])) continue;
      const int64_t first = i * pool;
      const Pool all{pool, d, screened + first, margins + first, tried.distances + first, tried.places + first};
      const float ceiling = all.doubted() ? std::nanf("") : ceilings[i];
      for (int64_t j = 0; j < pool; ++j)
        if (all.places[j] < 0 && all.possible(j, ceiling)) open[count++] = static_cast<int32_t>(first + j);
    }
  }
}

}  // namespace qinco
