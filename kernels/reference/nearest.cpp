// Nearest codeword: the definition, by direct differences.
#include <limits>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void nearest(const Context& context, int64_t n, int64_t d, int64_t K, const T* x, const T* c, int32_t* ids,
             T* distances) {
  parallel_for(context, n, row_grain(K * d), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      double best = std::numeric_limits<double>::infinity();
      ids[i] = 0;
      for (int64_t k = 0; k < K; ++k) {
        double distance = 0;
        for (int64_t j = 0; j < d; ++j) {
          const double difference = static_cast<double>(x[i * d + j]) - static_cast<double>(c[k * d + j]);
          distance += difference * difference;
        }
        if (distance < best) {
          best = distance;
          ids[i] = static_cast<int32_t>(k);
        }
      }
      if (distances) distances[i] = static_cast<T>(best);
    }
  });
}

}  // namespace

template <class T>
void fill_nearest(Table<T>& t) {
  t.nearest = nearest<T>;
}
template void fill_nearest(Table<float>&);
template void fill_nearest(Table<double>&);

}  // namespace qinco::kernels::reference
