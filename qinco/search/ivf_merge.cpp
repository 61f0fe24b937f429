#include <algorithm>
#include <deque>
#include <filesystem>
#include <system_error>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "qinco/search/ivf_index.h"
#include "qinco/search/ivf_lock.h"

namespace qinco {
namespace {

void take_segment(const IvfSegment& segment, int64_t width, IvfEntries& all) {
  using kernels::kScanBlock;
  int64_t block = 0;
  for (int64_t piece = 0; piece < segment.pieces; ++piece) {
    for (int64_t i = 0; i < segment.counts[piece]; ++i) {
      all.lists.push_back(segment.lists[piece]);
      all.ids.push_back(segment.ids[block * kScanBlock + i]);
      for (int64_t m = 0; m < width; ++m)
        all.bytes.push_back(segment.codes[kernels::scan_place(block * kScanBlock + i, m, width)]);
    }
    block += (segment.counts[piece] + kScanBlock - 1) / kScanBlock;
  }
}

/// Sorted, with neighbours joined.
std::vector<IdRange> joined(std::vector<IdRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<IdRange> result;
  for (const IdRange& range : ranges) {
    if (!result.empty() && result.back().second == range.first) {
      result.back().second = range.second;
    } else {
      result.push_back(range);
    }
  }
  return result;
}

}  // namespace

void merge_indexes(const std::vector<std::string>& paths, const std::string& output) {
  check(!paths.empty(), "merge: no indexes");
  std::deque<IvfLock> locks;  // what somebody added meanwhile would be lost when `output` takes the place of an input
  std::vector<IvfFile> files;
  IvfEntries all;
  for (const std::string& path : paths) {
    std::error_code missing;
    locks.emplace_back(path, std::filesystem::equivalent(path, output, missing), "merge");
    files.push_back(IvfFile::open(path));
    check(same_build(files.back().parameters(), files.front().parameters()),
          "{}: not a copy of the index that {} is one of: built apart", path, paths.front());
    for (const IvfSegment& segment : files.back().segments()) {
      check_disjoint(path, all.ranges, segment.ranges);
      all.ranges.insert(all.ranges.end(), segment.ranges.begin(), segment.ranges.end());
      take_segment(segment, files.back().parameters().width(), all);
    }
  }
  all.ranges = joined(std::move(all.ranges));
  IvfFile::create(output, files.front().parameters(), all);
}

}  // namespace qinco
