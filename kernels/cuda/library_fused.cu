// cuBLASLt behind library.h: products that end with bias, an added matrix and relu, in one kernel.
#include <algorithm>
#include <array>
#include <cstring>
#include <cublasLt.h>
#include <map>
#include <mutex>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library.h"
#include "kernels/cuda/library_status.h"

namespace qinco::kernels::cuda {

namespace {

constexpr size_t kWorkspace = size_t{8} << 20;

// What the pointers of a Gemm are to.
struct Types {
  cudaDataType_t operands = CUDA_R_32F, result = CUDA_R_32F;
};

// One product, as cuBLASLt wants it told. Its matrices are columns behind each other, so the operands change places.
class Product {
 public:
  // addend: what is added, times beta; null: nothing.
  Product(const Gemm<float>& g, const float* addend, int64_t ldadd, float beta, Types types)
      : g_(g), addend_(addend ? addend : g.c), beta_(beta) {
    const bool fast = g.precision == Precision::fast;
    set(cublasLtMatmulDescInit(&what_, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    attribute(CUBLASLT_MATMUL_DESC_TRANSA, g.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    attribute(CUBLASLT_MATMUL_DESC_TRANSB, g.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    const cublasLtEpilogue_t end = g.bias   ? g.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS
                                   : g.relu ? CUBLASLT_EPILOGUE_RELU
                                            : CUBLASLT_EPILOGUE_DEFAULT;
    attribute(CUBLASLT_MATMUL_DESC_EPILOGUE, end);
    if (g.bias) attribute(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    layout(b_, types.operands, g.trans_b ? g.k : g.n, g.trans_b ? g.n : g.k, g.ldb);
    layout(a_, types.operands, g.trans_a ? g.m : g.k, g.trans_a ? g.k : g.m, g.lda);
    layout(added_, types.result, g.n, g.m, addend ? ldadd : g.ldc);
    layout(c_, types.result, g.n, g.m, g.ldc);
  }

  cublasStatus_t status() const { return status_; }

  // The algorithm that cuBLASLt thinks best; false if it has none, or cannot say (status()).
  bool choose(cublasLtHandle_t handle, cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulPreference_t wanted;
    set(cublasLtMatmulPreferenceCreate(&wanted));
    if (status_ != CUBLAS_STATUS_SUCCESS) return false;
    const auto want = [&](cublasLtMatmulPreferenceAttributes_t name, auto value) {
      set(cublasLtMatmulPreferenceSetAttribute(wanted, name, &value, sizeof value));
    };
    want(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    // Sums of parts in the workspace, in an order that is always the same.
    want(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(g_.b));
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(g_.a));
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(addend_));
    // There is no wish for the bias: what is asked of D holds for it, too.
    want(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::min(alignment(g_.c), alignment(g_.bias)));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    if (status_ == CUBLAS_STATUS_SUCCESS)
      set(cublasLtMatmulAlgoGetHeuristic(handle, &what_, &b_, &a_, &added_, &c_, wanted, 1, &best, &found));
    cublasLtMatmulPreferenceDestroy(wanted);
    algorithm = best.algo;
    return status_ == CUBLAS_STATUS_SUCCESS && found > 0;
  }

  cublasStatus_t queue(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm, void* workspace,
                       cudaStream_t stream) {
    const float one = 1;
    return cublasLtMatmul(handle, &what_, &one, g_.b, &b_, g_.a, &a_, &beta_, addend_, &added_, g_.c, &c_, &algorithm,
                          workspace, kWorkspace, stream);
  }

  static uint32_t alignment(const void* pointer) {
    const auto place = reinterpret_cast<uintptr_t>(pointer) | 256;
    return static_cast<uint32_t>(place & -place);
  }

 private:
  void set(cublasStatus_t status) {
    if (status_ == CUBLAS_STATUS_SUCCESS) status_ = status;
  }
  template <class Value>
  void attribute(cublasLtMatmulDescAttributes_t name, Value value) {
    set(cublasLtMatmulDescSetAttribute(&what_, name, &value, sizeof value));
  }
  void layout(cublasLtMatrixLayoutOpaque_t& of, cudaDataType_t type, int64_t rows, int64_t columns, int64_t leading) {
    set(cublasLtMatrixLayoutInit(&of, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), leading));
  }

  const Gemm<float>& g_;
  const float* addend_;
  float beta_;
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
  cublasLtMatmulDescOpaque_t what_{};
  cublasLtMatrixLayoutOpaque_t a_{}, b_{}, c_{}, added_{};
};

// All that an algorithm is chosen by.
using Shape = std::array<int64_t, 9>;

Shape shape_of(const Gemm<float>& g, const float* addend, int64_t ldadd, Types types) {
  const int64_t flags = g.trans_a | g.trans_b << 1 | (g.bias != nullptr) << 2 | g.relu << 3 | (addend != nullptr) << 4 |
                        (addend == g.c) << 5 | (g.precision == Precision::fast) << 6 |
                        (types.operands != CUDA_R_32F) << 7 | (types.result != CUDA_R_32F) << 8;
  int64_t alignments = 0;
  for (const float* operand : {g.a, g.b, addend, static_cast<const float*>(g.c), g.bias})
    alignments = alignments << 10 | Product::alignment(operand);
  return {g.m, g.n, g.k, g.lda, g.ldb, g.ldc, ldadd, flags, alignments};
}

struct Choice {
  bool found;
  cublasLtMatmulAlgo_t algorithm;
};

// One device's: calls of several threads take turns.
struct Chosen {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::map<Shape, Choice> choices;
};

constexpr size_t kMostChoices = 4096;

Chosen* chosen_of(int index) {
  static auto* const all = new Chosen[kMaxDevices];  // never destroyed: the driver may be gone by then
  return index < kMaxDevices ? all + index : nullptr;
}

// Queues C = act(beta addend + op(A) op(B) + bias), or says why not.
cublasStatus_t queue_product(const Context& context, const Gemm<float>& g, const float* addend, int64_t ldadd,
                             float beta, Types types) {
  Product product(g, addend, ldadd, beta, types);
  use_device(context.device.index);
  Chosen* const all = chosen_of(context.device.index);
  if (!all) return CUBLAS_STATUS_INVALID_VALUE;
  if (product.status() != CUBLAS_STATUS_SUCCESS) return product.status();
  const std::lock_guard lock(all->mutex);
  if (!all->handle) {
    const auto create = [all] { return cublasLtCreate(&all->handle); };
    const cublasStatus_t status = create_handle(context.device.index, create);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  const Shape shape = shape_of(g, addend, ldadd, types);
  auto known = all->choices.find(shape);
  if (known == all->choices.end()) {
    if (all->choices.size() >= kMostChoices) all->choices.clear();
    Choice choice{};
    choice.found = product.choose(all->handle, choice.algorithm);
    const bool said = product.status() == CUBLAS_STATUS_SUCCESS || product.status() == CUBLAS_STATUS_NOT_SUPPORTED;
    if (!said) return product.status();
    known = all->choices.emplace(shape, choice).first;
  }
  if (!known->second.found) return CUBLAS_STATUS_NOT_SUPPORTED;
  ScratchFrame frame(context);
  return product.queue(all->handle, known->second.algorithm, frame.get<char>(static_cast<int64_t>(kWorkspace)),
                       stream_of(context));
}

// C = act(own C + A B^T) of rows in bfloat16.
void queue_rounded(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                   bool accumulate, bool relu, void* c, cudaDataType_t result) {
  Gemm<float> g;
  g.m = m, g.n = n, g.k = k;
  g.a = reinterpret_cast<const float*>(a), g.lda = k;
  g.b = reinterpret_cast<const float*>(b), g.ldb = k, g.trans_b = true;
  g.c = static_cast<float*>(c), g.ldc = n;
  g.relu = relu;
  const Types types{CUDA_R_16BF, result};
  check_cublas(queue_product(context, g, accumulate ? g.c : nullptr, n, accumulate ? 1 : 0, types));
}

}  // namespace

bool fused_product(const Context& context, const Gemm<float>& g, float own) {
  if (own != 0 && g.residual) return false;
  if (g.residual && g.ldr < g.n) return false;  // one row for all
  const float* const addend = own != 0 ? g.c : g.residual;
  const int64_t ldadd = own != 0 ? g.ldc : g.residual ? g.ldr : 0;
  const cublasStatus_t status = queue_product(context, g, addend, ldadd, own != 0 ? own : addend ? 1.0f : 0.0f, {});
  if (status == CUBLAS_STATUS_EXECUTION_FAILED) check_cublas(status);  // else before any work
  return status == CUBLAS_STATUS_SUCCESS;
}

void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     bool accumulate, float* c) {
  queue_rounded(context, m, n, k, a, b, accumulate, false, c, CUDA_R_32F);
}

void rounded_product(const Context& context, int64_t m, int64_t n, int64_t k, const uint16_t* a, const uint16_t* b,
                     uint16_t* c) {
  queue_rounded(context, m, n, k, a, b, false, true, c, CUDA_R_16BF);
}

}  // namespace qinco::kernels::cuda
