// The product with weights packed once, y = x W^T, on the matrix unit at near-float precision.
#include "kernels/cpu/amx/split_product.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kBlocksTogether = 4;  // of 32 rows: the splitting of all but the first hides behind products

int64_t linear_packed_size(int64_t n, int64_t k, Precision) {
  return part_values(n, k);  // two parts of half a float each
}

void linear_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, Precision, float* packed) {
  Bf16* const first = reinterpret_cast<Bf16*>(packed);
  pack_weights(context, w, ldw, n, k, first, first + part_values(n, k));
}

void linear(const Context& context, const Linear<float>& l) {
  if (l.m <= 0 || l.n <= 0) return;
  const int64_t scratch_size = split_scratch(l.k);
  ScratchFrame frame(context);
  float* const scratch = frame.get<float>(context.threads * scratch_size);
  parallel_for(context, blocks(l.m), kBlocksTogether, [&](int64_t begin, int64_t end, int worker) {
    const TileScope tiles;
    multiply_blocks(l, begin, end, scratch + worker * scratch_size);
  });
}

QINCO_CPU_NAMESPACE_END

namespace qinco::kernels::QINCO_CPU_ISA {

void fill_linear(Table<float>& t) {
  t.linear_packed_size = linear_packed_size;
  t.linear_pack = linear_pack;
  t.linear = linear;
}

}  // namespace qinco::kernels::QINCO_CPU_ISA
