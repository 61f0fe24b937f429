// Every kernel's signature, declared once.
//
// Kernels take pointers, sizes and a Context. They never allocate (scratch comes from the Context), never throw and
// never see a tensor; callers check shapes first. Matrices are row-major; `[n,d]` with leading dimension `ld` means
// element (i,j) at i*ld+j, and where no `ld` is named rows are contiguous. Sizes may be 0. Outputs do not overlap
// inputs unless a comment says "in place".
//
// Results are the same bits at any thread count: work is cut into chunks that depend on the sizes alone, or that do not
// show in the results.
//
// On a CUDA device pointers are to its memory, and what holds them is the host's: the structs below, the arrays of
// pointers in CandidateStep, the arrays of ScanQuery and ScanList, `shape` and `strides`. Kernels are queued on the
// context's stream and may return before they have run, but what is the host's they have read by then. Those that
// return a number wait for it. The same device and build give the same bits. A launch that fails throws Error.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "kernels/dispatch.h"

namespace qinco::kernels {

/// What a kernel may round. Gemm: `exact` is the arithmetic of T, or on CUDA, of float, three products of TF32 parts
/// for one, within (k+3) 2^-24 |A||B| like it for |a|, |b| below 2^127; where T is float, `fast` lets CUDA round A and
/// B to TF32, 10 bits of fraction, and AMX to bfloat16, 7 bits (the sums stay float); it changes nothing elsewhere.
/// Linear: `fast` lets the CPU round the rows of x and W to 16-bit integers, scaled by their lengths, where that is
/// quicker than float; rows shorter than 1e-28 may then count as zeros, and those longer than the largest float as NaN.
/// The error of <x,w> is then, besides float's own, about 2^-16 |x||w| in root mean square, and at most 1.01 sqrt(k)
/// 2^-15 |x||w| for k up to 2^20. CandidateSearch: `exact` may have a coarse screen first, but every candidate that its
/// rounding may have put wrong, by a margin measured on the step and watched on the data, is computed again as by an
/// exact `linear`; `fast` lets the screen decide, which errs most on vectors unlike the step's own candidates.
enum class Precision : uint8_t { exact, fast };
/// "exact" or "fast".
inline const char* name(Precision precision) {
  return precision == Precision::fast ? "fast" : "exact";
}

/// C = act(acc * C + op(A) op(B) + bias + residual): acc is 1 with `accumulate`, else 0; act is relu or nothing.
template <class T>
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;  // op(A) [m,k]: stored [m,k], or [k,m] if trans_a
  int64_t lda = 0;
  bool trans_a = false;
  const T* b = nullptr;  // op(B) [k,n]: stored [k,n], or [n,k] if trans_b
  int64_t ldb = 0;
  bool trans_b = false;
  T* c = nullptr;  // [m,n]
  int64_t ldc = 0;
  bool accumulate = false;
  const T* bias = nullptr;      // [n], added to every row, or null
  const T* residual = nullptr;  // [m,n] with leading dimension ldr (0: one row for all), added, or null; may be c
  int64_t ldr = 0;
  bool relu = false;
  Precision precision = Precision::exact;
};

/// y = act(acc * y + x W^T + residual), with W [n,k] packed by linear_pack: acc is 1 with `accumulate`, else 0; act is
/// relu or nothing.
template <class T>
struct Linear {
  int64_t m = 0, n = 0, k = 0;
  const T* x = nullptr;  // [m,k]
  int64_t ldx = 0;
  const T* packed = nullptr;
  T* y = nullptr;  // [m,n]
  int64_t ldy = 0;
  bool accumulate = false;
  const T* residual = nullptr;  // [m,n] with leading dimension ldr (0: one row for all), added, or null; may be y
  int64_t ldr = 0;
  bool relu = false;
  Precision precision = Precision::exact;  // that of the pack
};

