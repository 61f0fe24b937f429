// How a product's tiles are shared out among threads: by the sizes alone, never by the number of threads.
#pragma once

#include "kernels/cpu/pack.h"
#include "kernels/parallel.h"

QINCO_CPU_NAMESPACE_BEGIN

/// A tile, and the least multiply-adds that are worth a task.
struct TileSize {
  int64_t rows = kTileRows, columns = kTileCols;
  int64_t least_work = int64_t{1} << 18;
};

/// Tasks of rows x columns of tiles, for a product [m,n] of k steps of multiply-adds.
class Tasks {
 public:
  Tasks(int64_t m, int64_t n, int64_t k, const TileSize& tile = {}) : m_(m), n_(n) {
    constexpr int64_t kPanels = 8;  // at most this many row panels a task
    constexpr int64_t kTasks = 16;  // aim for at least this many tasks
    const int64_t row_panels = blocks_of(m, tile.rows), column_panels = blocks_of(n, tile.columns);
    rows_ = larger(1, smaller(kPanels, row_panels / kTasks)) * tile.rows;
    const int64_t down = blocks_of(m, rows_);
    columns_ = blocks_of(column_panels, smaller(column_panels, blocks_of(kTasks, down))) * tile.columns;
    across_ = blocks_of(n, columns_);
    count_ = down * across_;
    grain_ = larger(1, tile.least_work / larger(1, rows_ * columns_ * k));
  }

  /// Rows of a task, at most.
  int64_t rows() const { return rows_; }

  /// body(row, row_end, column, column_end, worker) for every task.
  template <class Body>
  void for_each(const Context& context, Body&& body) const {
    parallel_for(context, count_, grain_, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t row = t / across_ * rows_, column = t % across_ * columns_;
        body(row, smaller(m_, row + rows_), column, smaller(n_, column + columns_), worker);
      }
    });
  }

 private:
  int64_t m_, n_;
  int64_t rows_, columns_;
  int64_t across_, count_;  // tasks per row of tasks, and in all
  int64_t grain_;
};

QINCO_CPU_NAMESPACE_END
