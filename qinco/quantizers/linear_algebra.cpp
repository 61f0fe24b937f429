#include "qinco/quantizers/linear_algebra.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <cassert>

#include "kernels/check.h"

namespace qinco {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Eigen::Index kColumns = 128;  // of a block, as in Eigen's own decomposition, which has no place for a poll

/// The Cholesky decomposition in place of the lower triangle of a symmetric matrix, with a poll before each block
/// column. False where the matrix is not positive definite.
bool cholesky(Eigen::Ref<Eigen::MatrixXd> matrix, const std::function<void()>& poll) {
  const Eigen::Index n = matrix.rows();
  for (Eigen::Index begin = 0; begin < n; begin += kColumns) {
    if (poll) poll();
    const Eigen::Index width = std::min(kColumns, n - begin), rest = n - begin - width;
    Eigen::Ref<Eigen::MatrixXd> corner = matrix.block(begin, begin, width, width);
    if (Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>>(corner).info() != Eigen::Success) return false;
    auto below = matrix.block(begin + width, begin, rest, width);
    corner.transpose().triangularView<Eigen::Upper>().solveInPlace<Eigen::OnTheRight>(below);
    matrix.bottomRightCorner(rest, rest).selfadjointView<Eigen::Lower>().rankUpdate(below, -1);
  }
  return true;
}

}  // namespace

Tensor procrustes(const Tensor& cross) {
  const int64_t d = cross.size(0);
  check(cross.dim() == 2 && cross.size(1) == d, "rotation: expected a square matrix, found {}", cross.shape());
  const Tensor rows = cross.contiguous();
  const Eigen::MatrixXd matrix = Eigen::Map<const RowMajor<float>>(rows.data<float>(), d, d).cast<double>();
  check(matrix.allFinite(), "rotation: the vectors hold NaN or infinity, or values too large for their products");
  // trace(A X^T Y) is largest for A = V U^T, where X^T Y = U S V^T. V is that of (X^T Y)^T X^T Y = V S^2 V^T, and X^T Y
  // V = U S is the QR decomposition of itself, with the largest values first: small ones, in which V is less exact,
  // come to lie across the others. (Eigen's SVD takes the compiler half a minute more.)
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> squared(matrix.transpose() * matrix);
  check(squared.info() == Eigen::Success, "rotation: no eigenvectors found for a matrix of {} x {}", d, d);
  const Eigen::MatrixXd v = squared.eigenvectors().rowwise().reverse();
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(matrix * v);
  Eigen::MatrixXd u = qr.householderQ();
  for (int64_t i = 0; i < d; ++i)
    if (qr.matrixQR()(i, i) < 0) u.col(i) *= -1;
  Tensor rotation = Tensor::empty({d, d});
  Eigen::Map<RowMajor<float>>(rotation.data<float>(), d, d) = (v * u.transpose()).cast<float>();
  return rotation;
}

void solve_ridge(int64_t n, int64_t m, double ridge, std::vector<double>& gram, std::vector<double>& right,
                 const std::function<void()>& poll) {
  assert(static_cast<int64_t>(gram.size()) == n * n && static_cast<int64_t>(right.size()) == n * m);
  for (int64_t i = 0; i < n; ++i) gram[i * n + i] += ridge;
  // The matrix is symmetric: read as column-major it is the same, and Eigen is faster on it.
  Eigen::Map<Eigen::MatrixXd> matrix(gram.data(), n, n);
  check(cholesky(matrix, poll), "least squares: the normal equations of {} unknowns are singular", n);
  const auto factor = matrix.triangularView<Eigen::Lower>();
  Eigen::Map<RowMajor<double>> solution(right.data(), n, m);
  for (Eigen::Index begin = 0; begin < m; begin += kColumns) {
    if (poll) poll();
    auto columns = solution.middleCols(begin, std::min<Eigen::Index>(kColumns, m - begin));
    factor.solveInPlace(columns);
    factor.transpose().solveInPlace(columns);
  }
}

}  // namespace qinco