/// out[i] = base[i] + tables[0,codes[i,0]] + .. + tables[M-1,codes[i,M-1]], in that order, or minus all of them with
/// `subtract`.
template <class T>
struct GatherSum {
  int64_t n = 0, M = 0, K = 0, d = 0;
  const T* tables = nullptr;  // [M,K,d]; or null, and then in bfloat16:
  const uint16_t* rounded_tables = nullptr;
  const int32_t* codes = nullptr;  // [n,M] with leading dimension codes_ld, in [0,K) (the caller checks)
  int64_t codes_ld = 0;
  const T* base = nullptr;            // rows of d, or null: 0
  const int32_t* base_ids = nullptr;  // [n] the rows of base, or null: 0, 1, 2, ..., each `base_times` times
  int64_t base_times = 1;             // >= 1
  bool subtract = false;
  T* out = nullptr;  // [n,d]
};

/// What a beam search goes on with: of n vectors with `width` codes under way each, of which each was tried with
/// `candidates` codewords more, the picks. Pick p of a vector is its code p / candidates with codeword p % candidates.
struct BeamPicks {
  int64_t n = 0, width = 0, candidates = 0, kept = 0, steps = 0;
  const int32_t* codes = nullptr;  // [steps,n*width]
  const int32_t* tried = nullptr;  // [n*width,candidates]
  const int32_t* picks = nullptr;  // [n,kept], in [0,width*candidates) (the caller checks)
  int32_t* pairs = nullptr;        // [n*kept]  where in `tried` a pick is
  int32_t* longer = nullptr;       // [steps+1,n*kept]  its code, and the codeword
};

// The element-wise families. An op is its functor in functors.h and its row here.
#define QINCO_UNARY_OPS(X) X(neg) X(relu) X(gelu) X(tanh) X(sigmoid) X(exp) X(log) X(sqrt) X(square) X(abs) X(silu)
#define QINCO_BINARY_OPS(X) X(add) X(sub) X(mul) X(div) X(maximum) X(minimum)

#define QINCO_ENUM_ITEM(name) name,
enum class UnaryOp : uint8_t { QINCO_UNARY_OPS(QINCO_ENUM_ITEM) };
enum class BinaryOp : uint8_t { QINCO_BINARY_OPS(QINCO_ENUM_ITEM) };
#undef QINCO_ENUM_ITEM

/// A broadcast operand of a [rows,cols] element-wise kernel: element (i,j) is at data[i*row_stride + j*col_stride].
/// col_stride is 0 or 1; row_stride is any value >= 0 (0 repeats one row, as a bias does).
template <class T>
struct Operand {
  const T* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 1;
};

/// A place in a stream of random numbers: block `position` of four words, which is Philox4x32-10 (philox.h) of the
/// counter (position, stream) with the key `seed`; the blocks that follow have the positions that follow.
struct RandomState {
  uint64_t seed = 0, stream = 0, position = 0;
  bool operator==(const RandomState&) const = default;
};

/// Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019) with bias correction for step number `step` >= 1.
struct AdamStep {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW: p -= lr * weight_decay * p, apart from the moments
  int64_t step = 1;
};

/// One of the parameters of an Adam step, updated in place with its moments.
template <class T>
struct AdamParameter {
  int64_t n = 0;
  T* p = nullptr;        // [n]
  const T* g = nullptr;  // [n] the gradient
  T* m = nullptr;        // [n]
  T* v = nullptr;        // [n]
};

/// SGD with momentum and L2 weight decay, PyTorch's formulation: g += wd*p; buf = mom*buf + g, of a buf that starts at
/// 0; p -= lr * (nesterov ? g + mom*buf : buf).
struct SgdStep {
  double lr = 1e-2, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};

/// One QINCo step with its linear parts folded into tables (design: docs/candidate_search.md). With r = W_x xhat [d]
/// and u = W_up,1 r [h], candidate k of a vector is
///     z = z_table[k] + r;   z += W_down,1 relu(a_table[k] + u);   z += W_down,l relu(W_up,l z),  l = 2..L.
template <class T>
struct CandidateStep {
  int64_t K = 0, d = 0, h = 0, L = 0;  // K, d, h, L >= 1
  const T* z_table = nullptr;          // [K,d]  c + W_c c + b
  const T* a_table = nullptr;          // [K,h]  W_up,1 (c + W_c c + b)
  const T* const* w_up = nullptr;      // L pointers (the host's) to [h,d]
  const T* const* w_down = nullptr;    // L pointers (the host's) to [d,h]
  /// What the pack is for. One for `fast` lacks the margin of `exact`, which takes time to measure: where it is
  /// searched with `exact` all the same, the screen rules nothing out.
  Precision precision = Precision::exact;
};

