// Layer norm over rows.
#include "kernels/cpu/row_sums.h"
#include "kernels/cpu/simd.h"
#include "kernels/families.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

void layer_norm(const Context& context, int64_t rows, int64_t cols, const float* x, const float* gamma,
                const float* beta, double eps, float* y, float* mean, float* rstd) {
  const double count = static_cast<double>(cols);
  parallel_for(context, rows, row_grain(cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const float* const row = x + i * cols;
      float* const out = y + i * cols;
      const auto add = [&](int64_t j, auto lanes, Vec total) { return total + lanes.get(row + j); };
      mean[i] = static_cast<float>(sum_along(cols, add) / count);
      const Vec center(mean[i]);
      const auto add_square = [&](int64_t j, auto lanes, Vec total) {
        const Vec v = lanes.or_else(lanes.get(row + j) - center, Vec(0.0f));
        return fma(v, v, total);
      };
      rstd[i] = static_cast<float>(1 / __builtin_sqrt(sum_along(cols, add_square) / count + eps));
      const Vec scale(rstd[i]);
      for_lanes(0, cols, [&](int64_t j, auto lanes) {
        lanes.put(out + j, fma((lanes.get(row + j) - center) * scale, lanes.get(gamma + j), lanes.get(beta + j)));
      });
    }
  });
}

// One row of the backward pass, with xn = (x - mean) * rstd and g = dy * gamma:
// dx = rstd * (g - mean_j(g) - xn * mean_j(g * xn)), dgamma += dy * xn, dbeta += dy.
void backward_row(int64_t cols, const float* x, const float* gamma, float mean, float rstd, const float* dy, float* dx,
                  float* dgamma, float* dbeta) {
  const Vec center(mean), scale(rstd);
  const double count = static_cast<double>(cols);
  const auto add_g = [&](int64_t j, auto lanes, Vec total) {
    return fma(lanes.get(dy + j), lanes.get(gamma + j), total);
  };
  const auto add_gx = [&](int64_t j, auto lanes, Vec total) {
    const Vec xn = (lanes.get(x + j) - center) * scale;  // g is 0 in the lanes that are not there
    return fma(lanes.get(dy + j) * lanes.get(gamma + j), xn, total);
  };
  const Vec mean_g(static_cast<float>(sum_along(cols, add_g) / count));
  const Vec mean_gx(static_cast<float>(sum_along(cols, add_gx) / count));
  for_lanes(0, cols, [&](int64_t j, auto lanes) {
    const Vec up = lanes.get(dy + j), xn = (lanes.get(x + j) - center) * scale;
    lanes.put(dx + j, scale * ((up * lanes.get(gamma + j) - mean_g) - xn * mean_gx));
    lanes.put(dgamma + j, fma(up, xn, lanes.get(dgamma + j)));
    lanes.put(dbeta + j, lanes.get(dbeta + j) + up);
  });
}

// dgamma and dbeta are sums over rows: each chunk of rows adds into floats of its own, the chunks are added in double.
void layer_norm_backward(const Context& context, int64_t rows, int64_t cols, const float* x, const float* gamma,
                         const float* mean, const float* rstd, const float* dy, float* dx, float* dgamma,
                         float* dbeta) {
  const int64_t grain = column_grain(rows, cols), chunks = (rows + grain - 1) / grain;
  ScratchFrame frame(context);
  float* const gamma_part = frame.get<float>(chunks * cols);
  float* const beta_part = frame.get<float>(chunks * cols);
  parallel_for(context, rows, grain, [&](int64_t begin, int64_t end, int) {
    float* const g = gamma_part + begin / grain * cols;
    float* const b = beta_part + begin / grain * cols;
    for (int64_t j = 0; j < cols; ++j) g[j] = b[j] = 0;
    for (int64_t i = begin; i < end; ++i)
      backward_row(cols, x + i * cols, gamma, mean[i], rstd[i], dy + i * cols, dx + i * cols, g, b);
  });
  add_partials(context, chunks, cols, gamma_part, dgamma);
  add_partials(context, chunks, cols, beta_part, dbeta);
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_norm(Table<float>& t) {
  t.layer_norm = layer_norm;
  t.layer_norm_backward = layer_norm_backward;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
