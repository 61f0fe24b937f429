#include "qinco/quantizers/linear_algebra.h"

#include <Eigen/Cholesky>
#include <Eigen/SVD>
#include <cassert>

#include "kernels/check.h"

namespace qinco {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

Tensor procrustes(const Tensor& cross) {
  const int64_t d = cross.size(0);
  assert(cross.dim() == 2 && cross.size(1) == d && cross.is_contiguous());
  const Eigen::MatrixXd matrix = Eigen::Map<const RowMajor<float>>(cross.data<float>(), d, d).cast<double>();
  // trace(A X^T Y) is largest for A = V U^T, where X^T Y = U S V^T.
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(matrix, Eigen::ComputeFullU | Eigen::ComputeFullV);
  Tensor rotation = Tensor::empty({d, d});
  Eigen::Map<RowMajor<float>>(rotation.data<float>(), d, d) = (svd.matrixV() * svd.matrixU().transpose()).cast<float>();
  return rotation;
}

void solve_ridge(int64_t n, int64_t m, double ridge, std::vector<double>& gram, std::vector<double>& right) {
  assert(static_cast<int64_t>(gram.size()) == n * n && static_cast<int64_t>(right.size()) == n * m);
  for (int64_t i = 0; i < n; ++i) gram[i * n + i] += ridge;
  // The matrix is symmetric: read as column-major it is the same, and Eigen is faster on it.
  Eigen::Map<Eigen::MatrixXd> matrix(gram.data(), n, n);
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factor(matrix);
  check(factor.info() == Eigen::Success, "least squares: the normal equations of {} unknowns are singular", n);
  Eigen::Map<RowMajor<double>> solution(right.data(), n, m);
  factor.solveInPlace(solution);
}

}  // namespace qinco