/// The per-vector inputs and outputs of the candidate search over one packed step.
template <class T>
struct CandidateSearch {
  int64_t n = 0;
  const T* target = nullptr;  // [n,d]  x - xhat
  const T* row = nullptr;     // [n,d]  r = W_x xhat
  const T* up_row = nullptr;  // [n,h]  u = W_up,1 r
  int32_t* codes = nullptr;   // [n]    argmin_k ||target - z_k||^2, lowest k among equals; 0 if all are NaN
  T* distances = nullptr;     // [n]    that distance, or null
  Precision precision = Precision::exact;
};

/// Some candidates of each row of one step, to be screened. z = z_k as in CandidateStep.
template <class T>
struct CandidateScreen {
  int64_t n = 0, candidates = 0;
  const int32_t* ids = nullptr;  // [n,candidates]  in [0,K) (the caller checks)
  const T* z_table = nullptr;    // [K,d]  those of the packed step
  const T* a_table = nullptr;    // [K,h]
  const T* target = nullptr;     // [n,d]
  const T* row = nullptr;        // [n,d]
  const T* up_row = nullptr;     // [n,h]
  T* distances = nullptr;        // [n,candidates]  ||target - z||^2, about
  T* margins = nullptr;          // [n,candidates]  by how much the z behind it may be off (candidate_margin.h)
};

/// Vectors whose codes lie together in a ScanList, and entries of a look-up table, one for each value of a code.
inline constexpr int64_t kScanBlock = 32, kScanEntries = 256;

/// Where code m of vector i lies in a ScanList's codes, of M codes a vector.
inline constexpr int64_t scan_place(int64_t i, int64_t m, int64_t M) {
  return (i / kScanBlock * M + m) * kScanBlock + i % kScanBlock;
}

/// Coded vectors that a scan passes over: of each block of 32, the first codes of all, then the second ones, ...
template <class T>
struct ScanList {
  int64_t n = 0;
  const uint8_t* codes = nullptr;  // [ceil(n/32),M,32]; beyond n: any
  const T* norms = nullptr;        // [n], added to the scores, or null
  T bias = 0;                      // added to all scores
  int64_t first = 0;               // id of the first vector; the others follow; ids are in 0..2^32-2
};

/// One query of a scan.
template <class T>
struct ScanQuery {
  const T* tables = nullptr;  // [M,256]
  int64_t lists = 0;
  const ScanList<T>* list = nullptr;  // [lists], the host's; no id is in two of them
};

/// A scan by look-up tables: the score of a vector is bias + norm + sum_m tables[m][code_m].
template <class T>
struct Scan {
  int64_t nq = 0, M = 0, k = 0;
  const ScanQuery<T>* queries = nullptr;  // [nq], the host's
  int64_t* ids = nullptr;                 // [nq,k] the k smallest scores of all lists, ascending, the lowest id first
                                          // among equals; -1 where there are fewer. NaN is never among them
  T* scores = nullptr;                    // [nq,k], +infinity beside -1
};

// X(kernel) for every entry of the table, for tests and benches that must cover all.
// clang-format off
#define QINCO_KERNELS(X) \
  X(gemm) \
  X(linear_packed_size) X(linear_pack) X(linear) \
  X(unary) X(unary_backward) X(binary) X(axpby) X(fill) \
  X(uniform) X(dropout_mask) X(normal) \
  X(strided_copy) \
  X(strided_write) X(gather_sum) X(extend_beams) \
  X(to_f16) X(from_f16) X(to_bf16) X(from_bf16) \
  X(sum) X(sum_squared_difference) X(row_sum) X(column_sum) X(row_squared_norm) \
  X(row_squared_distance) X(row_argmin) \
  X(gather_rows) X(scatter_add_rows) \
  X(log_sum_exp) X(softmax) X(log_softmax) X(softmax_backward) X(log_softmax_backward) \
  X(layer_norm) X(layer_norm_backward) \
  X(adam) X(sgd) \
  X(nearest) \
  X(candidate_packed_size) X(candidate_pack) X(candidate_search) \
  X(candidate_screen_size) X(candidate_screen_pack) X(candidate_screen) \
  X(topk) X(topk_merge) \
  X(scan)
