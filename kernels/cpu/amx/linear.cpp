// The product with weights packed once, y = x W^T, on the matrix unit at near-float precision.
#include "kernels/cpu/amx/split_product.h"
#include "kernels/cpu/pack.h"
#include "kernels/families.h"

QINCO_CPU_NAMESPACE_BEGIN

constexpr int64_t kBlocksTogether = 4;  // of 32 rows: the splitting of all but the first hides behind products

// Parts of the columns: of weights that L2 keeps while rows pass over them, and more where rows make few tasks. Each of
// 8 blocks or more, which hide the splitting of the next 32 rows.
int64_t column_parts(int64_t n, int64_t k, int64_t row_tasks) {
  constexpr int64_t kWeights = int64_t{1} << 18, kTasks = 16, kLeastBlocks = 8;  // a weight is two parts, 4 bytes
  const int64_t wanted = larger(blocks_of(part_values(n, k), kWeights), blocks_of(kTasks, row_tasks));
  return larger(1, smaller(wanted, blocks(n) / kLeastBlocks));
}

int64_t linear_packed_size(int64_t n, int64_t k, Precision) {
  return part_values(n, k);  // two parts of half a float each
}

void linear_pack(const Context& context, int64_t n, int64_t k, const float* w, int64_t ldw, Precision, float* packed) {
  Bf16* const first = reinterpret_cast<Bf16*>(packed);
  pack_weights(context, w, ldw, n, k, first, first + part_values(n, k));
}

void linear(const Context& context, const Linear<float>& l) {
  if (l.m <= 0 || l.n <= 0) return;
  if (l.k <= 0) {  // float reads no weights then
    Linear<float> sums = l;
    sums.precision = Precision::exact;
    return table<float>(Isa::avx512).linear(context, sums);
  }
  const int64_t down = blocks_of(blocks(l.m), kBlocksTogether), across = column_parts(l.n, l.k, down);
  const int64_t scratch_size = split_scratch(l.k);
  ScratchFrame frame(context);
  float* const scratch = frame.get<float>(context.threads * scratch_size);
  parallel_for(context, down * across, 1, [&](int64_t task, int64_t, int worker) {
    const TileScope tiles;
    const int64_t row = task % down * kBlocksTogether, part = task / down;
    multiply_blocks(l, {row, smaller(row + kBlocksTogether, blocks(l.m))},
                    {blocks(l.n) * part / across, blocks(l.n) * (part + 1) / across}, scratch + worker * scratch_size);
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
