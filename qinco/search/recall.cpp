#include "qinco/search/recall.h"

#include <algorithm>

#include "kernels/check.h"

namespace qinco {

double recall_at(const Tensor& ids, const Tensor& groundtruth, int64_t R) {
  const int64_t nq = ids.size(0), k = ids.size(1);
  check(nq >= 1 && groundtruth.size(0) == nq, "recall: results for {} queries, ground truth for {}", nq,
        groundtruth.size(0));
  check(groundtruth.size(1) >= 1, "recall: a ground truth without neighbours");
  const Tensor all = ids.contiguous(), nearest = groundtruth.slice(1, 0, 1).contiguous();
  const int32_t* const found = all.data<int32_t>();
  const int32_t* const truth = nearest.data<int32_t>();
  int64_t hits = 0;
  for (int64_t i = 0; i < nq; ++i) {
    const int32_t* row = found + i * k;
    const int32_t* end = row + std::min(R, k);
    hits += std::find(row, end, truth[i]) != end;
  }
  return static_cast<double>(hits) / static_cast<double>(nq);
}

}  // namespace qinco