// clang-format on

/// The functions of one (device, ISA).
template <class T>
struct Table {
  // --- gemm
  void (*gemm)(const Context&, const Gemm<T>&) = nullptr;

  // --- linear: a product whose weights are packed once and used often; a pack is for this table and precision only.
  /// Number of T that linear_pack writes for W [n,k].
  int64_t (*linear_packed_size)(int64_t n, int64_t k, Precision) = nullptr;
  /// W [n,k] has leading dimension ldw; packed is aligned to 64 bytes.
  void (*linear_pack)(const Context&, int64_t n, int64_t k, const T* w, int64_t ldw, Precision, T* packed) = nullptr;
  /// A row of y does not depend on the other rows (but for its rounding in double on CUDA). Exact: float arithmetic, or
  /// that of three products of parts of the operands: TF32 on CUDA, within (2^-21 + (k+3) 2^-24) |x| |W|^T of the exact
  /// product for what is below 2^127, and bfloat16 on AMX, within (2^-15 + (k+3) 2^-24) |x| |W|^T for what is above
  /// 2^-110.
  void (*linear)(const Context&, const Linear<T>&) = nullptr;

  // --- elementwise
  /// y[i] = op(x[i]), i < n; in place allowed.
  void (*unary)(const Context&, UnaryOp, int64_t n, const T* x, T* y) = nullptr;
  /// dx[i] = dy[i] * op'(x[i]), given y = op(x); an op reads only what its derivative needs of x and y (functors.h says
  /// which, the other may be null); dx may be dy.
  void (*unary_backward)(const Context&, UnaryOp, int64_t n, const T* x, const T* y, const T* dy, T* dx) = nullptr;
  /// out [rows,cols] = op(a, b) with broadcasting by strides; out may be a.data or b.data where that is not broadcast.
  void (*binary)(const Context&, BinaryOp, int64_t rows, int64_t cols, Operand<T> a, Operand<T> b, T* out) = nullptr;
  /// y[i] = alpha*x[i] + beta*y[i]; y is not read when beta is 0.
  void (*axpby)(const Context&, int64_t n, T alpha, const T* x, T beta, T* y) = nullptr;
  void (*fill)(const Context&, int64_t n, T value, T* y) = nullptr;

  // --- random: u_i in [0,1), i < n, are the values of 24 bits (double: 53) in the blocks from `state` on, four (two)
  // in each. The same bits on every device.
  /// y[i] = lo + (hi-lo) u_i, of which the product and the sum are rounded to T, and at most the largest T below hi.
  void (*uniform)(const Context&, const RandomState& state, int64_t n, double lo, double hi, T* y) = nullptr;
  /// y[i] = 0 where u_i < p, else 1/(1-p); p in [0,1).
  void (*dropout_mask)(const Context&, const RandomState& state, int64_t n, double p, T* y) = nullptr;
  /// y[i] = mean + r cos(a) and y[i+1] = mean + r sin(a), i even, of the radius r = stddev sqrt(-2 log(1 - u_i)) and
  /// the angle a = 2 pi u_i+1, in double, rounded to T (Box-Muller). The functions are those of the C library: on CUDA
  /// the CPU draws, and this waits for it.
  void (*normal)(const Context&, const RandomState& state, int64_t n, double mean, double stddev, T* y) = nullptr;

  // --- copy
  /// y (contiguous, row-major over `shape` [ndim <= 8]) = x read with `strides` in elements (0 repeats).
  void (*strided_copy)(const Context&, int ndim, const int64_t* shape, const int64_t* strides, const T* x,
                       T* y) = nullptr;

