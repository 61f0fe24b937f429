#include "qinco/search/recall.h"

#include <algorithm>

#include "kernels/check.h"

namespace qinco {

double recall_at(const Tensor& ids, const Tensor& groundtruth, int64_t R) {
  const int64_t nq = ids.size(0), k = ids.size(1);
  check(nq >= 1 && groundtruth.size(0) == nq, "recall: results for {} queries, ground truth for {}", nq,
        groundtruth.size(0));
  const int32_t* found = ids.data<int32_t>();
  const int32_t* truth = groundtruth.data<int32_t>();
  int64_t hits = 0;
  for (int64_t i = 0; i < nq; ++i) {
    const int32_t* row = found + i * k;
    const int32_t* end = row + std::min(R, k);
    hits += std::find(row, end, truth[i * groundtruth.size(1)]) != end;
  }
  return static_cast<double>(hits) / static_cast<double>(nq);
}

}  // namespace qinco
