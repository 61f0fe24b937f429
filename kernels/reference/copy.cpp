// Strided copy: materialises a transposed, sliced or expanded view. It only moves data, so this is the one version.
#include <algorithm>
#include <cstring>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

constexpr int kMaxDims = 8;
constexpr int64_t kBand = 32;  // rows of a band, the unit of work
constexpr int64_t kStrip = 8;  // columns of a strip

// The view with dimensions of size 1 dropped and neighbours merged where one continues the other: the last dimension
// is as long as can be.
struct View {
  int ndim = 0;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];

  View(int source_ndim, const int64_t* source_shape, const int64_t* source_strides) {
    for (int i = 0; i < source_ndim; ++i) {
      if (source_shape[i] == 1) continue;
      if (ndim > 0 && strides[ndim - 1] == source_shape[i] * source_strides[i]) {
        shape[ndim - 1] *= source_shape[i];
        strides[ndim - 1] = source_strides[i];
      } else {
        shape[ndim] = source_shape[i];
        strides[ndim++] = source_strides[i];
      }
    }
    while (ndim < 2) {  // a leading 1, so that there is always a matrix [rows, cols] at the end
      for (int i = ndim; i > 0; --i) {
        shape[i] = shape[i - 1];
        strides[i] = strides[i - 1];
      }
      shape[0] = 1;
      strides[0] = 0;
      ++ndim;
    }
  }
};

// Where the matrix number `index` of the leading dimensions begins in the source.
int64_t source_offset(const View& view, int64_t index) {
  int64_t offset = 0;
  for (int i = view.ndim - 3; i >= 0; --i) {
    offset += index % view.shape[i] * view.strides[i];
    index /= view.shape[i];
  }
  return offset;
}

// y [rows, width] with leading dimension cols = x by strides. The strip of a transpose is narrow, so that the source
// lines in flight stay in L1 even where they are a power of two apart and share its sets.
template <class T>
[[gnu::always_inline]] inline void copy_strip(const T* __restrict x, int64_t row_stride, int64_t col_stride,
                                              int64_t rows, int64_t cols, int64_t width, T* __restrict y) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < width; ++j) y[i * cols + j] = x[i * row_stride + j * col_stride];
}

template <class T>
void copy_band(const T* x, int64_t row_stride, int64_t col_stride, int64_t rows, int64_t cols, T* y) {
  if (col_stride == 1) {
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(y + i * cols, x + i * row_stride, sizeof(T) * static_cast<size_t>(cols));
    return;
  }
  if (col_stride == 0) {  // the gradient of a sum over rows
    for (int64_t i = 0; i < rows; ++i) std::fill_n(y + i * cols, cols, x[i * row_stride]);
    return;
  }
  const auto copy_strips = [&](int64_t step) __attribute__((always_inline)) {
    int64_t j = 0;
    for (; j + kStrip <= cols; j += kStrip) copy_strip(x + j * col_stride, step, col_stride, rows, cols, kStrip, y + j);
    copy_strip(x + j * col_stride, step, col_stride, rows, cols, cols - j, y + j);
  };
  // Constants, once inlined: a plain transpose is vectorised, and the width of a strip unrolled.
  row_stride == 1 ? copy_strips(1) : copy_strips(row_stride);
}

template <class T>
void strided_copy(const Context& context, int ndim, const int64_t* shape, const int64_t* strides, const T* x, T* y) {
  for (int i = 0; i < ndim; ++i)
    if (shape[i] == 0) return;
  const View view(ndim, shape, strides);
  const int64_t rows = view.shape[view.ndim - 2], cols = view.shape[view.ndim - 1];
  const int64_t row_stride = view.strides[view.ndim - 2], col_stride = view.strides[view.ndim - 1];
  int64_t matrices = 1;
  for (int i = 0; i < view.ndim - 2; ++i) matrices *= view.shape[i];

  // The unit of work is a band of kBand rows of one matrix.
  const int64_t bands = (rows + kBand - 1) / kBand;
  parallel_for(context, matrices * bands, row_grain(kBand * cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t matrix = unit / bands, row = unit % bands * kBand;
      const int64_t count = std::min(kBand, rows - row);
      copy_band(x + source_offset(view, matrix) + row * row_stride, row_stride, col_stride, count, cols,
                y + (matrix * rows + row) * cols);
    }
  });
}

}  // namespace

template <class T>
void fill_copy(Table<T>& t) {
  t.strided_copy = strided_copy<T>;
}
template void fill_copy(Table<float>&);
template void fill_copy(Table<double>&);

}  // namespace qinco::kernels::reference