  // --- move
  /// y, read with `strides` in elements over `shape` [ndim <= 8] (no two elements in one place), = x (contiguous,
  /// row-major): where strided_copy reads, this writes.
  void (*strided_write)(const Context&, int ndim, const int64_t* shape, const int64_t* strides, const T* x,
                        T* y) = nullptr;
  void (*gather_sum)(const Context&, const GatherSum<T>&) = nullptr;
  void (*extend_beams)(const Context&, const BeamPicks&) = nullptr;

  // --- convert: to and from 16-bit floats, given as their bits (half.h says which); double by way of float
  void (*to_f16)(const Context&, int64_t n, const T* x, uint16_t* y) = nullptr;
  void (*from_f16)(const Context&, int64_t n, const uint16_t* x, T* y) = nullptr;
  void (*to_bf16)(const Context&, int64_t n, const T* x, uint16_t* y) = nullptr;
  void (*from_bf16)(const Context&, int64_t n, const uint16_t* x, T* y) = nullptr;

  // --- reduce
  /// Sum of all n elements, accumulated in double.
  double (*sum)(const Context&, int64_t n, const T* x) = nullptr;
  /// sum (a[i]-b[i])^2, accumulated in double.
  double (*sum_squared_difference)(const Context&, int64_t n, const T* a, const T* b) = nullptr;
  /// out[i] = sum_j x[i,j]
  void (*row_sum)(const Context&, int64_t rows, int64_t cols, const T* x, T* out) = nullptr;
  /// out[j] = sum_i x[i,j]
  void (*column_sum)(const Context&, int64_t rows, int64_t cols, const T* x, T* out) = nullptr;
  /// out[i] = sum_j x[i,j]^2
  void (*row_squared_norm)(const Context&, int64_t rows, int64_t cols, const T* x, T* out) = nullptr;
  /// out[i] = sum_j (x[i,j]-y[j])^2, of which the differences may be rounded to T
  void (*row_squared_distance)(const Context&, int64_t rows, int64_t cols, const T* x, const T* y, T* out) = nullptr;
  /// ids[i] = the lowest j with the smallest x[i,j]; NaN is never smallest; 0 if all are NaN. cols >= 1.
  void (*row_argmin)(const Context&, int64_t rows, int64_t cols, const T* x, int32_t* ids) = nullptr;

  // --- rows
  /// out[i] = x[ids[i]], rows of d; ids in range (the caller checks).
  void (*gather_rows)(const Context&, int64_t n, int64_t d, const T* x, const int32_t* ids, T* out) = nullptr;
  /// out[ids[i]] += x[i] for i = 0..n-1 in that order per row: out [rows,d] keeps what it held. Deterministic.
  void (*scatter_add_rows)(const Context&, int64_t n, int64_t d, int64_t rows, const int32_t* ids, const T* x,
                           T* out) = nullptr;

  // --- softmax (over each row; the maximum is subtracted first). cols >= 1.
  void (*log_sum_exp)(const Context&, int64_t rows, int64_t cols, const T* x, T* out) = nullptr;
  void (*softmax)(const Context&, int64_t rows, int64_t cols, const T* x, T* y) = nullptr;
  void (*log_softmax)(const Context&, int64_t rows, int64_t cols, const T* x, T* y) = nullptr;
  /// dx = y * (dy - sum_j dy y)
  void (*softmax_backward)(const Context&, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) = nullptr;
  /// dx = dy - exp(y) * sum_j dy
  void (*log_softmax_backward)(const Context&, int64_t rows, int64_t cols, const T* y, const T* dy, T* dx) = nullptr;

  // --- norm
  /// y = (x - mean) * rstd * gamma + beta per row, biased variance, rstd = 1/sqrt(var + eps); mean and rstd [rows] are
  /// kept for the backward pass.
  void (*layer_norm)(const Context&, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* beta, double eps,
                     T* y, T* mean, T* rstd) = nullptr;
  /// dx [rows,cols], dgamma [cols], dbeta [cols], all overwritten.
  void (*layer_norm_backward)(const Context&, int64_t rows, int64_t cols, const T* x, const T* gamma, const T* mean,
                              const T* rstd, const T* dy, T* dx, T* dgamma, T* dbeta) = nullptr;

