// Nearest codeword: products of a group of vectors with the codebook by cuBLAS, then a warp per vector finds the least
// ||c||^2 - 2<x,c> and computes its distance again from the differences, without the cancellation of the expanded form.
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kGroupProducts = int64_t{1} << 25;

// Only finite scores count: a NaN or an infinity among the operands is never nearest.
template <class T>
__global__ void pick_kernel(int64_t n, int64_t d, int64_t K, const T* x, const T* c, const T* products, const T* norms,
                            int32_t* ids, T* distances) {
  for (int64_t i = grid_warp(); i < n; i += grid_warps()) {
    Least<T> least;
    for (int64_t k = lane(); k < K; k += kWarp) {
      const T score = norms[k] - T(2) * products[i * K + k];
      if (score < kInfinity<T> && score > -kInfinity<T>) least.take(score, static_cast<int32_t>(k));
    }
    least = warp_least(least);
    double distance = 0;
    if (least.found() && distances) {
      for (int64_t j = lane(); j < d; j += kWarp) {
        const double difference = static_cast<double>(x[i * d + j]) - static_cast<double>(c[least.id * d + j]);
        distance += difference * difference;
      }
      distance = warp_sum(distance);
    }
    if (lane() != 0) continue;
    ids[i] = least.found() ? least.id : 0;
    if (distances) distances[i] = least.found() ? static_cast<T>(distance) : kInfinity<T>;
  }
}

template <class T>
void nearest(const Context& context, int64_t n, int64_t d, int64_t K, const T* x, const T* c, int32_t* ids,
             T* distances) {
  const int64_t most = K < kGroupProducts ? kGroupProducts / K : 1, group = n < most ? n : most;
  ScratchFrame frame(context);
  T* const norms = frame.get<T>(K);
  T* const products = frame.get<T>(group * K);
  table<T>(context.device).row_squared_norm(context, K, d, c, norms);
  for (int64_t begin = 0; begin < n; begin += group) {
    const int64_t count = n - begin < group ? n - begin : group;
    Gemm<T> g;
    g.m = count, g.n = K, g.k = d;
    g.a = x + begin * d, g.lda = d;
    g.b = c, g.ldb = d, g.trans_b = true;
    g.c = products, g.ldc = K;
    table<T>(context.device).gemm(context, g);
    launch(context, pick_kernel<T>, blocks_for(count, kWarps), kBlock, 0, count, d, K, x + begin * d, c, products,
           norms, ids + begin, distances ? distances + begin : nullptr);
  }
}

}  // namespace

template <>
void fill_nearest(Table<float>& t) {
  t.nearest = tiled_nearest;
}

template <>
void fill_nearest(Table<double>& t) {
  t.nearest = nearest<double>;
}

}  // namespace qinco::kernels::cuda
