// Candidate search of one QINCo step as a pipeline: all K candidates of a group of vectors go through the step network
// by cuBLAS, then a warp per candidate computes its distance and a warp per vector takes the least. The pack is a plain
// copy: z_table, a_table, w_up 2..L, w_down 1..L. Everything is in the arithmetic of T, whatever precision is asked
// for.
#include "kernels/cuda/float_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/families.h"

namespace qinco::kernels::cuda {

namespace {

constexpr int64_t kGroupElements = int64_t{1} << 25;

template <class T>
int64_t candidate_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  return K * (d + h) + (2 * L - 1) * d * h;
}

template <class T>
void candidate_pack(const Context& context, const CandidateStep<T>& s, T* packed) {
  const auto append = [&](const T* values, int64_t n) {
    copy_bytes(context.device, packed, context.device, values, static_cast<size_t>(n) * sizeof(T));
    packed += n;
  };
  append(s.z_table, s.K * s.d);
  append(s.a_table, s.K * s.h);
  for (int64_t l = 1; l < s.L; ++l) append(s.w_up[l], s.h * s.d);
  for (int64_t l = 0; l < s.L; ++l) append(s.w_down[l], s.d * s.h);
}

// out[i,k,:] = act(table[k,:] + rows[i,:]) for n vectors, K candidates of `width` features; act is relu or nothing
template <bool relu, class T>
__global__ void begin_kernel(int64_t n, int64_t K, int64_t width, const T* table, const T* rows, T* out) {
  for (int64_t e = grid_thread(); e < n * K * width; e += grid_threads()) {
    const Place vector = place(e, K * width), feature = place(vector.col, width);
    const T value = table[vector.col] + rows[vector.row * width + feature.col];
    out[e] = relu && value < T(0) ? T(0) : value;
  }
}

// distances[i,k] = ||target[i] - z[i,k]||^2
template <class T>
__global__ void distance_kernel(int64_t n, int64_t K, int64_t d, const T* target, const T* z, T* distances) {
  for (int64_t e = grid_warp(); e < n * K; e += grid_warps()) {
    const T* const x = target + place(e, K).row * d;
    double total = 0;
    for (int64_t j = lane(); j < d; j += kWarp) {
      const double difference = static_cast<double>(x[j]) - static_cast<double>(z[e * d + j]);
      total += difference * difference;
    }
    total = warp_sum(total);
    if (lane() == 0) distances[e] = static_cast<T>(total);
  }
}

// The least finite distance of each row, the lowest candidate among equals.
template <class T>
__global__ void pick_kernel(int64_t n, int64_t K, const T* all, int32_t* codes, T* distances) {
  for (int64_t i = grid_warp(); i < n; i += grid_warps()) {
    Least<T> least;
    for (int64_t k = lane(); k < K; k += kWarp)
      if (all[i * K + k] < kInfinity<T>) least.take(all[i * K + k], static_cast<int32_t>(k));
    least = warp_least(least);
    if (lane() != 0) continue;
    codes[i] = least.found() ? least.id : 0;
    if (distances) distances[i] = least.value;
  }
}

// y [m,n] = act(acc y + x [m,k] w^T), w [n,k]
template <class T>
void product(const Context& context, int64_t m, int64_t n, int64_t k, const T* x, const T* w, bool accumulate,
             bool relu, T* y) {
  Gemm<T> g;
  g.m = m, g.n = n, g.k = k;
  g.a = x, g.lda = k;
  g.b = w, g.ldb = k, g.trans_b = true;
  g.c = y, g.ldc = n;
  g.accumulate = accumulate;
  g.relu = relu;
  table<T>(context.device).gemm(context, g);
}

template <class T>
void candidate_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const T* packed,
                      const CandidateSearch<T>& s) {
  const T* const a_table = packed + K * d;
  const T* const w_up = a_table + K * h;
  const T* const w_down = w_up + (L - 1) * h * d;
  const int64_t per_vector = K * (d + h + 1), most = per_vector < kGroupElements ? kGroupElements / per_vector : 1;
  const int64_t group = s.n < most ? s.n : most;
  ScratchFrame frame(context);
  T* const z = frame.get<T>(group * K * d);
  T* const hidden = frame.get<T>(group * K * h);
  T* const distances = frame.get<T>(group * K);
  for (int64_t first = 0; first < s.n; first += group) {
    const int64_t n = s.n - first < group ? s.n - first : group;
    launch(context, begin_kernel<false, T>, blocks_for(n * K * d), kBlock, 0, n, K, d, packed, s.row + first * d, z);
    launch(context, begin_kernel<true, T>, blocks_for(n * K * h), kBlock, 0, n, K, h, a_table, s.up_row + first * h,
           hidden);
    for (int64_t l = 0; l < L; ++l) {
      if (l > 0) product(context, n * K, h, d, z, w_up + (l - 1) * h * d, false, true, hidden);
      product(context, n * K, d, h, hidden, w_down + l * d * h, true, false, z);
    }
    launch(context, distance_kernel<T>, blocks_for(n * K, kWarps), kBlock, 0, n, K, d, s.target + first * d, z,
           distances);
    launch(context, pick_kernel<T>, blocks_for(n, kWarps), kBlock, 0, n, K, distances, s.codes + first,
           s.distances ? s.distances + first : nullptr);
  }
}

// Float goes to the tensor cores where they take the step.
int64_t float_packed_size(int64_t K, int64_t d, int64_t h, int64_t L) {
  const CandidateLayout fused{K, d, h, L};
  return fused.fused() ? fused.size() : candidate_packed_size<float>(K, d, h, L);
}

void float_pack(const Context& context, const CandidateStep<float>& step, float* packed) {
  (CandidateLayout{step.K, step.d, step.h, step.L}.fused() ? fused_candidate_pack
                                                           : candidate_pack<float>)(context, step, packed);
}

void float_search(const Context& context, int64_t K, int64_t d, int64_t h, int64_t L, const float* packed,
                  const CandidateSearch<float>& s) {
  (CandidateLayout{K, d, h, L}.fused() ? fused_candidate_search : candidate_search<float>)(context, K, d, h, L, packed,
                                                                                           s);
}

}  // namespace

template <>
void fill_candidate(Table<float>& t) {
  t.candidate_packed_size = float_packed_size;
  t.candidate_pack = float_pack;
  t.candidate_search = float_search;
}

template <>
void fill_candidate(Table<double>& t) {
  t.candidate_packed_size = candidate_packed_size<double>;
  t.candidate_pack = candidate_pack<double>;
  t.candidate_search = candidate_search<double>;
}

}  // namespace qinco::kernels::cuda