  // --- optim
  /// One step of `count` parameters (the host's array), together: on CUDA a launch costs more than most of them.
  void (*adam)(const Context&, const AdamStep&, int64_t count, const AdamParameter<T>* parameters) = nullptr;
  /// n values p with gradients g, updated in place with their moments; `buf` may be null when momentum is 0.
  void (*sgd)(const Context&, const SgdStep&, int64_t n, T* p, const T* g, T* buf) = nullptr;

  // --- nearest
  /// ids[i] = argmin_k ||x_i - c_k||^2 (lowest k among equal computed values), x [n,d], c [K,d]; distances [n] (or
  /// null) is that squared distance, clamped at 0. Tiled: never holds n x K values. NaN is never nearest. K >= 1.
  void (*nearest)(const Context&, int64_t n, int64_t d, int64_t K, const T* x, const T* c, int32_t* ids,
                  T* distances) = nullptr;

  // --- candidate: the search of one QINCo step. Pack once, search many times; a pack is for this table only.
  /// Number of T that candidate_pack writes for a step of these sizes.
  int64_t (*candidate_packed_size)(int64_t K, int64_t d, int64_t h, int64_t L) = nullptr;
  /// packed is aligned to 64 bytes.
  void (*candidate_pack)(const Context&, const CandidateStep<T>&, T* packed) = nullptr;
  /// `packed` came from this table's candidate_pack for the same K, d, h, L.
  void (*candidate_search)(const Context&, int64_t K, int64_t d, int64_t h, int64_t L, const T* packed,
                           const CandidateSearch<T>&) = nullptr;
  // The screen alone, of candidates chosen by the caller, who compares what it leaves open. All three are null where
  // there is none: on AMX, where the floor of `linear` is below that of a screen in registers, and on CUDA.
  /// Number of T that candidate_screen_pack writes; 0 for steps too small to be screened: the others are not for them.
  int64_t (*candidate_screen_size)(int64_t K, int64_t d, int64_t h, int64_t L) = nullptr;
  /// packed is aligned to 64 bytes. The margins of a step packed for `fast` are infinite.
  void (*candidate_screen_pack)(const Context&, const CandidateStep<T>&, T* packed) = nullptr;
  /// A pair's results do not depend on the others. `packed` as for candidate_search.
  void (*candidate_screen)(const Context&, int64_t K, int64_t d, int64_t h, int64_t L, const T* packed,
                           const CandidateScreen<T>&) = nullptr;

  // --- topk
  /// The k smallest of each row, ascending, lowest index first among equals; NaN counts as +infinity. k <= cols.
  /// ids [rows,k]; values [rows,k] (or null) are the elements themselves.
  void (*topk)(const Context&, int64_t rows, int64_t cols, int64_t k, const T* x, int32_t* ids, T* values) = nullptr;
  /// The same of rows that come in pieces of columns. Of each row of ids and values [rows,k] the first `held` <= k are
  /// the best of the pieces before, and the first min(k, held + cols) become the best of those and x [rows,cols], whose
  /// ids are first_id + column, above those held. NaN is kept as +infinity, -0 as 0.
  void (*topk_merge)(const Context&, int64_t rows, int64_t cols, int64_t k, int64_t held, const T* x, int32_t first_id,
                     int32_t* ids, T* values) = nullptr;

  // --- scan. Scores are sums in a fixed order of T; a vector's does not depend on its place.
  void (*scan)(const Context&, const Scan<T>&) = nullptr;
};

/// The kernels of `isa` (clamped to the best available). T is float or double; double has the reference version only.
template <class T>
const Table<T>& table(Isa isa);
template <>
const Table<float>& table(Isa isa);
template <>
const Table<double>& table(Isa isa);

/// The kernels of `device`: the CPU's of the active ISA, or CUDA's (float and double). Throws where check_device does.
template <class T>
const Table<T>& table(Device device);
template <>
const Table<float>& table(Device device);
template <>
const Table<double>& table(Device device);

/// The CPU's kernels of the active ISA. Call once per operation on whole matrices, outside every loop.
template <class T>
const Table<T>& table() {
  return table<T>(active_isa());
}

}  // namespace qinco::kernels
