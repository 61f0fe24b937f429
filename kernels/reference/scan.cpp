// Scan by look-up tables: the definition, by insertion into the sorted results.
#include <limits>

#include "kernels/families.h"
#include "kernels/parallel.h"

namespace qinco::kernels::reference {

namespace {

template <class T>
void scan(const Context& context, const Scan<T>& all) {
  const int64_t k = all.k, M = all.M;
  if (k == 0) return;
  parallel_for(context, all.nq, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t q = first; q < last; ++q) {
      const ScanQuery<T>& query = all.queries[q];
      int64_t* const ids = all.ids + q * k;
      T* const scores = all.scores + q * k;
      int64_t held = 0;
      for (int64_t l = 0; l < query.lists; ++l) {
        const ScanList<T>& list = query.list[l];
        for (int64_t i = 0; i < list.n; ++i) {
          T score = list.bias;
          if (list.norms) score += list.norms[i];
          for (int64_t m = 0; m < M; ++m) score += query.tables[m * kScanEntries + list.codes[scan_place(i, m, M)]];
          const int64_t id = list.first + i;
          const auto before = [&](int64_t at) {  // whether this vector comes before result `at`
            return score < scores[at] || (score == scores[at] && id < ids[at]);
          };
          if (score != score || (held == k && !before(k - 1))) continue;
          int64_t place = held < k ? held++ : k - 1;
          for (; place > 0 && before(place - 1); --place)
            scores[place] = scores[place - 1], ids[place] = ids[place - 1];
          scores[place] = score;
          ids[place] = id;
        }
      }
      for (; held < k; ++held) ids[held] = -1, scores[held] = std::numeric_limits<T>::infinity();
    }
  });
}

}  // namespace

template <class T>
void fill_scan(Table<T>& t) {
  t.scan = scan<T>;
}
template void fill_scan(Table<float>&);
template void fill_scan(Table<double>&);

}  // namespace qinco::kernels::reference
